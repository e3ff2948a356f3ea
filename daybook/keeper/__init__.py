"""The passes that keep ledger and Prefect in agreement, and runs from being forgotten.

::

    ledger ─► Prefect   ensure      a waiting row has one scheduled Prefect run       (promise 11)
                        wake        a free slot's run is scheduled now                (promise 12)
                        mirror      an ended row's Prefect run shows how it ended     (promise 13)
    Prefect ─► ledger   ends        an end made there becomes the run's outcome       (promise 13)
                        leftovers   what nobody runs any more is run again, or ended
    the ledger's own    expire      a lost lease, a passed deadline                   (promise 3, 5)

Each is one idempotent pass. Two processes may do the same one at once, and one may die between any
two of its writes: the ledger decides each time anew, Prefect runs are made under a key, and a state
is written only where the row is still what was read (`prefect_runs.change`). What is worth writing
is looked for in the ledger, so a pass without work asks Prefect nothing; only `ends` and
`leftovers` have to ask, once.

The passes raise `LedgerUnreachable`, `PrefectUnreachable` and what Prefect's client raises; what
was done until then stays done, and the next turn does the rest.
"""
