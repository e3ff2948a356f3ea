"""Callbacks, messages and alerts with their tries."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from daybook import api
from daybook.web.pages.site import Page, Site

PER_PAGE = 50


async def index(site: Site, request: Request) -> Response:
    """List the deliveries, by status and job."""
    given = {name: request.query_params.get(name, "").strip() for name in ("status", "job")}
    rows = await api.callbacks.list_callbacks(
        given["status"] or None, given["job"] or None, limit=PER_PAGE
    )
    states = list(api.callbacks.STATES)
    return site.render(request, "callbacks.html", rows=rows, given=given, states=states)


async def show(site: Site, request: Request) -> Response:
    """Show one delivery with its content and its tries."""
    found = await api.callbacks.show(request.path_params["ref"])
    return site.render(request, "callback.html", found=found)


ROUTES = (Page("/callbacks", index), Page("/callbacks/{ref}", show))
