"""The `daybook next` command."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from daybook import api
from daybook.cli import completion, formatting, output
from daybook.cli.field_options import FieldOptions, options_of, with_options
from daybook.cli.options import Absolute, Json, check_limit
from daybook.errors import InvalidInput
from daybook.schedules.fields import ScheduleFields

if TYPE_CHECKING:
    from daybook.schedules.due_times import DueTimes

_WITHOUT_DUE_TIMES = ("after", "on", "on_demand")
"""Fields of schedules that have no due times known in advance."""


@Parameter(name="*")
@with_options(
    {
        "When": options_of(
            ScheduleFields.model_fields,
            *(each for each in ScheduleFields.model_fields if each not in _WITHOUT_DUE_TIMES),
        )
    }
)
class ScheduleOptions(FieldOptions):
    """Options of `daybook next`: the schedules that have due times, and the time zone."""


_NO_OPTIONS = ScheduleOptions()

Reference = Annotated[
    str | None,
    Parameter(
        help="Job name, id or unique id prefix. [default: all jobs, or the given schedule]",
        completer=completion.jobs,
    ),
]


def next_(
    job: Reference = None,
    /,
    *,
    options: ScheduleOptions = _NO_OPTIONS,
    after: Annotated[
        str | None, Parameter(help="Show due times after this RFC 3339 time. [default: now]")
    ] = None,
    count: Annotated[
        int | None,
        Parameter(
            alias="-n",
            help="Number of due times. [default: 5; without a job or a schedule, all jobs]",
        ),
    ] = None,
    absolute: Absolute = False,
    as_json: Json = False,
) -> int | Coroutine[Any, Any, int]:
    """Show the next due times of a job or a schedule, or the next one of each job.

    Works without Prefect; with a schedule, also without the ledger. The due times of one job or
    schedule are always absolute, in its time zone and in UTC.

    Example: daybook next --cron "0 9 * * 1-5" --tz Europe/Berlin --count 10
    """
    given: dict[str, Any] = options.given()
    limits: dict[str, Any] = {"after": after} | ({} if count is None else {"count": count})
    schedules = [name for name in given if name != "timezone"]
    if job is not None:
        if schedules:
            raise InvalidInput(" and ".join(["job", *schedules]), "only one of these can be given")
        if given:
            raise InvalidInput(
                "timezone", "cannot be combined with a job", "a job has its own time zone"
            )
        return _next_of_job(job, limits, as_json)
    if not given and after is None:
        return _next_of_all(count, absolute, as_json)
    if not schedules:
        raise InvalidInput("schedule", "is missing", "pass a job or a schedule")

    return _print_due_times(api.due.of_schedule(**given, **limits), as_json)


async def _next_of_all(count: int | None, absolute: bool, as_json: bool) -> int:
    from daybook.api.filters import JobFilters

    if count is not None:
        check_limit(count, "count")
    jobs = await api.jobs.list_jobs(JobFilters(sort="next"))
    jobs = [each for each in jobs if each.next_due][:count]
    if as_json:
        output.print_json(jobs)
    elif jobs:
        when = formatting.time_format(absolute)
        next_heading = formatting.time_heading("NEXT", absolute)
        output.table(
            (next_heading, "JOB", "SCHEDULE", "LAST"),
            [
                (
                    when(each.next_due[0]),
                    each.name,
                    each.words,
                    formatting.last_outcome(each),
                )
                for each in jobs
            ],
            whole=(next_heading, "LAST"),
        )
    else:
        output.say("No job is due. `daybook list` lists all jobs.")
    if not as_json:
        await _say_what_stops_jobs()
    return 0


async def _say_what_stops_jobs() -> None:
    if warning := await api.overdue.why_nothing_runs():
        output.say(f"! {warning}")
    for each in await api.maintenance.list_windows():
        output.say(f"Maintenance: no job starts {formatting.maintenance(each)}")


async def _next_of_job(job: str, limits: dict[str, Any], as_json: bool) -> int:
    code = _print_due_times(await api.due.of_job(job, **limits), as_json)
    if not as_json:
        await _say_what_stops_jobs()
    return code


def _print_due_times(result: DueTimes, as_json: bool) -> int:
    if as_json:
        output.print_json(result)
        return 0
    output.say(result.words)
    for each in result.due:
        output.line(formatting.due_time_with_utc(each.local))
    if not result.due:
        output.say("There are no further due times.")
    return 0
