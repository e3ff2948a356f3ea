"""Checks of `daybook doctor`, one module for each subject: home, installation, ledger, Prefect …

Contract: a check is a function or coroutine function that returns a list of `findings.Finding`. If
all is well, the list may be empty. A check changes nothing. Each problem has a fix, with a command
to type. `daybook.diagnosis.doctor` lists the checks, calls them in groups, and continues if a
check raises an error.

Pitfalls: the installation may be the broken part, so no module here imports Prefect, an HTTP
library or a database driver at its top. A check imports them when it is called. The checks of
`home` run before `home.configure_prefect`, which creates the home.
"""
