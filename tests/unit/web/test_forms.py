"""Forms of the pages: a write needs the token of the session."""

from __future__ import annotations

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from daybook.errors import InvalidInput
from daybook.operations import peers
from daybook.web.login import CSRF_FIELD, CSRF_HEADER, PageLogin, csrf_token, read_form

pytestmark = pytest.mark.anyio
OWN = "http://127.0.0.1:4280"


async def _token(request: Request) -> Response:
    return PlainTextResponse(csrf_token(request))


async def _write(request: Request) -> Response:
    try:
        return JSONResponse(await read_form(request))
    except InvalidInput as error:
        return PlainTextResponse(str(error), 400)


@pytest.fixture
async def browsers(monkeypatch: pytest.MonkeyPatch) -> tuple[httpx.AsyncClient, httpx.AsyncClient]:
    """Return two browsers, each with a session of its own."""
    monkeypatch.setattr(peers, "is_another_user", lambda scope: False)
    application = Starlette(
        routes=[Route("/token", _token), Route("/write", _write, methods=["POST"])]
    )
    server = PageLogin(application, "daybook:secret", "key", 4280)
    found = [
        httpx.AsyncClient(transport=httpx.ASGITransport(server), base_url=OWN) for _ in range(2)
    ]
    for each in found:
        assert (await each.get(server.new_link())).status_code == 200
    return found[0], found[1]


async def _send(browser: httpx.AsyncClient, **given: str) -> httpx.Response:
    return await browser.post("/write", data=given, headers={"origin": OWN})


async def test_a_form_is_read_with_the_token_of_its_session_only(
    browsers: tuple[httpx.AsyncClient, httpx.AsyncClient],
) -> None:
    own, other = [(await each.get("/token")).text for each in browsers]
    browser = browsers[0]
    answer = await _send(browser, note="a&b=c", **{CSRF_FIELD: own})
    assert answer.json() == {"note": ["a&b=c"]}
    in_header = {"origin": OWN, CSRF_HEADER: own}
    answer = await browser.post("/write", data={"note": ""}, headers=in_header)
    assert answer.json() == {"note": [""]}
    for wrong in ("", other, own[:-1], own + "0", "ü"):
        answer = await _send(browser, note="x", **{CSRF_FIELD: wrong})
        assert answer.status_code == 400
        assert "reload the page" in answer.text
    assert (await _send(browser, note="x")).status_code == 400
