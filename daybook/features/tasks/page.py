"""The pages of tasks, with the task scheduler and the task sessions."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from daybook.features.tasks import operations, scheduler_operations
from daybook.features.tasks.states import LIVE, RETRYABLE, TaskRunStatus
from daybook.web.pages.actions import Done, PageAction
from daybook.web.pages.forms import Form
from daybook.web.pages.site import Page, Site

PER_PAGE = 50


async def index(site: Site, request: Request) -> Response:
    """Show the scheduler, the tasks and the task sessions."""
    status = request.query_params.get("status", "")
    return site.render(
        request,
        "tasks.html",
        scheduler=await scheduler_operations.status(),
        tasks=await operations.list_tasks(status or None, PER_PAGE),
        sessions=await operations.list_sessions(),
        status=status,
        statuses=list(TaskRunStatus),
    )


async def show(site: Site, request: Request) -> Response:
    """Show one task with its runs and events."""
    task = await operations.show(request.path_params["ref"])
    return site.render(
        request,
        "task.html",
        task=task,
        can_cancel=task.status in LIVE,
        can_retry=task.status in RETRYABLE,
    )


async def retry(ref: str, form: Form) -> Done:
    """Queue another run of a task."""
    return Done(f"/tasks/{(await operations.retry(ref)).id}", "queued")


async def cancel(ref: str, form: Form) -> Done:
    """Cancel the live run of a task."""
    return Done(f"/tasks/{(await operations.cancel(ref, form.get('reason'))).id}", "task-cancelled")


MESSAGES = {
    "queued": "The task is queued again.",
    "task-cancelled": "The task is cancelled.",
}

ROUTES = (Page("/tasks", index, live=True), Page("/tasks/{ref}", show, live=True))

ACTIONS = (
    PageAction("/tasks/{ref}/retry", retry, show),
    PageAction("/tasks/{ref}/cancel", cancel, show, fields=("reason",)),
)
