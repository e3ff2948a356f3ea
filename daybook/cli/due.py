"""The `daybook next` command."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Annotated, Any

from cyclopts import Parameter

from daybook.cli import formatting, output
from daybook.cli.job_options import At, Cron, Every, Zone
from daybook.cli.options import Json
from daybook.errors import InvalidInput

Reference = Annotated[
    str | None,
    Parameter(help="Job name, id or unique id prefix; leave out if you pass a schedule."),
]


def next_(
    job: Reference = None,
    /,
    *,
    cron: Cron = None,
    every: Every = None,
    at: At = None,
    timezone: Zone = None,
    after: Annotated[
        str | None, Parameter(help="Show due times after this RFC 3339 time [default: now].")
    ] = None,
    count: Annotated[int, Parameter(help="Number of due times.", show_default=True)] = 5,
    as_json: Json = False,
) -> int | Coroutine[Any, Any, int]:
    """Show the next due times of a job or a schedule.

    A schedule needs neither Prefect nor the ledger.

    Example: daybook next --cron "0 9 * * 1-5" --tz Europe/Berlin --count 10
    """
    given_options = [
        name for name, value in (("cron", cron), ("every", every), ("at", at)) if value is not None
    ]
    if job is not None:
        if given_options:
            raise InvalidInput(
                " and ".join(["job", *given_options]), "only one of these can be given"
            )
        if timezone is not None:
            raise InvalidInput(
                "timezone", "cannot be combined with a job", "a job has its own time zone"
            )
        return _next_of_job(job, after, count, as_json)
    if not given_options:
        raise InvalidInput("schedule", "is missing", "pass a job, or one of cron, every, at")
    from daybook.api import due

    result = due.of_schedule(
        cron=cron, every=every, at=at, timezone=timezone, after=after, count=count
    )
    return _print_due_times(result, as_json)


async def _next_of_job(job: str, after: str | None, count: int, as_json: bool) -> int:
    from daybook.api import due

    return _print_due_times(await due.of_job(job, after=after, count=count), as_json)


def _print_due_times(result: dict[str, Any], as_json: bool) -> int:
    if as_json:
        output.print_json(result)
        return 0
    output.say(result["words"])
    for each in result["due"]:
        output.line(formatting.due_time_with_utc(each["local"]))
    if not result["due"]:
        output.say("There are no further due times.")
    return 0
