"""The pages of changes: those that wait for a person, and one change with its diff."""

from __future__ import annotations

import asyncio
import shlex
from functools import lru_cache

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select
from starlette.requests import Request
from starlette.responses import Response

from daybook import api
from daybook.errors import InvalidInput, NotFound
from daybook.features.repositories import diff_view, operations
from daybook.features.repositories.operations import RepositoryChange, RepositoryChangeDetails
from daybook.features.repositories.store import Store
from daybook.features.repositories.tables import ChangeRow, ChangeStatus
from daybook.ledger.views import RunLink
from daybook.names import Id
from daybook.policies.repositories import Upstream
from daybook.web.pages.actions import Done, PageAction
from daybook.web.pages.forms import Form
from daybook.web.pages.site import Page, Site

PER_PAGE = 50
LANDING_PATIENCE_SECONDS = 5.0
"""Maximum time that a page waits for a landing, which may verify the change again."""
MAX_KEPT_DIFFS = 4
MAX_OTHERS = 500
"""Maximum number of files that a page only names, because its diff does not have them."""

SYMBOLS = {
    ChangeStatus.WORKING: "running",
    ChangeStatus.UNCHANGED: "skipped",
    ChangeStatus.WAITING: "waiting",
    ChangeStatus.LANDING: "running",
    ChangeStatus.LANDED: "succeeded",
    ChangeStatus.BRANCHED: "succeeded",
    ChangeStatus.PROPOSED: "succeeded",
    ChangeStatus.DISCARDED: "cancelled",
    ChangeStatus.REPLACED: "skipped",
}
"""By the status of a change, the status of a run whose colour and symbol the page shows."""

_diff = lru_cache(maxsize=MAX_KEPT_DIFFS)(diff_view.show)
_landings = set[asyncio.Task[RepositoryChange]]()


async def index(site: Site, request: Request) -> Response:
    """List the changes, those that wait for a person first."""
    changes = await operations.list_changes(PER_PAGE)
    return site.render(request, "changes.html", changes=changes, symbols=SYMBOLS, most=PER_PAGE)


async def show(site: Site, request: Request) -> Response:
    """Show one change; its diff side by side if the address has `view=split`."""
    change = await operations.show(request.path_params["ref"])
    is_split = request.query_params.get("view") == "split"
    try:
        run = await api.runs.show(Id(change.run_id))
    except NotFound:  # retention has deleted it
        run = None
    shown = await asyncio.to_thread(_diff, change.patch, is_split=is_split)
    is_whole = not (shown.is_cut or shown.left_out_files)
    others = [] if is_whole else [each for each in change.files if each.path not in shown.paths]
    return site.render(
        request,
        "change.html",
        found=change,
        answer=run.output if run else "",
        symbols=SYMBOLS,
        shown=shown,
        others=others[:MAX_OTHERS],
        count_of_others=len(others),
        command=diff_command(change),
    )


def diff_command(change: RepositoryChangeDetails) -> str:
    """Return a command that prints the whole diff, on the machine of the run."""
    repository = str(Store(Upstream.parse(change.repo)).repository)
    return shlex.join(["git", "-C", repository, "diff", change.base[:12], change.head[:12]])


async def land(ref: str, form: Form) -> Done:
    """Land a change. If it takes long, it goes on while the page is shown."""
    landing = asyncio.create_task(operations.land(Id(ref)))
    _landings.add(landing)  # the event loop has only a weak reference
    landing.add_done_callback(_landings.discard)
    done, _ = await asyncio.wait({landing}, timeout=LANDING_PATIENCE_SECONDS)
    if not done:
        landing.add_done_callback(_ignore_error)
        return Done(f"/changes/{ref}", "change-landing")
    change = landing.result()
    if change.status == ChangeStatus.WAITING:
        hint = "ask for a change, or discard it"
        raise InvalidInput("run", "its change has not landed, as the page says", hint)
    return Done(f"/changes/{ref}", "change-landed")


def _ignore_error(landing: asyncio.Task[RepositoryChange]) -> None:
    """Take the error of a landing, which the change names, or after which the keeper goes on."""
    if not landing.cancelled():
        landing.exception()


async def ask(ref: str, form: Form) -> Done:
    """Request a run that continues the change."""
    run = await operations.ask(Id(ref), form.get("prompt"))
    return Done(f"/runs/{run.id}", "change-asked")


async def discard(ref: str, form: Form) -> Done:
    """Discard a change, perhaps with a note for the next run."""
    await operations.discard(Id(ref), form.get("note"))
    return Done(f"/changes/{ref}", "change-discarded")


async def links(session: AsyncSession, run_id: str) -> list[RunLink]:
    """Return the link from the page of a run to its change."""
    query = select(ChangeRow.status).where(col(ChangeRow.run_id) == run_id)
    status = (await session.execute(query)).scalar()
    if status in (None, ChangeStatus.WORKING, ChangeStatus.UNCHANGED):
        return []
    verb = "Review" if status == ChangeStatus.WAITING else "Show"
    return [RunLink(path=f"/changes/{run_id}", text=f"{verb} the change")]


MESSAGES = {
    "change-landed": "The change has landed.",
    "change-landing": "The change is landing. This page says when it is done.",
    "change-asked": "The run was requested. Its change takes the place of this one.",
    "change-discarded": "The change is discarded.",
}

ROUTES = (Page("/changes", index, live=True), Page("/changes/{ref}", show, live=True))

ACTIONS = (
    PageAction("/changes/{ref}/land", land, show),
    PageAction("/changes/{ref}/ask", ask, show, fields=("prompt",), uses_prefect=True),
    PageAction("/changes/{ref}/discard", discard, show, fields=("note",)),
)
