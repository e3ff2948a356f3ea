"""The `daybook skip` and `daybook snooze` commands."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from daybook.cli import formatting, output
from daybook.cli.options import Job, Json
from daybook.errors import InvalidInput


async def skip_(
    job: Job,
    /,
    *,
    undo: Annotated[bool, Parameter(help="Clear all skips.")] = False,
    as_json: Json = False,
) -> int:
    """Skip a job's next due time.

    Repeating the command skips no other due time. Works without Prefect.

    Example: daybook skip morning-brief
    """
    from daybook.api import skips

    return _print_job(await skips.skip(job, undo=undo), as_json)


async def snooze_(
    job: Job,
    until: Annotated[
        str | None, Parameter(help="Time in the job's zone, such as 2027-01-15T09:00, or `in 2h`.")
    ] = None,
    /,
    *,
    off: Annotated[bool, Parameter(help="End the snooze.")] = False,
    as_json: Json = False,
) -> int:
    """Skip all due times of a job before an instant.

    Runs by hand still start. Works without Prefect.

    Example: daybook snooze morning-brief "in 2d"
    """
    if off is (until is not None):
        problem = "cannot be combined with --off" if off else "is missing"
        raise InvalidInput("until", problem, 'use a time such as "in 2h", or --off')
    from daybook.api import skips

    return _print_job(await skips.snooze(job, until), as_json)


def _print_job(job: dict[str, Any], as_json: bool) -> int:
    if as_json:
        output.print_json(job)
        return 0
    output.line(f"{job['name']} is {formatting.enabled_state(job)}: {job['words']}")
    due = "\n".join(map(formatting.due_time_with_utc, job["next_due"])) or "-"
    output.fields(
        [(name, value) for name, value in [*skip_fields(job), ("next due", due)] if value]
    )
    return 0


def skip_fields(job: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the skips and the snooze of a job for `output.fields`; a value may be empty."""
    snoozed = job["snoozed_until"]
    return [
        ("skips", "\n".join(map(formatting.due_time_with_utc, job["skips"]))),
        ("snoozed", f"until {formatting.due_time_with_utc(snoozed)}" if snoozed else ""),
    ]
