"""What one machine runs for `daybook up`: a Prefect server of our own, the worker, and their care.

::

    up.lock   held (flock) by the living `daybook up`; whoever cannot get it is refused
    up.json   what it runs: `record.Record`, written anew at each change
    logs/     what its children print: `children.Child`

Order of a start: `record.hold` the home, `record.end_leftovers` of one that was killed,
`prefect_here.find_or_start`, `worker.ensure_pool`, `worker.start`, then `supervision.keep` for each
child. The end goes the other way round.

Pitfalls: each run's process leads a session of its own, so ending the worker's process group is not
enough (`processes.family`), and the worker needs time to write down what becomes of what it ends
(`worker.GRACE`). `record` imports no Prefect, so that `down` and `status` are fast.
"""
