"""The ledger: its tables and states, and its databases SQLite and PostgreSQL.

Purpose: every due time of every enabled job ends in exactly one recorded outcome, and no attempt's
effect happens twice. The rules are in `docs/promise.md`, the table of states in
`daybook.ledger.states`; the decision on which everything else depends is
`daybook.runs.claims.claim`.

Contract: every change of a run's status goes through `daybook.runs`, in one transaction of
`Ledger.write`, and is checked against the table of states. No module here imports Prefect.

Pitfalls: instants are aware and in UTC, and the column type refuses naive ones; whether a run is
due is decided by the ledger's clock (`Ledger.now`), never by the caller's.
"""
