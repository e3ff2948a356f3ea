"""Operations of Daybook, one module per noun, and the public API for programs.

::

    command line, MCP, web, programs ──► Operations (this package) ──► ledger, Prefect

    agents … views                           operations, and `views` of their results
    client, sync_client, context             `Client`, `SyncClient`, `context`
    recurring, listening                     `Recurring`, `listening`, over `sync_wrapper`

Contract: an operation is an async function that takes plain values and returns plain JSON-ready
dictionaries (`views` and `task_views` describe their shapes), or raises an error of
`daybook.errors`. An operation that changes something in Prefect raises `PrefectUnreachable`, before
it writes anything, if Prefect is not reachable. Operations that only read the ledger work without
Prefect. Programs import the names of the last two lines from `daybook`.

Pitfall: each operation imports only what it needs, so that `list` starts without Prefect and `next`
without a database. For the same reason this file imports nothing.
"""
