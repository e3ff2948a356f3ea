"""Checks of `daybook doctor`, one module a subject: home, installation, ledger, delivery, Prefect …

Contract: a check is a function or coroutine function that returns a list of `Problem`, empty if
there is none; it changes nothing. Each problem says how to fix it, with a command to type.
`daybook.operations.doctor` calls the checks in order and survives one that fails itself.

Pitfalls: the installation may be the broken part, so each check imports what it needs when it is
called. `home` is checked before `home.configure_prefect`, which fixes the modes of the home.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """A problem that a check found. ``fix`` is a command, or what to do and the command for it.

    A ``harmless`` one is worth knowing and does not make the installation unsound; it may have no
    ``fix``. ``of`` is the distribution that it is about, if any.
    """

    what: str
    fix: str
    harmless: bool = False
    of: str = ""
