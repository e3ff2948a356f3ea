"""Actions: forms that change something, each by the verb of `daybook.api` that a command calls.

::

    POST, past web.login (session, origin)
      │ no token of the session ──► 403
      ▼
    Action.do ──► await api.….…
      │ an error ──► the action's page, with what was typed, and the error at its field or on top
      ▼
    303 to the page that `do` names, with one of `MESSAGES`

To add an action, write ``async def verb(ref: str, form: Form) -> Done`` in the module of its noun,
and add an `Action` to that module's `ACTIONS`; its form is `ui.action` in the template of its page.
The CSRF token is checked here, so no action can forget it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from daybook import home as homes
from daybook import owners
from daybook.errors import DaybookError, InvalidInput, NotFound, Unreachable
from daybook.web.login import read_form

if TYPE_CHECKING:
    from daybook.web.pages.site import Handler, Site

ACTOR = owners.Actor(via="web")

MESSAGES = {
    "requested": "The run was requested.",
    "paused": "The job is paused.",
    "resumed": "The job is enabled.",
    "skipped": "The next due time is skipped.",
    "unskipped": "No coming due time is skipped any more.",
    "snoozed": "The job is snoozed.",
    "unsnoozed": "The snooze has ended.",
    "removed": "The job was removed. Its history is kept.",
    "resolved": "The conflict is resolved.",
    "added": "The job was added.",
    "cancelled": "The run is cancelled.",
    "cancelling": "Its worker was asked to end the run.",
    "retried": "It is sent again now.",
    "read": "Marked as read.",
    "queued": "The task is queued again.",
    "task-cancelled": "The task is cancelled.",
}
"""What a page says after an action, by the value of `done` in its address.

An address is not a text that the page shows: anybody can write one.
"""


class Form:
    """The fields of a submitted form; each may occur more than once."""

    def __init__(self, fields: dict[str, list[str]]) -> None:
        # Browsers send each line break of a text as CR LF.
        self._fields = {
            name: [each.replace("\r\n", "\n") for each in values] for name, values in fields.items()
        }

    def get(self, name: str, default: str = "") -> str:
        """Return the first value of a field, ``default`` if the form has none."""
        return (self._fields.get(name) or [default])[0]

    def all(self, name: str) -> list[str]:
        """Return all values of a field."""
        return self._fields.get(name, [])


@dataclass(frozen=True)
class Done:
    """The address of the page to continue with, and the key of its message in `MESSAGES`."""

    address: str
    message: str


@dataclass(frozen=True)
class Action:
    """A path with a verb; ``page`` shows its errors, those of ``fields`` at the field.

    ``path`` begins with the path of ``page``, so both have the same parameters. If ``do`` returns
    None, the page is shown with what was typed: for a form that changes nothing. A verb that
    ``uses_prefect`` imports Prefect's client, which takes seconds: first a thread does.
    """

    path: str
    do: Callable[[str, Form], Awaitable[Done | None]]
    page: Handler
    fields: tuple[str, ...] = ()
    uses_prefect: bool = False


@dataclass(frozen=True)
class Mistake:
    """Why an action changed nothing; ``field`` is empty unless the form has the field."""

    text: str
    field: str = ""

    @classmethod
    def of(cls, error: DaybookError, fields: tuple[str, ...]) -> Mistake:
        """Return the mistake of a form with these fields."""
        field = error.field if isinstance(error, InvalidInput) else ""
        return cls(str(error), field if field in fields else "")


def perform(site: Site, action: Action) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint of an action."""

    async def handler(site: Site, request: Request) -> Response:
        try:
            form = Form(await read_form(request))
        except InvalidInput as error:
            return site.failed(request, 403, "This form is out of date", error)
        try:
            if action.uses_prefect:
                await load_prefect()
            with owners.acting_as(ACTOR):
                done = await action.do(request.path_params.get("ref", ""), form)
        except DaybookError as error:
            request.state.mistake = Mistake.of(error, action.fields)
            request.state.typed = form
            response = await action.page(site, request)
            response.status_code = status_of(error)
            return response
        if done is None:
            request.state.typed = form
            return await action.page(site, request)
        return RedirectResponse(f"{done.address}?{urlencode({'done': done.message})}", 303)

    return site.handle(handler)


def status_of(error: DaybookError) -> int:
    """Return the status code of a page about an error."""
    for kind, code in ((NotFound, 404), (InvalidInput, 400), (Unreachable, 503)):
        if isinstance(error, kind):
            return code
    return 500


async def load_prefect() -> None:
    """Import Prefect's client, which takes seconds, in a thread: other pages answer meanwhile."""
    homes.configure_prefect()
    await asyncio.to_thread(import_module, "prefect.client.orchestration")
