"""Chaos test: kills, stops and cuts everything at random while jobs are due, then reads the ledger.

::

    place      a home, a server, two workers and a second keeper; a process that dies is restarted
    work       jobs of all kinds, all due before one instant; an outside process counts the effects
    faults     the kills, stops and cuts, and their times: drawn from a seed, so replayable
    edits      a random walk of edits on both sides, on jobs reserved for it
    callbacks  a receiver outside that gets a callback for each outcome and refuses some of them
    verdict    compares the ledger with due times computed second by second, without the tested code

See ``python -m chaos --help``; ``make chaos`` is the long run. `docs/promise.md` states the
promises: each due time has one outcome, and no attempt has its effect twice.
"""
