"""`daybook next`."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Annotated, Any

from cyclopts import Parameter

from daybook.cli import formatting, output
from daybook.cli.options import At, Cron, Every, Json, Zone
from daybook.errors import InvalidInput

Reference = Annotated[
    str | None, Parameter(help="Name, id, or unique beginning of the id; else give a schedule.")
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
        str | None, Parameter(help="Due times after this RFC 3339 time. Default: now.")
    ] = None,
    count: Annotated[int, Parameter(help="How many.", show_default=True)] = 5,
    as_json: Json = False,
) -> int | Coroutine[Any, Any, int]:
    """Show the next due times of a job, or of a bare schedule.

    A bare schedule needs neither server nor ledger.

    Example: daybook next --cron "0 9 * * 1-5" --tz Europe/Berlin --count 10
    """
    bare = [
        name for name, value in (("cron", cron), ("every", every), ("at", at)) if value is not None
    ]
    if job is not None:
        if bare:
            raise InvalidInput(" and ".join(["job", *bare]), "only one of these can be given")
        if timezone is not None:
            raise InvalidInput("timezone", "goes with a bare schedule", "a job has its own zone")
        return _of_job(job, after, count, as_json)
    if not bare:
        raise InvalidInput(
            "schedule", "none is given", "name a job, or give one of cron, every, at"
        )
    from daybook.api import due

    found = due.of_schedule(
        cron=cron, every=every, at=at, timezone=timezone, after=after, count=count
    )
    return _shown(found, as_json)


async def _of_job(job: str, after: str | None, count: int, as_json: bool) -> int:
    from daybook.api import due

    return _shown(await due.of_job(job, after=after, count=count), as_json)


def _shown(found: dict[str, Any], as_json: bool) -> int:
    if as_json:
        output.data(found)
        return 0
    output.say(found["words"])
    for each in found["due"]:
        output.line(formatting.due_and_utc(each["local"]))
    if not found["due"]:
        output.say("It is not due any more.")
    return 0
