"""Background services of the leader: they keep the ledger and Prefect in agreement, and let no due
time be forgotten.

`services.LOOPS` is the table of all services: names, intervals (fields of `timing.Timing`) and
functions. The first cycle of each follows directly after a process has become leader. One process
leads and runs them (`leadership`; promise 16: one leader by a lease). Each worker, and `daybook
keeper`, has a keeper that leads or stands by. `prefect.stale_runs` runs in each worker instead. The
services that compare runs with Prefect are modules of `daybook.prefect`.

One cycle of a service is idempotent. Two processes may run the same cycle at once, and one may die
between any two of its writes: each cycle derives its work from the ledger anew, Prefect runs are
created under an idempotency key, and a state is written only if the row is still the one that was
read (`prefect.flow_runs.change_state`). The ledger says which writes are due, so a cycle without
work sends no request to Prefect; only `ended_runs` and `stale_runs` have to send one.

Services raise `LedgerUnreachable`, `PrefectUnreachable` and the errors of Prefect's client; writes
made before the error persist, and the next cycle does the rest.
"""
