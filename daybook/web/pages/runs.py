"""The pages of runs: the list, one run with its life, its log, and its transcript to download."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from daybook import api
from daybook.api.filters import RunFilters
from daybook.api.run_life import RunLife
from daybook.errors import DaybookError, InvalidInput
from daybook.jobs.model import read_parameters
from daybook.ledger.states import LIVE, TERMINAL, Status
from daybook.web.pages.actions import Done, PageAction, load_prefect
from daybook.web.pages.forms import Form
from daybook.web.pages.site import Page, Site

PER_PAGE = 50
MAX_LOG_LINES = 2_000
CANCEL_PATIENCE_SECONDS = 5.0
"""Maximum time that a page waits for a worker to end a cancelled run."""


async def index(site: Site, request: Request) -> Response:
    """List the last runs of all jobs, or of one job, with filters."""
    given = {name: request.query_params.get(name, "").strip() for name in ("job", "status")}
    filters = RunFilters(status=[given["status"]] if given["status"] else [])
    runs = await api.run_lists.recent(given["job"] or None, PER_PAGE, filters)
    return site.render(request, "runs.html", runs=runs, given=given, statuses=list(Status))


async def show(site: Site, request: Request) -> Response:
    """Show one run."""
    life = await api.run_life.show(request.path_params["ref"])
    return site.render(
        request,
        "run.html",
        life=life,
        run=life.run,
        sent=sent(life),
        hints=await api.advice.of_job(life.run.job_id),
        usage=life.run.usage or {},
        prefect=_prefect_link(site, life.run.flow_run_id),
        can_cancel=life.run.status in LIVE,
        can_retry=life.run.status in TERMINAL and life.run.job_id and not life.run.job_removed,
    )


async def work(site: Site, request: Request) -> Response:
    """Show, as a part of another page, how a run has answered: tools, sources and cost."""
    life = await api.run_life.show(request.path_params["ref"])
    return site.render(request, "run_work.html", life=life, run=life.run, usage=life.run.usage)


async def log(site: Site, request: Request) -> Response:
    """Show the log of one run, which Prefect stores."""
    ref = request.path_params["ref"]
    lines, problem, more = list[Any](), "", False
    try:
        await load_prefect()
        async for line in api.runs.logs(ref):
            if len(lines) == MAX_LOG_LINES:
                more = True
                break
            lines.append(line)
    except DaybookError as error:
        problem = str(error)
    is_fragment = "hx-request" in request.headers
    template = "run_log_lines.html" if is_fragment else "run_log.html"
    return site.render(
        request, template, ref=ref, lines=lines, problem=problem, more=more, most=MAX_LOG_LINES
    )


async def transcript_markdown(site: Site, request: Request) -> Response:
    """Download the transcript of one run as Markdown."""
    found = await api.transcripts.read(request.path_params["ref"])
    text = api.transcripts.to_markdown(found)
    return _download(text, "text/markdown", f"transcript-{found.run.id[:8]}.md")


async def transcript_json(site: Site, request: Request) -> Response:
    """Download the transcript of one run as JSON."""
    found = await api.transcripts.read(request.path_params["ref"])
    text = found.model_dump_json(indent=2)
    return _download(text, "application/json", f"transcript-{found.run.id[:8]}.json")


async def file(site: Site, request: Request) -> Response:
    """Download a file that the run has written, as it was then; no browser shows it as a page."""
    given = request.path_params
    found = await api.run_files.read(given["ref"], given["path"])
    return _download(found.content, "application/octet-stream", found.path.rpartition("/")[2])


def _download(content: str | bytes, media_type: str, name: str) -> Response:
    plain = re.sub(r"[^A-Za-z0-9._ -]", "_", name).lstrip(". ") or "file"
    headers = {"content-disposition": f'attachment; filename="{plain}"'}
    if plain != name:
        headers["content-disposition"] += f"; filename*=UTF-8''{quote(name, safe='')}"
    return Response(content, media_type=media_type, headers=headers)


async def cancel(ref: str, form: Form) -> Done:
    """Cancel a run."""
    run = await api.runs.cancel(ref, within=CANCEL_PATIENCE_SECONDS)
    ended = run.status == Status.CANCELLED
    return Done(f"/runs/{run.id}", "cancelled" if ended else "cancelling")


async def retry(ref: str, form: Form) -> Done:
    """Repeat a run that has ended."""
    run = await api.runs.retry(ref, request_id=form.get("request_id") or None)
    return Done(f"/runs/{run.id}", "requested")


def sent(life: RunLife) -> list[tuple[str, str]]:
    """Return the texts that the run sent to its agent, tool or URL, each with a label.

    Return no texts if the run's parameters are invalid.
    """
    try:
        action, *_ = read_parameters(life.run.kind, life.parameters)
    except InvalidInput:  # with invalid parameters, the run never began
        return []
    return [(label, text) for label, text in action.sent() if text]


def _prefect_link(site: Site, flow_run_id: str | None) -> str:
    if not flow_run_id or not site.prefect_ui:
        return ""
    return f"{site.prefect_ui}/runs/flow-run/{flow_run_id}"


ROUTES = (
    Page("/runs", index, live=True),
    Page("/runs/{ref}", show, live=True),
    Page("/runs/{ref}/work", work),
    Page("/runs/{ref}/log", log),
    Page("/runs/{ref}/transcript.md", transcript_markdown),
    Page("/runs/{ref}/transcript.json", transcript_json),
    Page("/runs/{ref}/files/{path:path}", file),
)

ACTIONS = (
    PageAction("/runs/{ref}/cancel", cancel, show, uses_prefect=True),
    PageAction("/runs/{ref}/retry", retry, show, uses_prefect=True),
)
