"""Operations of Daybook, one module per noun, and the public API for programs.

::

    command line, MCP, web, programs ──► Operations (this package) ──► ledger, Prefect

    agents … views                           operations, and `views` of their results
    client, sync_client, context             `Client`, `SyncClient`, `context`
    task_client, blocking                    `Client.tasks`; methods without `await`
    recurring, listening                     `Recurring`, `listening`, over `sync_wrapper`

Contract: an operation is an async function that takes plain values. It returns models, those of
`daybook.tasks.views`, or JSON-ready dictionaries, which `views` describes, or raises an error of
`daybook.errors`. An operation that changes something in Prefect raises `PrefectUnreachable`, before
it writes anything, if Prefect is not reachable. Operations that only read the ledger work without
Prefect. Programs import `Client`, `SyncClient`, `context`, `Recurring` and `listening` from
`daybook`.

Pitfall: each operation imports only what it needs, so that `list` starts without Prefect and `next`
without a database. For the same reason this file imports nothing.
"""
