"""The HTTP room: `/health` for whoever watches the scheduler, `/metrics` for Prometheus.

::

    `daybook up` ──► host.web ──► python -m daybook.web ──► guard ──► app ──► service.health
    `daybook web` ────────────────────┘                                 └──► metrics

A process of its own, so that it answers when worker, keeper or Prefect do not. It reads the ledger
(which is made, or brought up to date, as it is opened), imports no Prefect, and listens on this
machine alone unless it is told another address. Who can reach it reads the names of jobs that are
late or failing. While nobody leads it writes a mark, to see whether the ledger can be written.
"""
