"""The HTTP server of this machine: Daybook's pages, `/health` for monitors, and `/metrics`.

::

    `daybook up` ──► operations.web ──┐
    `daybook web` ────────────────────┴──► python -m daybook.web
                                                    │
                                                    ▼
                                                  Guard ──► app ──► operations.health
                                                                ├──► metrics
                                                                └──► login ──► pages ──► api

The server is a process of its own, so it answers even if the worker, the keeper or Prefect does
not. It imports nothing of Prefect until a page needs it, and listens only on this machine unless it
gets another address. It reads the ledger; opening a ledger creates or migrates it. While no keeper
leads, the server writes a marker to the ledger, to check that the ledger can be written. Every
client that reaches `/health` can read the names of jobs that are late or failing.

The pages need a login (`daybook.web.login`). A server that listens on another address than this
machine's own has no pages. `daybook.web.pages` has one module for each noun.
"""
