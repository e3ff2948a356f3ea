"""Daybook's worker: claims runs, starts each run's process from a preloaded parent, supervises it
and ends it. Flow code runs only in those processes.
"""
