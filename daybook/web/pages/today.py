"""The page Today: problems that need a person, and the timeline of the last and next 24 hours."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from starlette.requests import Request
from starlette.responses import Response

from daybook import api
from daybook.operations import attention
from daybook.operations.attention import Need
from daybook.operations.health import HealthReport
from daybook.web import formatting
from daybook.web.pages.actions import Action, Done
from daybook.web.pages.forms import Form
from daybook.web.pages.jobs import choice_of, page_number
from daybook.web.pages.site import Page, Site

ORDER = ("failed", "timed_out", "unknown", "missed", "succeeded", "skipped", "cancelled")
LEGEND = (*ORDER, "running", "waiting")


@dataclass(frozen=True)
class Button:
    """A button for a problem. It posts a form to ``path``, or links to ``path`` if ``is_link``."""

    label: str
    path: str
    is_link: bool = False


_OF_A_JOB = {
    "failing": Button("Run again", "/run"),
    "missed": Button("Run now", "/run"),
    "paused": Button("Resume", "/resume"),
    "conflict": Button("Compare", "#conflict", is_link=True),
    "chain": Button("Edit", "/edit", is_link=True),
    "budget": Button("Edit", "/edit", is_link=True),
}
"""Buttons by the kind of a problem. Their paths are appended to the path of the job's page."""


def button_of(need: Need) -> Button | None:
    """Return the button that helps with a problem. Return None if no button can help."""
    if need.kind == "inbox":
        return Button("Read", "/inbox", is_link=True)
    if need.kind == "approval" and need.run_id:
        return Button("Decide", f"/runs/{need.run_id}#approvals", is_link=True)
    if need.kind == "pending":
        return Button("Sync now", "/sync")
    if need.kind == "outbox" and "callbacks retry --failed" in need.fix:
        return Button("Send again", "/callbacks/retry")
    if need.job_id is None or (of_job := _OF_A_JOB.get(need.kind)) is None:
        return None
    return replace(of_job, path=f"/jobs/{need.job_id}{of_job.path}")


async def show(site: Site, request: Request) -> Response:
    """Show the problems and the timeline."""
    timeline = await api.timeline.read(choice_of(request), page_number(request))
    needs = [*_of_the_scheduler(await site.health()), *await attention.read(site.tz)]
    now = site.now()

    def text(instant: datetime, form: str = "full") -> str:
        return formatting.text_of(instant, site.tz, now, form)

    return site.render(
        request,
        "today.html",
        timeline=timeline,
        needs=[(each, button_of(each)) for each in needs],
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


async def sync(ref: str, form: Form) -> Done:
    """Reconcile all jobs with Prefect now."""
    await api.sync.sync()
    return Done("/", "synced")


ROUTES = (Page("/", show, live=True),)
ACTIONS = (Action("/sync", sync, show, uses_prefect=True),)
