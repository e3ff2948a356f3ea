"""Execution of one run from claim to outcome: the functions that the flows call.

::

    claim ─► check ─► attempt ─► record the outcome ─► send, artifact, Prefect state
      │        │         └ begin (`running`), then act, the flow's part
      │        └ says skip: the run ends as skipped
      ├ waiting, or no ledger: the run is rescheduled in Prefect
      └ skipped, missed, held elsewhere: the Prefect run ends in that state

Purpose: a flow only orchestrates; every decision and every write is here or in the ledger.
Contract: `execute.carry_out` returns the Prefect state for the flow to return, and no effect ever
happens without a claim (promise.md 7: no ledger, no effect). Pitfall: a Scheduled state is set
through the API and the flow exits with `Abort`; *returning* one is an error in Prefect.
"""
