"""Daybook's worker: claims runs, and starts, supervises and ends their processes.

A parent process, preloaded where this is possible, starts the process of each run. Flow code runs
only in the processes of runs. A flow's hooks run in a process of their own.
"""
