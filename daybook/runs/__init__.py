"""Runs in the ledger: claims, leases, slots, outcomes, and the audit of due times. No Prefect.

::

    claim_requests ─► decision (asks claim_rules in order) ─► claims: claim, begin, finish
                                                               │
    leases: renewed, expired      slots, budget, sessions ◄────┤ held by the claim
    outcomes: one for each run, with its outbox rows ◄─────────┘
    audit: each due time up to the watermark has a row (`docs/promise.md` 10)

A function that uses the database takes a session of the caller's transaction, or the `Ledger` and
opens its own transactions.
"""
