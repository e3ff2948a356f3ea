"""Runs in the ledger: claims, leases, slots, outcomes, and the audit of due times.

::

    claim_requests ─► decision (applies claim_rules) ────────► claims: claim, begin, finish
                                                               │
    leases: renewed, expired      slots, budget, sessions ◄────┤ held by the claim
    outcomes: one for each run, with its outbox rows ◄─────────┘
    audit: each due time up to the watermark has a row (`docs/promise.md` 10)

The package does not use Prefect. A function that uses the database has a session of the caller's
transaction as a parameter, or the `Ledger`; with the `Ledger`, it opens its own transactions.
"""
