"""Named settings documents: Prefect blocks and their encrypted copies in the ledger.

`store` reads and writes the blocks of agents, secrets, tool servers, channels, destinations and
hooks. `copies` keeps an encrypted copy of each block in the ledger (`encryption`), and `mirror`
restores blocks that Prefect lost. `secrets` has values that jobs refer to as ``{{secret:name}}``.
"""
