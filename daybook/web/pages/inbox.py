"""The inbox: messages and alerts, newest first."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from daybook import api
from daybook.web.pages.site import Page, Site

PER_PAGE = 50


async def index(site: Site, request: Request) -> Response:
    """List the unread messages, or all."""
    shows_all = request.query_params.get("show") == "all"
    messages = await api.inbox.list_messages(unread_only=not shows_all, limit=PER_PAGE)
    return site.render(request, "inbox.html", messages=messages, shows_all=shows_all, most=PER_PAGE)


async def show(site: Site, request: Request) -> Response:
    """Show one message; it stays unread."""
    message = await api.inbox.show(request.path_params["ref"])
    return site.render(request, "message.html", message=message)


ROUTES = (Page("/inbox", index), Page("/inbox/{ref}", show))
