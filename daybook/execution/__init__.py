"""One run from claim to settle: what the flows call.

::

    occurrence.offer ─► gate.enter ─► begin ─► act (the flow's part) ─► settle ─► artifact, state
                          │ waiting, no ledger: the run goes back to Prefect as scheduled
                          └ skipped, missed, taken: the run ends and says so

Purpose: a flow orchestrates, and everything that decides or writes stands here or in the ledger.
Contract: `carry_out.carry_out` returns the Prefect state that the flow returns; it never lets an
effect happen without a claim (`docs/promise.md` 7). Pitfalls: a Scheduled state is set by the API
and the flow leaves with `Abort`; *returning* one is an error in Prefect.
"""
