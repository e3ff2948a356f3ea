"""The ledger: its tables and states, and its databases SQLite and PostgreSQL.

Purpose: every due time of every enabled job ends in exactly one recorded outcome, and no attempt's
effect happens twice. The rules are in `docs/promise.md`, and the table of states is in
`daybook.ledger.states`. `daybook.runs.claims.claim` decides whether a process may run an
occurrence.

Contract: every change of a run's status goes through `daybook.runs`, in one transaction of
`Ledger.write`, and is checked against the table of states. There are two exceptions: an
import stores ended runs of other schedulers, and a restore moves a run to `running`, with the
check, before it records the outcome. No module here imports Prefect.

Pitfalls: instants are timezone-aware and in UTC, and the column type refuses naive datetimes. The
ledger's clock (`Ledger.now`), never the caller's clock, decides whether a run is due.
"""
