"""What keeps ledger and Prefect in agreement, and each due time from being forgotten.

::

    ledger ─► Prefect   ensure      a waiting row has one scheduled Prefect run       (promise 11)
                        wake        a free slot's run is scheduled now                (promise 12)
                        mirror      an ended row's Prefect run shows how it ended     (promise 13)
                        correct     what Prefect queues wrongly is right in time      (promise 14)
    Prefect ─► ledger   observe     what was edited there is taken over
                        ends        an end made there becomes the run's outcome       (promise 13)
                        leftovers   what nobody runs any more is run again, or ended
    ledger ─► others    drain       what is to be told of runs is sent
    the ledger alone    expire      a lost lease, a passed deadline                   (promise 3, 5)
                        audit       each due time that passed has its row              (promise 10)
                        prune       what is old goes

`loops` does them again and again in the one process that leads (`lead`, promise 16); each worker,
and `daybook keeper`, has a keeper that leads or stands by. Leftovers are each worker's own.

Each is one idempotent pass. Two processes may do the same one at once, and one may die between any
two of its writes: the ledger decides each time anew, Prefect runs are made under a key, and a state
is written only where the row is still what was read (`prefect_runs.change`). What is worth writing
is looked for in the ledger, so a pass without work asks Prefect nothing; only `ends` and
`leftovers` have to ask, once.

The passes raise `LedgerUnreachable`, `PrefectUnreachable` and what Prefect's client raises; what
was done until then stays done, and the next turn does the rest.
"""
