"""The page Today: problems that need a person, and the timeline of the last and next 24 hours."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

from starlette.requests import Request
from starlette.responses import Response

from daybook import api, finding
from daybook.diagnosis import attention
from daybook.finding import Finding, Severity
from daybook.web import formatting
from daybook.web.pages.actions import Done, PageAction
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


_BUTTONS = {
    finding.FindingAction.COMPARE: Button("Compare", "/jobs/{job_id}#conflict", is_link=True),
    finding.FindingAction.DECIDE: Button("Decide", "/runs/{run_id}#approvals", is_link=True),
    finding.FindingAction.EDIT: Button("Edit", "/jobs/{job_id}/edit", is_link=True),
    finding.FindingAction.READ: Button("Read", "/inbox", is_link=True),
    finding.FindingAction.RESUME: Button("Resume", "/jobs/{job_id}/resume"),
    finding.FindingAction.RETRY: Button("Send again", "/callbacks/retry"),
    finding.FindingAction.REVIEW: Button("Review", "/changes/{run_id}", is_link=True),
    finding.FindingAction.RUN: Button("Run now", "/jobs/{job_id}/run"),
    finding.FindingAction.SYNC: Button("Sync now", "/sync"),
}
"""The button of each action; its path contains the ids of the finding's job and run."""
_STATES = {
    **dict.fromkeys(("approval", "change", "pending"), "waiting"),
    **dict.fromkeys(("failing", "unreadable"), "failed"),
    **dict.fromkeys(("empty", "conflict"), "missed"),
    "unknown": "unknown",
    "paused": "skipped",
}
"""By the kind of a finding, the status whose colour and symbol the page shows."""


def button_of(found: Finding) -> Button | None:
    """Return the button that helps with a finding. Return None if no button can help."""
    if found.action is None:
        return None
    button = _BUTTONS[found.action]
    return replace(button, path=button.path.format(job_id=found.job_id, run_id=found.run_id))


def state_of(found: Finding) -> str:
    """Return the status whose colour and symbol the page shows for the finding."""
    default = "failed" if found.severity is Severity.PROBLEM else "missed"
    return _STATES.get(found.kind, default)


async def show(site: Site, request: Request) -> Response:
    """Show the problems and the timeline."""
    timeline = await api.timeline.read(choice_of(request), page_number(request))
    report = await site.health()
    of_the_scheduler = report.problems if report is not None else []
    found = [*of_the_scheduler, *await attention.read(site.tz)]
    now = site.now()

    def text(instant: datetime, form: str = "full") -> str:
        return formatting.text_of(instant, site.tz, now, form)

    return site.render(
        request,
        "today.html",
        timeline=timeline,
        needs=[(each, state_of(each), button_of(each)) for each in found],
        choice=choice_of(request),
        text=text,
        order=ORDER,
        legend=LEGEND,
    )


async def sync(ref: str, form: Form) -> Done:
    """Reconcile all jobs with Prefect now."""
    await api.sync.sync()
    return Done("/", "synced")


ROUTES = (Page("/", show, live=True),)
ACTIONS = (PageAction("/sync", sync, show, uses_prefect=True),)
