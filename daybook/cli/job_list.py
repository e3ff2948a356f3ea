"""The `daybook list` command, without an import of the options of a job, which takes 35 ms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from daybook import api
from daybook.api.filters import JobFilters
from daybook.cli import formatting, output
from daybook.cli.options import Absolute, Json, Watch, check_limit

if TYPE_CHECKING:
    from daybook.jobs.views import ListedJob

_NO_FILTERS = JobFilters()


async def list_(
    *,
    filters: Annotated[JobFilters, Parameter(name="*")] = _NO_FILTERS,
    limit: Annotated[
        int | None, Parameter(alias="-n", help="Maximum number to show. [default: all]")
    ] = None,
    absolute: Absolute = False,
    watch: Watch = False,
    as_json: Json = False,
) -> int:
    """List jobs with their state, schedule, next due time, agent and last outcome.

    COST (30 D) is the cost of the runs that ended in the last 30 days, in US dollars; `$1.25+` says
    that the price of some of them is unknown. The column is left out if no cost is known. Works
    without Prefect.

    Example: daybook list --failing --sort failures
    """
    if limit is not None:
        check_limit(limit)

    async def read() -> list[ListedJob]:
        return await api.jobs.list_jobs(filters, limit)

    warning = "" if as_json else await api.overdue.why_nothing_runs()

    def render(listed: list[ListedJob]) -> None:
        if listed:
            _print_jobs(listed, absolute)
            if warning:
                output.say(f"! {warning}")
        elif filters == _NO_FILTERS:
            output.say("There are no jobs. See `daybook add --help` for how to add one.")
        else:
            output.say("No job matches. `daybook list` lists all jobs.")

    await output.show(read, render, as_json=as_json, watch=watch)
    return 0


def _print_jobs(listed: list[ListedJob], absolute: bool) -> None:
    when = formatting.time_format(absolute)
    next_heading = formatting.time_heading("NEXT", absolute)
    has_costs = any(job.spent_30_days.cost_usd is not None for job in listed)
    cost_heading = ("COST (30 D)",) if has_costs else ()
    output.table(
        ("NAME", "STATE", "SCHEDULE", next_heading, "AGENT", *cost_heading, "LAST"),
        [
            (
                job.name,
                formatting.short_state(job),
                job.words,
                when(job.next_due[0] if job.next_due else None),
                getattr(job.action, "agent", ""),
                *((formatting.short_spending(job.spent_30_days),) if has_costs else ()),
                formatting.last_outcome(job),
            )
            for job in listed
        ],
        whole=("STATE", next_heading, *cost_heading, "LAST"),
    )
