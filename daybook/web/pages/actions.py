"""Actions: forms that change something. Each calls an operation of `daybook.api`, as commands do.

::

    POST, past web.login (session, origin)
      │ no token of the session ──► 403
      ▼
    Action.do ──► await api.….…
      │ an error ──► the action's page, with the typed texts; the error is at its field or on top
      ▼
    303 to the page that `do` names, with one of `forms.MESSAGES`

To add an action, write ``async def verb(ref: str, form: Form) -> Done`` in the module of its noun,
and add an `PageAction` to that module's `ACTIONS`. The template of its page writes the form with
`ui.action`. This module checks the CSRF token for all actions, so no action can omit the check.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from daybook import home as homes
from daybook import owners
from daybook.errors import DaybookError, InvalidInput, NotFound, Unreachable
from daybook.jobs.views import FieldChange
from daybook.redaction import HIDDEN, redact, spellings
from daybook.web.login import csrf_token, read_form
from daybook.web.pages.forms import Form, FormError
from daybook.web.pages.site import Handler, Site

ACTOR = owners.Actor(via="web")


@dataclass(frozen=True)
class Done:
    """The address of the next page, and the key of its message in `MESSAGES`; "" for no message.

    The page also shows the ``changes`` and ``notes``, from the element with the id ``fragment`` on,
    and ``secret``, a value that Daybook has made and shows only this once.
    """

    address: str
    message: str
    changes: Sequence[FieldChange] = ()
    notes: Sequence[str] = ()
    fragment: str = ""
    secret: str = field(default="", repr=False)


@dataclass(frozen=True)
class PageAction:
    """A path with its function ``do``.

    If the field of an error is in ``fields``, ``page`` shows the error at this field; None stands
    for all fields of the submitted form. ``aliases`` maps names in errors to ``fields``. ``path``
    and the path of ``page`` have the same parameters.
    If ``do`` returns None, because the form changes nothing, the server shows ``page`` with the
    typed texts. If ``uses_prefect`` is true, a thread imports Prefect's client before ``do`` is
    called, because the import takes seconds. No page shows a field of ``secrets`` again. If
    ``once`` is true, ``do`` is called only once for a form that is sent twice (`request_id`).
    """

    path: str
    do: Callable[[str, Form], Awaitable[Done | None]]
    page: Handler
    fields: tuple[str, ...] | None = ()
    aliases: Mapping[str, str] = field(default_factory=dict)
    uses_prefect: bool = False
    secrets: tuple[str, ...] = ()
    once: bool = False


def perform(site: Site, action: PageAction) -> Callable[[Request], Awaitable[Response]]:
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
                ref = request.path_params.get("ref", "")
                if action.once and form.get("request_id"):
                    key = f"{csrf_token(request)} {request.url.path} {form.digest()}"
                    done = await site.once(key, lambda: action.do(ref, form))
                else:
                    done = await action.do(ref, form)
        except DaybookError as error:
            fields = form.names if action.fields is None else action.fields
            mistake = FormError.of(error, fields, action.aliases)
            given = {each: HIDDEN for name in action.secrets for each in spellings(form.get(name))}
            request.state.mistake = replace(mistake, text=redact(mistake.text, given))
            request.state.typed = form.without(action.secrets)
            response = await action.page(site, request)
            response.status_code = status_of(error)
            return response
        if done is None:
            request.state.typed = form.without(action.secrets)
            return await action.page(site, request)
        query = dict[str, str]()
        if done.message:
            query = {"done": done.message, "at": str(int(site.now().timestamp()))}
        if done.changes or done.notes or done.secret:
            query["kept"] = site.keep(done.changes, done.notes, done.secret)
        address = f"{done.address}?{urlencode(query)}" if query else done.address
        return RedirectResponse(address + (f"#{done.fragment}" if done.fragment else ""), 303)

    return site.handle(handler)


def status_of(error: DaybookError) -> int:
    """Return the HTTP status of a page about an error."""
    for kind, code in ((NotFound, 404), (InvalidInput, 400), (Unreachable, 503)):
        if isinstance(error, kind):
            return code
    return 500


async def load_prefect() -> None:
    """Import Prefect's client in a thread. This takes seconds, but the server answers meanwhile."""
    homes.configure_prefect()
    await asyncio.to_thread(import_module, "prefect.client.orchestration")
