"""The HTTP server of `/health`, for monitors of the scheduler, and `/metrics`, for Prometheus.

::

    `daybook up` ──► operations.web ──┐
    `daybook web` ────────────────────┴──► python -m daybook.web
                                                    │
                                                    ▼
                                                  Guard ──► app ──► operations.health
                                                                └──► metrics

It is a process of its own, so that it answers when the worker, the keeper or Prefect does not. It
reads the ledger (opening a ledger creates or migrates it), imports nothing of Prefect, and listens
only on this machine unless it gets another address. Every client that reaches it can read the names
of jobs that are late or failing. While no keeper leads, it writes a marker to the ledger, to check
that the ledger can be written.
"""
