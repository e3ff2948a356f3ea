"""Today: what needs a person, and the timeline of the last and the next 24 hours."""

from __future__ import annotations

from datetime import datetime

from starlette.requests import Request
from starlette.responses import Response

from daybook import api
from daybook.operations import attention
from daybook.operations.attention import Need
from daybook.operations.health import HealthReport
from daybook.web import formatting
from daybook.web.pages.jobs import choice_of, page_number
from daybook.web.pages.site import Page, Site

ORDER = ("failed", "timed_out", "unknown", "missed", "succeeded", "skipped", "cancelled")
LEGEND = (*ORDER, "running", "waiting")


async def show(site: Site, request: Request) -> Response:
    """Show the page of the morning."""
    timeline = await api.timeline.read(choice_of(request), page_number(request))
    needs = [*_of_the_scheduler(await site.health()), *await attention.read(site.tz)]
    now = site.now()

    def text(instant: datetime, form: str = "full") -> str:
        return formatting.text_of(instant, site.tz, now, form)

    return site.render(
        request,
        "today.html",
        timeline=timeline,
        needs=needs,
        choice=choice_of(request),
        text=text,
        order=ORDER,
        legend=LEGEND,
    )


def _of_the_scheduler(report: HealthReport | None) -> list[Need]:
    problems = report.problems if report is not None else []
    found = list[Need]()
    for each in problems:
        message, _, fix = each.partition("; fix: ")
        found.append(Need(kind="scheduler", severity="failed", title=message, fix=fix))
    return found


ROUTES = (Page("/", show, live=True),)
