"""Hooks: signed requests from outside that start a job, ``POST /hooks/<name>``.

::

    request ──► receiver ──► index ──► signatures ──► filters ──► operations.deliver ──► a run
                limits       copies    sender,        may be      one for each          waits
                              in the    time, id       ignored     delivery id
                              ledger

A hook is a settings document (`documents`), stored like a secret or a destination. The web server
decrypts the hooks' copies in the ledger (`index`) with the home's key, so it does not need Prefect.
`signatures` has the schemes by which a request proves its sender, and `filters` has the conditions
on the payload. The run's occurrence key contains the delivery's id, so a repeated delivery starts
no second run. The keeper creates the Prefect run, as for every waiting run.
"""

from daybook.feature import Commands, Feature

FEATURE = Feature(
    package=__name__,
    commands=(
        Commands(
            "More",
            "commands",
            ("add", "list", "show", "rotate", "test", "remove"),
            "hooks",
            "Manage signed requests that start a job",
        ),
    ),
    operations="client:Hooks",
    documents=("documents:STORE",),
    blocks=("block:HookBlock",),
    settings="operator_settings:HookSizes",
    pages="page",
    endpoint="receiver:HookReceiver.of",
)
