"""The storm: everything that can die dies at random while jobs are due, and then the book is read.

::

    place      a home, a server, two workers, a keeper beside them: whoever dies is begun again
    work       jobs of all kinds, all due until one instant; their effects are counted outside
    faults     what is killed, stopped and cut, and when: drawn from a seed, so it can be replayed
    edits      a random walk of edits on both sides, on jobs of their own
    callbacks  each end is told to a receiver outside, which refuses a part of them
    verdict    due times found second by second, not by the code under test, against the book

``python -m chaos --help``; ``make chaos`` is the long one. What is promised stands in
`docs/promise.md`: each due time has one outcome, no attempt has its effect twice.
"""
