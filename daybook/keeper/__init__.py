"""Background services that reconcile the ledger with Prefect, so that no due time is forgotten.

`services.loops` returns all services: names, intervals (fields of `timing.Timing`) and
functions. Each worker process runs a keeper, and so does `daybook keeper`. One keeper leads and
runs the services (`leadership`; promise 16: the keeper leads by a lease). The other keepers stand
by and run only the loops with `everywhere`. The first cycles start as soon as a process becomes
leader. `prefect.stale_runs` is not a service, because each worker runs it.

A cycle of a service can be repeated. Two processes may run the same cycle at the same time, and a
process may die between any two writes. So each cycle finds its work in the ledger again, and
creates Prefect runs under an idempotency key. It reads a row again before it changes the state of
the row's Prefect run. The rows of the ledger determine which writes are due, so a cycle without
work writes nothing to Prefect. The services that look for changes in Prefect (`ends`, `unread`,
`blocks`, `queues`, `observe`, `naming`, `server`) send read requests to Prefect in each cycle;
`ends` sends them only if there are live runs.

Services raise `LedgerUnreachable`, `LeadershipLost`, `PrefectUnreachable` and the errors of
Prefect's client. A service that reads settings also raises `InvalidInput`, and `ping` raises
`Unreachable`. Writes made before an error persist, and the next cycle continues.

To add a service, change the following:

- a module here, or in `daybook.prefect` if it compares runs with Prefect: a function that runs one
  cycle, with a bounded amount of work;
- `services.LOOPS`, or the loops of a feature: a `Service` in an existing loop, or in a new `Loop`.
  If the service keeps state between its cycles, its `start` creates the state;
- `timing.Timing`: an interval, if the loop is new;
- its name in rule 16 of `docs/promise.md`, which lists the services of each loop; `make docs`
  writes the table of services.
"""
