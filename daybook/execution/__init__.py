"""Execution of one run from claim to outcome: the functions that the flows call.

::

    claim ─► check ─► attempt ─► record the outcome ─► send, artifact, Prefect state
      │        │         └ begin (`running`), then act, the flow's part
      │        └ result is skip: the run ends as skipped
      ├ waiting, or no ledger: the run is rescheduled in Prefect; for a short wait, the process
      │                        itself waits, and claims again
      ├ an outcome, such as skipped or missed: the Prefect run ends in that state
      └ held elsewhere: the Prefect run ends as skipped; if another process executes this very
                        Prefect run, this process only exits

Flows only orchestrate; every decision and every write is here or in `daybook.runs`.
`execute.carry_out` returns the Prefect state that the flow returns. No effect happens without a
claim (promise.md 7: no ledger, no effect). To reschedule a run, this package sets a Scheduled state
through Prefect's API, and the flow exits with `Abort`, because *returning* a Scheduled state is an
error in Prefect.
"""
