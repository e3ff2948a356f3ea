"""Background services of the leader: they keep the ledger and Prefect in agreement, and let no due
time be forgotten.

::

    ledger ─► Prefect   scheduled_runs  a waiting run has one scheduled Prefect run   (promise 11)
                                        the run that gets a free slot starts now      (promise 12)
                        state_mirror    a finished run's Prefect run shows its end    (promise 13)
                        corrections     due times that Prefect queues wrongly         (promise 14)
                        blocks          restores block documents that Prefect lost
    Prefect ─► ledger   observer        imports edits made in Prefect
                        blocks          copies block documents made in Prefect
                        ended_runs      an end in Prefect becomes the run's outcome   (promise 13)
                        stale_runs      a run without a process runs again, or ends
    ledger ─► others    deliveries      sends callbacks and messages
                        listeners       calls listeners with outcomes
                        alerts          overdue runs, and long runs
    the ledger alone    lease_reaper    lost leases, passed deadlines                 (promise 3, 5)
                        auditor         each due time that passed has its row         (promise 10)
                        tasks           leases of tasks, wakes of sessions
                        retention       deletes old rows

`services` runs them in the one process that leads (`leadership`; promise 16: one leader by a
lease). Each worker, and `daybook keeper`, has a keeper that leads or stands by. `stale_runs` runs
in each worker instead. The services that compare runs with Prefect are modules of
`daybook.prefect`.

One cycle of a service is idempotent. Two processes may run the same cycle at once, and one may die
between any two of its writes: each cycle derives its work from the ledger anew, Prefect runs are
created under an idempotency key, and a state is written only if the row is still the one that was
read (`prefect.flow_runs.change_state`). The ledger tells what is to be written, so a cycle without
work sends no request to Prefect; only `ended_runs` and `stale_runs` have to send one.

Services raise `LedgerUnreachable`, `PrefectUnreachable` and the errors of Prefect's client; writes
made before the error persist, and the next cycle does the rest.
"""
