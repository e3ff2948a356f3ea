"""The inbox: messages and alerts, newest first."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from daybook import api
from daybook.errors import InvalidInput
from daybook.web.pages.actions import Done, PageAction
from daybook.web.pages.forms import Form
from daybook.web.pages.site import Page, Site

PER_PAGE = 50


async def index(site: Site, request: Request) -> Response:
    """List the unread messages. If the address has `show=all`, list all messages."""
    shows_all = request.query_params.get("show") == "all"
    messages = await api.inbox.list_messages(unread_only=not shows_all, limit=PER_PAGE)
    return site.render(request, "inbox.html", messages=messages, shows_all=shows_all, most=PER_PAGE)


async def show(site: Site, request: Request) -> Response:
    """Show one message. The message stays unread."""
    message = await api.inbox.show(request.path_params["ref"])
    return site.render(request, "message.html", message=message)


async def read(ref: str, form: Form) -> Done:
    """Mark one message as read."""
    await api.inbox.mark_read([ref])
    return Done("/inbox", "read")


async def read_shown(ref: str, form: Form) -> Done:
    """Mark the messages that the list has shown as read, but not messages that arrived later."""
    shown = form.all("message")
    if not shown:  # `mark_read` marks all messages if it gets none
        raise InvalidInput("message", "is missing", "reload the page and try again")
    await api.inbox.mark_read(shown)
    return Done("/inbox", "read")


ROUTES = (Page("/inbox", index, live=True), Page("/inbox/{ref}", show, live=True))

ACTIONS = (
    PageAction("/inbox/{ref}/read", read, show),
    PageAction("/inbox/read", read_shown, index),
)
