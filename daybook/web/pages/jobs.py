"""The pages of jobs: the list, and one job with its history, revisions and definition."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import date
from typing import Any

from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import Response

from daybook import api
from daybook.api.conflicts import Conflict
from daybook.api.job_pages import STATES, Choice, DayStrip
from daybook.errors import DaybookError, InvalidInput
from daybook.jobs.views import DueTimes, ListedJob
from daybook.runs import daily
from daybook.web import formatting
from daybook.web.pages.actions import Action, Done
from daybook.web.pages.forms import Form, typed
from daybook.web.pages.site import Page, Site

HISTORY = 100
"""Number of runs in the charts and the history of a job."""
DUE_TIMES = 10
PREVIEWED = 5
NEW_JOB_FIELDS = ("name", "schedule", "prompt", "agent", "timezone")


def choice_of(request: Request) -> Choice:
    """Return the filters that the address of a list names."""
    given = request.query_params
    return Choice(
        text=given.get("q", "").strip(),
        tag=given.get("tag", ""),
        state=given.get("state", ""),
        owner=given.get("owner", ""),
        agent=given.get("agent", ""),
    )


def page_number(request: Request) -> int:
    """Return the page of a list that the address names; 1 if it names none."""
    text = request.query_params.get("page", "")
    return int(text) if text.isdecimal() and len(text) < 7 else 1


async def index(site: Site, request: Request) -> Response:
    """List the jobs, with filters."""
    choice = choice_of(request)
    page = await api.job_pages.list_page(choice, page_number(request))
    days = daily.days(site.now(), site.tz)
    strips = api.job_pages.strips(await site.totals(), days)
    empty = [DayStrip(day) for day in days]
    return site.render(
        request,
        "jobs.html",
        page=page,
        choice=choice,
        states=STATES,
        strips={each.id: strips.get(each.id, empty) for each in page.jobs},
        cost_per_day=_cost_per_day,
    )


def _cost_per_day(strip: Sequence[DayStrip]) -> float | None:
    """Return the mean cost of the days with runs, in US dollars; None if there is none."""
    used = [each for each in strip if each.counts]
    total = sum(each.cost_usd for each in used)
    return total / len(used) if used and total else None


async def show(site: Site, request: Request) -> Response:
    """Show one job."""
    ref = request.path_params["ref"]
    job = await api.jobs.show(ref)
    runs = await api.run_lists.recent(job.id, HISTORY)
    totals = [each for each in await site.totals() if each.job_id == job.id]
    days = daily.days(site.now(), site.tz)
    strip = api.job_pages.strips(totals, days).get(job.id) or [DayStrip(day) for day in days]
    has_future = job.enabled and job.removed_at is None
    due = (await api.due.of_job(job.id, count=DUE_TIMES)).due if has_future else []
    now = site.now()

    def text(instant: Any, form: str = "full") -> str:
        return formatting.text_of(instant, site.tz, now, form)

    points = [
        (each.scheduled_for, each.duration_seconds, each.status)
        for each in reversed(runs)
        if each.duration_seconds is not None
    ]
    return site.render(
        request,
        "job.html",
        job=job,
        runs=runs,
        due=due,
        strip=strip,
        points=points,
        costs=[(_day(each.day), each.cost_usd) for each in strip],
        spending=api.job_pages.spending(totals),
        revisions=await api.job_pages.revisions(job.id),
        change=change,
        definition=await _definition(job.id),
        text=text,
        money=formatting.money,
        prefect=_prefect_link(site, await api.job_pages.deployment_id(job.id)),
        conflict=await _conflict(job.id) if job.conflicts and job.removed_at is None else None,
    )


async def _conflict(job_id: str) -> Conflict | None:
    listed = await api.conflicts.list_conflicts()
    return next((each for each in listed if each.id == job_id), None)


def _day(day: date) -> str:
    return f"{day:%a} {day.day} {day:%b}"


async def _definition(job_id: str) -> str:
    """Return the job as a jobs file; the reason if no file can contain it."""
    try:
        text, _ = await api.files.export([job_id])
    except DaybookError as error:
        return f"# {error}"
    return text


def _prefect_link(site: Site, deployment_id: str | None) -> str:
    if not deployment_id or not site.prefect_ui:
        return ""
    return f"{site.prefect_ui}/deployments/deployment/{deployment_id}"


def change(old: Any, new: Any) -> Markup:
    """Return a change of a field: removed and added lines of a text, or the two values."""
    before, after = _lines(old), _lines(new)
    parts = list[str]()
    for line in difflib.ndiff(before, after):
        if line.startswith("- "):
            parts.append(f"<del>{escape(line[2:])}</del>")
        elif line.startswith("+ "):
            parts.append(f"<ins>{escape(line[2:])}</ins>")
    return Markup(f'<div class="diff">{"".join(parts)}</div>')


MAX_COMPARED_LINES = 400


def _lines(value: Any) -> list[str]:
    if value is None or value in ("", [], {}):
        return []
    if not isinstance(value, str):
        value = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    lines = value.splitlines()
    more = len(lines) - MAX_COMPARED_LINES
    return [*lines[:MAX_COMPARED_LINES], f"… {more} more lines"] if more > 0 else lines


async def run(ref: str, form: Form) -> Done:
    """Run a job now."""
    asked = await api.runs.run(ref, request_id=form.get("request_id") or None)
    return Done(f"/runs/{asked.id}", "requested")


async def pause(ref: str, form: Form) -> Done:
    """Pause a job, with a note."""
    return _done(await api.jobs.pause(ref, form.get("note")), "paused")


async def resume(ref: str, form: Form) -> Done:
    """Enable a job and end its snooze."""
    return _done(await api.jobs.resume(ref), "resumed")


async def skip(ref: str, form: Form) -> Done:
    """Skip the next due time of a job."""
    return _done(await api.skips.skip(ref), "skipped")


async def unskip(ref: str, form: Form) -> Done:
    """Skip none of the coming due times any more."""
    return _done(await api.skips.skip(ref, undo=True), "unskipped")


async def snooze(ref: str, form: Form) -> Done:
    """Skip all due times until a time."""
    return _done(await api.skips.snooze(ref, form.get("until")), "snoozed")


async def unsnooze(ref: str, form: Form) -> Done:
    """End a snooze."""
    return _done(await api.skips.snooze(ref, None), "unsnoozed")


async def remove(ref: str, form: Form) -> Done:
    """Remove a job; its history is kept."""
    await api.jobs.remove(ref)
    return Done("/jobs", "removed")


async def resolve(ref: str, form: Form) -> Done:
    """Resolve a conflict in favour of the ledger or of Prefect."""
    job = await api.jobs.show(ref)
    await api.sync.sync(form.get("prefer"), job.id)
    return _done(job, "resolved")


async def new(site: Site, request: Request) -> Response:
    """Show the form of a new job; after a preview, with its next due times."""
    given = new_job_fields(typed(request))
    preview = None
    if given.get("schedule"):
        with suppress(InvalidInput):  # the form shows it
            preview = _preview(given)
    return site.render(request, "new_job.html", preview=preview, zone_name=site.tz.key)


async def preview(ref: str, form: Form) -> None:
    """Check the schedule of a new job; store nothing."""
    _preview(new_job_fields(form))


def _preview(given: dict[str, str]) -> DueTimes:
    return api.due.of_schedule(
        schedule=given.get("schedule", ""), timezone=given.get("timezone"), count=PREVIEWED
    )


async def add(ref: str, form: Form) -> Done:
    """Add a job; the same form sent twice adds one."""
    given: dict[str, Any] = dict(new_job_fields(form))
    if request_id := form.get("request_id"):
        given["idempotency_key"] = request_id
    return _done(await api.jobs.add(given), "added")


def new_job_fields(form: Form) -> dict[str, str]:
    """Return the fields of a new job that are not blank."""
    given = {name: form.get(name).strip() for name in NEW_JOB_FIELDS}
    return {name: value for name, value in given.items() if value}


def _done(job: ListedJob, message: str) -> Done:
    return Done(f"/jobs/{job.id}", message)


ROUTES = (
    Page("/jobs", index, live=True),
    Page("/jobs/new", new),
    Page("/jobs/{ref}", show, live=True),
)
ACTIONS = (
    Action("/jobs/new", add, new, fields=NEW_JOB_FIELDS, uses_prefect=True),
    Action("/jobs/new/preview", preview, new, fields=NEW_JOB_FIELDS),
    Action("/jobs/{ref}/run", run, show, uses_prefect=True),
    Action("/jobs/{ref}/pause", pause, show, fields=("note",), uses_prefect=True),
    Action("/jobs/{ref}/resume", resume, show, uses_prefect=True),
    Action("/jobs/{ref}/skip", skip, show),
    Action("/jobs/{ref}/unskip", unskip, show),
    Action("/jobs/{ref}/snooze", snooze, show, fields=("until",)),
    Action("/jobs/{ref}/unsnooze", unsnooze, show),
    Action("/jobs/{ref}/remove", remove, show, uses_prefect=True),
    Action("/jobs/{ref}/resolve", resolve, show, uses_prefect=True),
)
