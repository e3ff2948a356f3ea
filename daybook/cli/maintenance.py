"""The `daybook maintenance` commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from daybook import api
from daybook.cli import formatting, output
from daybook.cli.command import Answer, command

if TYPE_CHECKING:
    from daybook.api.maintenance import MaintenanceWindow


@command()
async def plan_(
    *,
    begin: Annotated[
        str | None,
        Parameter(
            name="--from", help="Beginning, such as 22:00 or 2027-01-15T22:00. [default: now]"
        ),
    ] = None,
    until: Annotated[str | None, Parameter(help="End, such as 23:30, after the beginning.")] = None,
    duration: Annotated[
        str | None, Parameter(name="--for", help="Length, such as 90m, instead of an end.")
    ] = None,
    timezone: Annotated[
        str | None, Parameter(name="--tz", help="Time zone of the times. [default: the setting]")
    ] = None,
    note: Annotated[str, Parameter(help="Note that `status` shows.")] = "",
) -> Answer:
    """Plan a time in which no job starts. Running jobs continue.

    At its end, each job catches up by its own policy. Works without Prefect.

    Example: daybook maintenance plan --from 22:00 --until 23:30
    """
    window = await api.maintenance.plan(
        until, begin=begin, duration=duration, timezone=timezone, note=note
    )
    yield window
    _print_window("No job starts", window)


@command()
async def list_() -> Answer:
    """List the present and the planned windows.

    Example: daybook maintenance list
    """
    listed = await api.maintenance.list_windows()
    yield listed
    if listed:
        output.table(
            ("ID", "FROM", "UNTIL", "NOTE"),
            [
                (
                    each.id[:8],
                    formatting.due_time_with_utc(each.begin.astimezone()),
                    formatting.due_time_with_utc(each.end.astimezone()),
                    each.note or "-",
                )
                for each in listed
            ],
        )
    else:
        output.say("No maintenance is planned; plan it with `daybook maintenance plan`.")


@command()
async def remove_(window: Annotated[str, Parameter(help="Id or unique id prefix.")], /) -> Answer:
    """Remove a planned window, or end the present one now.

    Skipped due times stay skipped; waiting runs start.

    Example: daybook maintenance remove 3f2a91c0
    """
    yield (answer := await api.maintenance.remove(window))
    _print_window("Removed maintenance", answer)


def _print_window(what: str, window: MaintenanceWindow) -> None:
    output.line(f"{what} {formatting.maintenance(window)}")
