"""The pages of sessions: the list, and one session with its last messages."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from daybook import api
from daybook.web.pages.site import Page, Site

PER_PAGE = 50
MESSAGES = 40


async def index(site: Site, request: Request) -> Response:
    """List the sessions, the most recently used first."""
    return site.render(
        request, "sessions.html", sessions=await api.sessions.list_sessions(PER_PAGE)
    )


async def show(site: Site, request: Request) -> Response:
    """Show one session with its last messages."""
    found = await api.sessions.show(request.path_params["ref"], MESSAGES)
    return site.render(request, "session.html", found=found, most=MESSAGES)


ROUTES = (Page("/sessions", index), Page("/sessions/{ref:path}", show))
