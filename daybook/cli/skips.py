"""The `daybook skip` and `daybook snooze` commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from daybook import api
from daybook.cli import formatting, output
from daybook.cli.command import Answer, command
from daybook.cli.options import Job
from daybook.errors import InvalidInput

if TYPE_CHECKING:
    from daybook.jobs.views import ListedJob


@command()
async def skip_(
    job: Job,
    /,
    *,
    undo: Annotated[bool, Parameter(help="Clear all skips.")] = False,
) -> Answer:
    """Skip a job's next due time.

    Repeating the command has no further effect. Works without Prefect.

    Example: daybook skip morning-brief
    """
    yield (answer := await api.skips.skip(job, undo=undo))
    _print_job(answer)


@command()
async def snooze_(
    job: Job,
    until: Annotated[
        str | None, Parameter(help="Time in the job's zone: 2027-01-15T09:00, 2h, or tomorrow.")
    ] = None,
    /,
    *,
    off: Annotated[bool, Parameter(help="End the snooze.")] = False,
) -> Answer:
    """Skip all due times of a job before a given time.

    You can still run the job by hand. Works without Prefect.

    Example: daybook snooze morning-brief "in 2d"
    """
    if off is (until is not None):
        problem = "cannot be combined with --off" if off else "is missing"
        raise InvalidInput("until", problem, "use a time such as 2h, or --off")

    yield (answer := await api.skips.snooze(job, until))
    _print_job(answer)


def _print_job(job: ListedJob) -> None:
    output.line(f"{job.name} is {formatting.enabled_state(job)}: {job.words}")
    due = "\n".join(map(formatting.due_time_with_utc, job.next_due)) or "-"
    output.fields(
        [(name, value) for name, value in [*skip_fields(job), ("next due", due)] if value]
    )


def skip_fields(job: ListedJob) -> list[tuple[str, str]]:
    """Return the skips and the snooze of a job for `output.fields`. A value may be empty."""
    snoozed = job.snoozed_until
    return [
        ("skips", "\n".join(map(formatting.due_time_with_utc, job.skips))),
        ("snoozed", f"until {formatting.due_time_with_utc(snoozed)}" if snoozed else ""),
    ]
