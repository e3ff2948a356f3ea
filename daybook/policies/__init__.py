"""Policies of jobs: limits, retries, overlap, catch-up, bounds, checks and budgets of runs.

A `policy` contains a check (`checks`), and the limits of `budgets` and `compression`, which owners
and agents have too. The package is below the ledger, so that a row of a run knows its policy.
"""
