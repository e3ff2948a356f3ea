"""The page Today: what needs a person, the latest answers, and the timeline of 48 hours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from starlette.requests import Request
from starlette.responses import Response

from daybook import api, finding
from daybook.diagnosis import attention, incidents
from daybook.diagnosis.incidents import Incident
from daybook.errors import InvalidInput
from daybook.finding import Finding, Severity
from daybook.schedules.zones import time_text
from daybook.web.pages.actions import Done, PageAction
from daybook.web.pages.forms import Form
from daybook.web.pages.jobs import choice_of, page_number
from daybook.web.pages.site import Page, Site

ORDER = ("failed", "timed_out", "unknown", "missed", "succeeded", "skipped", "cancelled")
LEGEND = (*ORDER, "running", "waiting")


@dataclass(frozen=True)
class Button:
    """A button for a problem. It posts a form to ``path``, or links to ``path`` if ``is_link``.

    ``effect`` says in words what the form does; it is empty for a link.
    """

    label: str
    path: str
    is_link: bool = False
    effect: str = ""


_BUTTONS = {
    finding.FindingAction.COMPARE: Button("Compare", "/jobs/{job_id}#conflict", is_link=True),
    finding.FindingAction.DECIDE: Button("Decide", "/runs/{run_id}#approvals", is_link=True),
    finding.FindingAction.EDIT: Button("Edit", "/jobs/{job_id}/edit", is_link=True),
    finding.FindingAction.READ: Button("Read", "/inbox", is_link=True),
    finding.FindingAction.RESUME: Button(
        "Resume", "/jobs/{job_id}/resume", effect="at its next due time"
    ),
    finding.FindingAction.RETRY: Button(
        "Send again", "/callbacks/retry", effect="sends each once more"
    ),
    finding.FindingAction.REVIEW: Button("Review", "/changes/{run_id}", is_link=True),
    finding.FindingAction.RUN: Button("Run again", "/jobs/{job_id}/run", effect="starts a new run"),
    finding.FindingAction.SYNC: Button("Sync now", "/sync", effect="writes the changes to Prefect"),
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


@dataclass(frozen=True)
class Need:
    """An entry of the list: an incident with the page of each finding, and its buttons."""

    incident: Incident
    state: str
    buttons: list[Button]
    links: dict[str, str]
    """The page of each finding that has one, by the title of the finding."""

    @property
    def first(self) -> Finding:
        return self.incident.first


def need_of(incident: Incident, pages: Mapping[str, str]) -> Need:
    """Return the entry of an incident. ``pages`` are the pages of features by feature."""
    found = (incident.first, *incident.others)
    return Need(
        incident,
        state_of(incident.first),
        [button_of(each, incident) for each in incident.remedies],
        {each.title: address for each in found if (address := _page_of(each, pages))},
    )


def button_of(found: Finding, incident: Incident) -> Button:
    """Return the button for the action of a finding. The incident determines its words."""
    assert found.action is not None
    button = _BUTTONS[found.action]
    button = replace(button, path=button.path.format(job_id=found.job_id, run_id=found.run_id))
    if found.action is finding.FindingAction.RUN:
        if "unknown" in incident.kinds:
            button = replace(button, effect="the run may already have had an effect")
        elif found.kind == "missed":
            button = replace(
                button, label="Run now", effect="starts one run for all that were missed"
            )
    return button


def _page_of(found: Finding, pages: Mapping[str, str]) -> str:
    """Return the path of the page that shows the subject of a finding; "" if there is none."""
    if found.kind in ("inbox", incidents.RECOVERED):
        return "/inbox"
    if found.run_id:
        return f"/runs/{found.run_id}"
    if found.job_id:
        return f"/jobs/{found.job_id}"
    if found.kind == "outbox":
        return "/callbacks?status=failed"
    return pages.get(found.check, "")


def state_of(found: Finding) -> str:
    """Return the status whose colour and symbol the page shows for the finding."""
    default = "failed" if found.severity is Severity.PROBLEM else "missed"
    return _STATES.get(found.kind, default)


async def show(site: Site, request: Request) -> Response:
    """Show the problems, the latest answers and the timeline."""
    timeline = await api.timeline.read(choice_of(request), page_number(request))
    report = await site.health()
    of_the_scheduler = report.problems if report is not None else []
    found = [*map(Incident, of_the_scheduler), *await attention.read(site.tz)]
    latest = await api.answers.latest()
    needs = [need_of(each, site.pages_of_features) for each in found]
    now = site.now()

    def text(instant: datetime, form: str = "full") -> str:
        return time_text(instant, site.tz, now, form)

    return site.render(
        request,
        "today.html",
        timeline=timeline,
        latest=latest,
        needs=[each for each in needs if each.first.kind != incidents.RECOVERED],
        recovered=[each.first for each in needs if each.first.kind == incidents.RECOVERED],
        choice=choice_of(request),
        text=text,
        is_new=await api.job_pages.is_new(),
        order=ORDER,
        legend=LEGEND,
    )


async def sync(ref: str, form: Form) -> Done:
    """Reconcile all jobs with Prefect now."""
    await api.sync.sync()
    return Done("/", "synced")


async def read(ref: str, form: Form) -> Done:
    """Mark the answers that the page has shown as read, but not answers that arrived later."""
    try:
        await api.answers.mark_read(datetime.fromisoformat(form.get("until")))
    except (ValueError, TypeError):  # a time without a zone cannot be compared
        hint = "reload the page and try again"
        raise InvalidInput("until", "is no time with a zone", hint) from None
    return Done("/", "seen")


ROUTES = (Page("/", show, live=True),)
ACTIONS = (
    PageAction("/sync", sync, show, uses_prefect=True),
    PageAction("/answers/read", read, show),
)
