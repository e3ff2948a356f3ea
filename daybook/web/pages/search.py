"""The page of search results."""

from __future__ import annotations

from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response

from daybook import api
from daybook.api.search import MAX_OF_KIND, SearchResult
from daybook.web.pages.site import Page, Site

_GROUPS = {"job": "Jobs", "session": "Sessions", "run": "Runs and answers", "agent": "Agents"}


async def index(site: Site, request: Request) -> Response:
    """Show what contains the text of the address, by kind; without a text, only the form."""
    text = request.query_params.get("q", "").strip()
    found = await api.search.find(text)
    groups = [
        (title, [(_path(each), each) for each in found if each.kind == kind])
        for kind, title in _GROUPS.items()
    ]
    return site.render(
        request,
        "search.html",
        text=text,
        groups=[(title, rows) for title, rows in groups if rows],
        pages=[link for link in site.navigation if text and text.casefold() in link[1].casefold()],
        most=MAX_OF_KIND,
    )


def _path(found: SearchResult) -> str:
    return f"/{found.kind}s" + ("" if found.kind == "agent" else f"/{quote(found.id)}")


ROUTES = (Page("/search", index),)
