"""The pages of jobs: the list, and one job with its history, revisions and definition."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import date
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from daybook import api
from daybook.api.job_pages import ORDERS, STATES, Choice, DayStrip
from daybook.errors import DaybookError, InvalidInput
from daybook.jobs.views import ListedJob
from daybook.names import Id
from daybook.runs import daily
from daybook.schedules.zones import time_text
from daybook.web import formatting
from daybook.web.pages.actions import Done, PageAction
from daybook.web.pages.forms import Form
from daybook.web.pages.site import Page, Site

HISTORY = 100
"""Number of runs in the charts and the history of a job."""
DUE_TIMES = 10


def choice_of(request: Request) -> Choice:
    """Return the filters in the address of a list."""
    given = request.query_params
    return Choice(
        text=given.get("q", "").strip(),
        tag=given.get("tag", ""),
        state=given.get("state", ""),
        owner=given.get("owner", ""),
        agent=given.get("agent", ""),
    )


def page_number(request: Request) -> int:
    """Return the page number in the address of a list; 1 if there is none or it is no number."""
    text = request.query_params.get("page", "")
    return int(text) if text.isdecimal() and len(text) < 7 else 1


async def index(site: Site, request: Request) -> Response:
    """List the jobs, with filters."""
    choice = choice_of(request)
    order = request.query_params.get("sort", "name")
    page = await api.job_pages.list_page(choice, page_number(request), order)
    days = daily.days(site.now(), site.tz)
    totals = await api.job_pages.totals([each.id for each in page.jobs], days, site.tz)
    strips = api.job_pages.strips(totals, days)
    empty = [DayStrip(day) for day in days]
    return site.render(
        request,
        "jobs.html",
        page=page,
        choice=choice,
        states=STATES,
        orders=list(ORDERS),
        order=order,
        strips={each.id: strips.get(each.id, empty) for each in page.jobs},
        cost_per_day=_cost_per_day,
    )


def _cost_per_day(strip: Sequence[DayStrip]) -> float | None:
    """Return the mean cost of the days with runs, in US dollars; None if no cost is known."""
    known = [each.cost_usd for each in strip if each.cost_usd is not None]
    return sum(known) / sum(bool(each.counts) for each in strip) if known else None


async def show(site: Site, request: Request) -> Response:
    """Show one job."""
    ref = request.path_params["ref"]
    found = await api.job_pages.overview(ref, runs=HISTORY, due_times=DUE_TIMES)
    job = found.job
    days = daily.days(site.now(), site.tz)
    totals = await api.job_pages.totals([job.id], days, site.tz)
    strip = api.job_pages.strips(totals, days).get(job.id) or [DayStrip(day) for day in days]
    now = site.now()

    def text(instant: Any, form: str = "full") -> str:
        return time_text(instant, site.tz, now, form)

    points = [
        (each.scheduled_for, each.duration_seconds, each.status)
        for each in reversed(found.runs)
        if each.duration_seconds is not None
    ]
    return site.render(
        request,
        "job.html",
        **vars(found),
        last_answer=found.last_answer,
        zone_of_job=job.schedule.timezone,
        strip=strip,
        points=points,
        costs=[(_day(each.day), each.cost_usd) for each in strip],
        spending=daily.spending(totals),
        text=text,
        money=formatting.money,
        prefect=_prefect_link(site, found.deployment_id),
    )


def _day(day: date) -> str:
    return f"{day:%a} {day.day} {day:%b}"


def _prefect_link(site: Site, deployment_id: str | None) -> str:
    if not deployment_id or not site.prefect_ui:
        return ""
    return f"{site.prefect_ui}/deployments/deployment/{deployment_id}"


async def run(ref: str, form: Form) -> Done:
    """Run a job now."""
    asked = await api.runs.run(ref, request_id=form.get("request_id") or None)
    return Done(f"/runs/{asked.id}", "requested")


async def run_prompt(ref: str, form: Form) -> Done:
    """Run a job now with another prompt, which only this run gets."""
    asked = await api.runs.run(
        ref, request_id=form.get("request_id") or None, prompt=form.get("prompt")
    )
    return Done(f"/runs/{asked.id}", "requested")


async def pause(ref: str, form: Form) -> Done:
    """Pause a job, with a note."""
    return _done(await api.jobs.pause(ref, form.get("note")), "paused")


async def resume(ref: str, form: Form) -> Done:
    """Enable a job and end its snooze."""
    return _done(await api.jobs.resume(ref), "resumed")


async def pause_selected(ref: str, form: Form) -> Done:
    """Pause the selected jobs."""
    return Done("/jobs", "selected-paused", notes=await _change_selected(form, api.jobs.pause))


async def resume_selected(ref: str, form: Form) -> Done:
    """Enable the selected jobs, and end their snoozes."""
    return Done("/jobs", "selected-resumed", notes=await _change_selected(form, api.jobs.resume))


async def tag_selected(ref: str, form: Form) -> Done:
    """Add a tag to the selected jobs."""
    tag = _tag(form)
    return await _retag(form, lambda tags: [*tags, tag], "selected-tagged")


async def untag_selected(ref: str, form: Form) -> Done:
    """Remove a tag from the selected jobs."""
    tag = _tag(form)

    def without(tags: list[str]) -> list[str]:
        return [each for each in tags if each != tag]

    return await _retag(form, without, "selected-untagged")


def _tag(form: Form) -> str:
    if not (tag := form.get("tag").strip()):
        raise InvalidInput("tag", "is blank", "type the tag to add or to remove")
    return tag


async def _retag(form: Form, change: Callable[[list[str]], list[str]], message: str) -> Done:
    async def retag(ref: str) -> ListedJob:
        job = await api.jobs.show(ref)
        return await api.jobs.edit_job(ref, {"tags": change(job.tags)}, base=job.updated_at)

    return Done("/jobs", message, notes=await _change_selected(form, retag))


async def _change_selected(
    form: Form, change: Callable[[str], Awaitable[ListedJob]]
) -> Sequence[str]:
    """Change the jobs one after the other; return a line with their names.

    If one cannot be changed, do not change the following ones: raise its error or, if others have
    been changed, return it in a second line.
    """
    if not (ids := form.all("job")):
        raise InvalidInput("job", "none is selected", "select a job in the list")
    changed = list[str]()
    for each in ids:
        try:
            changed.append((await change(Id(each))).name)
        except DaybookError as error:
            if not changed:
                raise
            return [", ".join(changed), f"The others were not changed: {error}"]
    return [", ".join(changed)]


async def skip(ref: str, form: Form) -> Done:
    """Skip the next due time of a job."""
    return _done(await api.skips.skip(ref), "skipped")


async def unskip(ref: str, form: Form) -> Done:
    """Remove the skips of all future due times."""
    return _done(await api.skips.skip(ref, undo=True), "unskipped")


async def snooze(ref: str, form: Form) -> Done:
    """Skip all due times until the submitted time."""
    return _done(await api.skips.snooze(ref, form.get("until")), "snoozed")


async def unsnooze(ref: str, form: Form) -> Done:
    """End a snooze."""
    return _done(await api.skips.snooze(ref, None), "unsnoozed")


async def mute(ref: str, form: Form) -> Done:
    """Leave the answers of a job out of Today."""
    await api.answers.mute(ref)
    return Done("/", "muted")


async def unmute(ref: str, form: Form) -> Done:
    """Show the answers of a job on Today again."""
    await api.answers.mute(ref, undo=True)
    return Done("/", "unmuted")


async def remove(ref: str, form: Form) -> Done:
    """Remove a job. Its history stays."""
    await api.jobs.remove(ref)
    return Done("/jobs", "removed")


async def resolve(ref: str, form: Form) -> Done:
    """Decide a conflict in favour of the ledger or of Prefect."""
    job = await api.jobs.show(ref)
    await api.sync.sync(form.get("prefer"), job.id)
    return _done(job, "resolved")


def _done(job: ListedJob, message: str) -> Done:
    return Done(f"/jobs/{job.id}", message)


ROUTES = (Page("/jobs", index, live=True), Page("/jobs/{ref}", show, live=True))
ACTIONS = (
    PageAction("/jobs/{ref}/run", run, show, uses_prefect=True),
    PageAction("/jobs/{ref}/run-prompt", run_prompt, show, fields=("prompt",), uses_prefect=True),
    PageAction("/jobs/pause", pause_selected, index, uses_prefect=True),
    PageAction("/jobs/resume", resume_selected, index, uses_prefect=True),
    PageAction("/jobs/tag", tag_selected, index, uses_prefect=True),
    PageAction("/jobs/untag", untag_selected, index, uses_prefect=True),
    PageAction("/jobs/{ref}/mute", mute, show),
    PageAction("/jobs/{ref}/unmute", unmute, show),
    PageAction("/jobs/{ref}/pause", pause, show, fields=("note",), uses_prefect=True),
    PageAction("/jobs/{ref}/resume", resume, show, uses_prefect=True),
    PageAction("/jobs/{ref}/skip", skip, show),
    PageAction("/jobs/{ref}/unskip", unskip, show),
    PageAction("/jobs/{ref}/snooze", snooze, show, fields=("until",)),
    PageAction("/jobs/{ref}/unsnooze", unsnooze, show),
    PageAction("/jobs/{ref}/remove", remove, show, uses_prefect=True),
    PageAction("/jobs/{ref}/resolve", resolve, show, uses_prefect=True),
)
