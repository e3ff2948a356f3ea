"""Forms of the pages: a write needs the token of the session."""

from __future__ import annotations

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from daybook.errors import InvalidInput
from daybook.web.login import CSRF_FIELD, CSRF_HEADER, PageLogin, csrf_token, read_form
from tests.unit.web.conftest import OWN, client

pytestmark = pytest.mark.anyio


async def _token(request: Request) -> Response:
    return PlainTextResponse(csrf_token(request))


async def _write(request: Request) -> Response:
    try:
        return JSONResponse(await read_form(request))
    except InvalidInput as error:
        return PlainTextResponse(str(error), 400)


async def _send(browser: httpx.AsyncClient, **given: str) -> httpx.Response:
    return await browser.post("/write", data=given, headers={"origin": OWN})


async def test_a_form_is_read_with_the_token_of_its_session_only(of_this_user: None) -> None:
    routes = [Route("/token", _token), Route("/write", _write, methods=["POST"])]
    server = PageLogin(Starlette(routes=routes), "daybook:secret", "key", 4280)
    async with client(server) as browser, client(server) as second:
        for each in (browser, second):
            assert (await each.get(server.new_link())).status_code == 200
        own, other = [(await each.get("/token")).text for each in (browser, second)]
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
