"""Who may ask what of the server on HTTP (docs/design.md, Security)."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import httpx
import pytest

from daybook import settings
from daybook.api import tokens
from daybook.home import Home
from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.ledger.engine import Ledger
from daybook.mcp import http
from daybook.toolbox import TOOLS
from tests.unit.mcp.conftest import HEADERS, Served, served

WRONG = "db_" + "x" * 43


async def job_of(owner: str, name: str) -> None:
    async with Ledger(settings.load().ledger_address) as ledger, ledger.write() as session:
        now = ledger.now()
        job = new_job(now=now, prompt="Say hello.", name=name, on_demand=True)
        await store.add(session, job, name, now, owner)


async def test_a_bearer_is_told_the_tools(here: Served, token: str) -> None:
    answer = await here.post(token)
    assert answer.status_code == 200
    told = answer.json()["result"]["tools"]
    assert [each["name"] for each in told] == [each.name for each in TOOLS]
    assert {each["name"] for each in told if each["annotations"]["readOnlyHint"]} == {
        "cron_list",
        "cron_get",
        "cron_runs",
        "cron_next",
    }
    assert told[0]["inputSchema"] == TOOLS[0].schema


async def test_each_bearer_sees_the_jobs_of_its_owner(here: Served, token: str) -> None:
    other = (await tokens.add("agent:nora"))["token"]
    operator = (await tokens.add("user"))["token"]
    await job_of("agent:cleo", "hers")
    await job_of("user", "mine")
    assert '"hers"' in await here.call(token, "cron_list")
    assert '"mine"' not in await here.call(token, "cron_list")
    assert await here.call(other, "cron_list") == "There are no jobs. cron_add adds one."
    assert 'job "hers" not found' in await here.call(other, "cron_get", job_id="hers")
    told = await here.call(operator, "cron_list")
    assert '"hers"' in told
    assert '"mine"' in told


async def test_no_token_a_wrong_one_and_one_that_is_gone_read_the_same(
    here: Served, token: str
) -> None:
    none = await here.post()
    wrong = await here.post(WRONG)
    assert (await here.post(token)).status_code == 200
    await tokens.remove("agent:cleo")
    gone = await here.post(token)
    basic = await here.client.post(http.PATH, headers=HEADERS | {"authorization": f"Basic {token}"})
    for answer in (none, wrong, gone, basic):
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.text == none.text
    assert "daybook tokens add" in none.text


async def test_two_tokens_at_once_are_none(here: Served, token: str) -> None:
    headers = [*HEADERS.items(), *[("authorization", f"Bearer {token}")] * 2]
    answer = await here.client.post(http.PATH, headers=headers, content=b"{}")
    assert answer.status_code == 401


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "10.0.0.5", "a@localhost"]
)
async def test_a_strange_name_is_refused_whatever_is_shown(
    here: Served, token: str, host: str
) -> None:
    headers = HEADERS | {"authorization": f"Bearer {token}", "host": host}
    answer = await here.client.post(http.PATH, headers=headers, content=b"{}")
    assert (answer.status_code, answer.text) == (403, "not a name of this server\n")


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://localhost.evil.example"]
)
async def test_a_strange_web_page_is_refused(here: Served, token: str, origin: str) -> None:
    headers = HEADERS | {"authorization": f"Bearer {token}", "origin": origin}
    answer = await here.client.post(http.PATH, headers=headers, content=b"{}")
    assert (answer.status_code, answer.text) == (403, "not from this origin\n")
    assert "access-control-allow-origin" not in answer.headers


async def test_names_that_were_given_are_let_in(daybook_home: Home, token: str) -> None:
    async with served(("MCP.example.org",), any_address=True) as here:
        for host, code in (("mcp.example.org", 200), ("10.0.0.5:4281", 200), ("evil.example", 403)):
            headers = HEADERS | {"authorization": f"Bearer {token}", "host": host}
            asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
            answer = await here.client.post(http.PATH, headers=headers, json=asked)
            assert answer.status_code == code, host


async def test_a_body_has_at_most_one_mebibyte(here: Served, token: str) -> None:
    headers = HEADERS | {"authorization": f"Bearer {token}"}
    long = b" " * (http.MAX_BODY_BYTES + 1)
    assert (await here.client.post(http.PATH, headers=headers, content=long)).status_code == 413

    async def in_pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * (http.MAX_BODY_BYTES // 16)

    answer = await here.client.post(http.PATH, headers=headers, content=in_pieces())
    assert answer.status_code == 413


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "OPTIONS"])
async def test_only_post_is_answered(here: Served, token: str, method: str) -> None:
    headers = HEADERS | {"authorization": f"Bearer {token}"}
    answer = await here.client.request(method, http.PATH, headers=headers)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_there_is_nothing_elsewhere(here: Served, token: str) -> None:
    headers = HEADERS | {"authorization": f"Bearer {token}"}
    assert (await here.client.post("/", headers=headers)).status_code == 404
    assert (await here.client.post("/")).status_code == 401
    assert "server" not in (await here.client.post("/")).headers


async def test_a_token_stands_in_no_log_and_in_no_row(
    here: Served, token: str, caplog: pytest.LogCaptureFixture, daybook_home: Home
) -> None:
    with caplog.at_level(logging.DEBUG):
        await here.post(token)
        await here.post(WRONG)
        await here.call(token, "cron_get", job_id="x")
    ours = [each for each in caplog.records if not each.name.startswith(("httpcore", "httpx"))]
    assert not any(token in each.getMessage() or WRONG in each.getMessage() for each in ours)
    files = [each for each in daybook_home.path.rglob("*") if each.is_file()]
    assert files
    assert not any(token.encode() in each.read_bytes() for each in files)


async def test_when_a_token_was_used_is_known(here: Served, token: str) -> None:
    (before,) = await tokens.list_tokens()
    assert (before["owner"], before["user_id"], before["used_at"]) == ("agent:cleo", "u-7", None)
    await here.post(token)
    (after,) = await tokens.list_tokens()
    assert after["used_at"] is not None


async def test_a_refusal_is_a_result_that_says_so(here: Served, token: str) -> None:
    answer: httpx.Response = await here.post(
        token, "tools/call", name="cron_add", arguments={"schedule": "@daily"}
    )
    result = answer.json()["result"]
    assert result["isError"] is True
    assert result["content"][0]["text"].startswith("prompt: is missing (write the prompt")
