"""Static files: the style sheet, htmx, and the classes of positions."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

FOLDER = files("daybook.web") / "static"
TYPES = {
    **{"css": "text/css; charset=utf-8", "js": "text/javascript", "svg": "image/svg+xml"},
    **{"png": "image/png", "webmanifest": "application/manifest+json"},
}
WORKER = "sw.js"
"""The service worker. Its address has no digest, because it must not change, and it serves `/`."""
POSITIONS = "positions.css"
"""Style sheet with the classes `p0` … `p1000`: a position in thousandths from the left.

The policy of the pages permits no `style` attribute.
"""


NAMES = frozenset({POSITIONS, *(each.name for each in FOLDER.iterdir())})


@cache
def _content(name: str) -> bytes:
    """Return the content of a file. ``name`` must be in `NAMES`, which bounds the cache."""
    if name == POSITIONS:
        return "".join(f".p{each}{{left:{each / 10:g}%}}" for each in range(1001)).encode()
    return (FOLDER / name).read_bytes()


@cache
def url(name: str) -> str:
    """Return the address of a static file, by its content, so that browsers may store it."""
    return f"/static/{name}?v={hashlib.sha256(_content(name)).hexdigest()[:12]}"


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    kind = TYPES.get(name.rpartition(".")[2])
    if kind is None or name not in NAMES:
        return Response("not found\n", 404, media_type="text/plain")
    headers = {"cache-control": "public, max-age=31536000, immutable"}
    if "v" not in request.query_params:
        headers = {"cache-control": "no-cache"}
    if name == WORKER:
        headers["service-worker-allowed"] = "/"
    return Response(_content(name), headers=headers, media_type=kind)


ROUTES = (Route("/static/{name:path}", _static),)
