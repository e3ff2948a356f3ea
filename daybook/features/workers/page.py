"""The page with the workers of the ledger."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from daybook.features.workers import operations
from daybook.features.workers.operations import WorkerState
from daybook.web.login import admitted
from daybook.web.pages.actions import Done, PageAction
from daybook.web.pages.forms import Form
from daybook.web.pages.site import OnlyShown, Page, SettingsLink, Site

PATH = "/settings/workers"

MESSAGES = {
    "worker-draining": "The worker starts no further run. Its active runs go on.",
    "worker-resumed": "The worker starts runs again within seconds.",
}


async def index(site: Site, request: Request) -> Response:
    """List the workers."""
    if admitted(request).session.viewer:
        raise OnlyShown
    return site.render(request, "workers.html", workers=await operations.list_workers())


async def drain(ref: str, form: Form) -> Done:
    """Let a worker drain."""
    await operations.drain(form.get("worker"))
    return Done(PATH, "worker-draining")


async def resume(ref: str, form: Form) -> Done:
    """Let a draining worker start runs again."""
    await operations.resume(form.get("worker"))
    return Done(PATH, "worker-resumed")


async def _count() -> str:
    found = await operations.list_workers()
    return f"{sum(each.state is WorkerState.ONLINE for each in found)} online"


SETTINGS = (
    SettingsLink(PATH, "Workers", "Machines that run jobs, and which of them drain", _count),
)
ROUTES = (Page(PATH, index),)
ACTIONS = (
    PageAction(PATH + "/drain", drain, index),
    PageAction(PATH + "/resume", resume, index),
)
