"""Chaos test: injects random faults while jobs are due, then checks the ledger.

::

    cluster    a home, a server, workers and a keeper; each process that dies is restarted
    workload   jobs of all kinds, all due before one instant
    effects    servers outside the killed processes that count the effects of the runs
    faults     kills, stops and cuts, drawn with their times from a seed, so they can be repeated
    restarts   instead of single faults: everything is killed at once and started again later
    edits      a random walk of edits in Daybook and Prefect, on jobs reserved for it
    callbacks  a receiver that gets a callback for each outcome and refuses some of them
    progress   decides when to stop waiting for the remaining work after the faults
    verdict    compares the ledger with due times computed second by second, without the tested code

See ``python -m chaos --help``; ``make chaos`` runs it for ten minutes. `docs/promise.md` states the
promises: each due time has one outcome, and no attempt has its effect twice.
"""
