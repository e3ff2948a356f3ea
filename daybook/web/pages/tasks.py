"""Tasks, their scheduler, and the sessions that claim them."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from daybook import api
from daybook.tasks.states import Status
from daybook.web.pages.site import Page, Site

PER_PAGE = 50


async def index(site: Site, request: Request) -> Response:
    """Show the scheduler, the tasks and the task sessions."""
    status = request.query_params.get("status", "")
    return site.render(
        request,
        "tasks.html",
        scheduler=await api.task_scheduler.status(),
        tasks=await api.tasks.list_tasks(status or None, PER_PAGE),
        sessions=await api.tasks.list_sessions(),
        status=status,
        statuses=list(Status),
    )


async def show(site: Site, request: Request) -> Response:
    """Show one task with its runs and events."""
    task = await api.tasks.show(request.path_params["ref"])
    return site.render(request, "task.html", task=task)


ROUTES = (Page("/tasks", index), Page("/tasks/{ref}", show))
