"""The `daybook today` command."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from daybook import diagnosis
from daybook.cli import formatting, output
from daybook.cli.command import Answer, command
from daybook.cli.options import Absolute

if TYPE_CHECKING:
    from daybook.diagnosis.today import Today

_OUTCOMES = {"timed_out": "timed out", "unknown": "of unknown outcome"}
"""Words for the outcomes whose name does not fit into a sentence."""


@command(uses_prefect=True)
async def today_(*, absolute: Absolute = False) -> Answer:
    """Show the runs of the last 24 hours, what needs you, and what is due next.

    Example: daybook today
    """
    found = await diagnosis.today.today()
    yield found
    output.line(_summary(found.ended), style="bold")
    for problem in found.problems:
        output.line(f"{output.ALERT_PREFIX}{problem}", style="red")
    output.fields(list(_fields(found, absolute)))


def _summary(ended: dict[str, int]) -> str:
    """Return one sentence about the runs that ended: `31 runs ended: 29 succeeded, 2 failed.`"""
    if not ended:
        return "No run has ended in the last 24 hours."
    parts = ", ".join(f"{count:,} {_OUTCOMES.get(name, name)}" for name, count in ended.items())
    return f"{formatting.counted(sum(ended.values()), 'run')} ended in the last 24 hours: {parts}."


def _fields(found: Today, absolute: bool) -> Iterator[tuple[str, str]]:
    if found.unread_count:
        lines = [
            f"{formatting.short_id(each.id)}  {formatting.first_line(each.subject)}"
            for each in found.unread
        ]
        if found.unread_count > len(lines):
            lines.append(f"and {found.unread_count - len(lines):,} more")
        yield "unread", "\n".join([*lines, "(`daybook inbox ID` shows a message)"])
    if found.due_soon:
        yield "next", formatting.due_jobs(found.due_soon, formatting.time_format(absolute))
    if spent := formatting.spending(found.spent):
        yield "spent", spent
    yield from formatting.time_zone_field(absolute)
