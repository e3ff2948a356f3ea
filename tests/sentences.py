"""The sentences that the command line prints for findings."""

from __future__ import annotations

from collections.abc import Iterable

from daybook.finding import Finding


def of(problems: Iterable[object]) -> list[str]:
    """Return the sentences for findings, or for the JSON of findings."""
    return [str(Finding.model_validate(each)) for each in problems]
