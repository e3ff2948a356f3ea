"""What is written down: jobs and their revisions, runs and their attempts.

Purpose: every due time of every enabled job ends in exactly one recorded outcome (requirement 16),
and no attempt's effect happens twice (requirement 17). The rules are `docs/promise.md`; the table
of states is `daybook.ledger.states`; the one decision that all else hangs on is `claims.claim`.

Contract: everything that changes a run goes through `claims` and `leases`, in one transaction of
`Ledger.write` each, and is checked against the table of states. No module here knows Prefect.

Pitfalls: instants are aware and in UTC, naive ones are refused by the column type; due is judged
by the ledger's clock (`Ledger.now`), never by the caller's.
"""
