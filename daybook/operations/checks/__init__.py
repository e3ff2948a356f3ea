"""Checks of `daybook doctor`, one module a subject: home, installation, ledger, delivery, Prefect …

Contract: a check is a function or coroutine function that returns a list of `findings.Finding`,
empty if all is well; it changes nothing. Each problem has a fix, with a command to type.
`daybook.operations.doctor` calls the checks in order and survives one that fails itself.

Pitfalls: the installation may be the broken part, so each check imports what it needs when it is
called. `home` is checked before `home.configure_prefect`, which fixes the modes of the home.
"""
