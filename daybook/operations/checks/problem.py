"""What a check found, and how it is mended."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """``mend`` is a command, or what to do and the command for it.

    A ``harmless`` one is worth knowing and no reason to call the whole unsound; it may have no
    mend. ``of`` is the distribution that it is about, if it is about one.
    """

    what: str
    mend: str
    harmless: bool = False
    of: str = ""
