"""The pages of jobs: the list, and one job with its history, revisions and definition."""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from datetime import date
from typing import Any

from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import Response

from daybook import api
from daybook.api.job_pages import STATES, Choice, DayStrip
from daybook.errors import DaybookError
from daybook.runs import daily
from daybook.web import formatting
from daybook.web.pages.site import Page, Site

HISTORY = 100
"""Number of runs in the charts and the history of a job."""
DUE_TIMES = 10


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
    )


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


ROUTES = (Page("/jobs", index), Page("/jobs/{ref}", show))
