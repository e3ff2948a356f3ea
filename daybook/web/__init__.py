"""The HTTP server of this machine: Daybook's pages, hooks, `/health` and `/metrics`.

::

    `daybook up` ──► operations.web ──┐
    `daybook web` ────────────────────┴──► python -m daybook.web
                                                    │
                                                    ▼
                                                  Guard ──► app ──► diagnosis.health
                                                                ├──► metrics
                                                                ├──► endpoints of features
                                                                └──► login ──► pages ──► api

The server is a process of its own, so it answers even if the worker, the keeper or Prefect does
not. It imports Prefect only when a page or an action needs it, and listens only on this machine
unless it gets another address. While no `up` runs, the server creates a missing ledger, and
migrates an old one.

Hooks, and actions on pages, write to the ledger. `/health` and `/metrics` only read the ledger, but
while there is no leader, the server writes a marker, to check that the ledger is writable. Every
client that can reach `/health` can read the names of jobs that are late or failing.

The pages need a login (`daybook.web.login`). A server that listens for other machines has no pages.
`daybook.web.pages` has one module for each noun.
"""
