"""The HTTP server of this machine: Daybook's pages, `/health` for monitors, and `/metrics`.

::

    `daybook up` ──► operations.web ──┐
    `daybook web` ────────────────────┴──► python -m daybook.web
                                                    │
                                                    ▼
                                                  Guard ──► app ──► operations.health
                                                                ├──► metrics
                                                                └──► login ──► pages ──► api

It is a process of its own, so that it answers when the worker, the keeper or Prefect does not. It
reads the ledger (opening a ledger creates or migrates it), imports nothing of Prefect until a page
needs it, and listens only on this machine unless it gets another address. Every client that reaches
`/health` can read the names of jobs that are late or failing. While no keeper leads, it writes a
marker to the ledger, to check that the ledger can be written.

The pages need a login (`daybook.web.login`), and exist only if the server listens on this machine
only. `daybook.web.pages` has one module for each noun.
"""
