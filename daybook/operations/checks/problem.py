"""Result type of the checks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """A problem that a check found. ``mend`` is a command, or what to do and the command for it.

    A ``harmless`` one is worth knowing and does not make the installation unsound; it may have no
    ``mend``. ``of`` is the distribution that it is about, if any.
    """

    what: str
    mend: str
    harmless: bool = False
    of: str = ""
