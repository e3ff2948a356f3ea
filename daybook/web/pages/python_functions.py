"""The page of the Python functions: tools and listeners, with what they do and where they are."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from daybook import api
from daybook.web.pages.documents import only_operator
from daybook.web.pages.site import Page, SettingsLink, Site

PATH = "/settings/functions"


async def show(site: Site, request: Request) -> Response:
    """List the functions."""
    only_operator(request)
    found = await api.python_functions.list_functions()
    return site.render(request, "python_functions.html", found=found)


async def _state() -> str:
    found = await api.python_functions.list_functions()
    counts = ((len(found.tools), "tool"), (len(found.listeners), "listener"))
    words = [f"{count} {noun}{'' if count == 1 else 's'}" for count, noun in counts if count]
    wrong = [each.name for each in (*found.tools, *found.listeners) if each.problem]
    wrong += found.absent
    broken = [f"does not work: {', '.join(wrong[:3])}"] if wrong else []
    return ", ".join([*words, *broken]) or "none"


SETTINGS = (
    SettingsLink(
        PATH,
        "Python functions",
        "Tools and listeners of installed packages and of plugins.",
        _state,
    ),
)
ROUTES = (Page(PATH, show),)
