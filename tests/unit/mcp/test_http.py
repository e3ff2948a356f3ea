"""Access to the MCP server over HTTP: tokens, host names, origins, methods and bodies."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

import httpx
import pytest

from daybook import settings
from daybook.api import tokens
from daybook.errors import LedgerUnreachable
from daybook.home import Home
from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.ledger.engine import Ledger
from daybook.mcp import http
from daybook.toolbox import agent_tools, operator_tools
from tests.unit.mcp.conftest import HEADERS, Served, served

WRONG = "db_" + "x" * 43


async def job_of(owner: str, name: str) -> None:
    async with Ledger(settings.load().ledger_address) as ledger, ledger.write() as session:
        now = ledger.now()
        job = new_job(now=now, prompt="Say hello.", name=name, on_demand=True)
        await store.add(session, job, name, now, owner)


async def test_a_client_with_a_token_gets_the_list_of_tools(
    daybook_server: Served, token: str
) -> None:
    answer = await daybook_server.post(token)
    assert answer.status_code == 200
    tools = answer.json()["result"]["tools"]
    assert [each["name"] for each in tools] == [each.name for each in agent_tools()]
    assert {each["name"] for each in tools if each["annotations"]["readOnlyHint"]} == {
        "cron_list",
        "cron_get",
        "cron_runs",
        "cron_next",
    }
    assert tools[0]["inputSchema"] == agent_tools()[0].schema


async def test_only_a_token_of_the_operator_has_the_tools_for_sessions(
    daybook_server: Served, token: str
) -> None:
    operator = (await tokens.add("user")).token
    tools = (await daybook_server.post(operator)).json()["result"]["tools"]
    assert [each["name"] for each in tools] == [
        each.name for each in (*agent_tools(), *operator_tools())
    ]
    assert await daybook_server.call(operator, "session_list") == "There are no sessions."
    refused = await daybook_server.call(token, "session_list")
    assert refused.startswith("there is no tool session_list (known: cron_add, ")
    assert "session_send" not in refused


async def test_each_token_sees_only_the_jobs_of_its_owner(
    daybook_server: Served, token: str
) -> None:
    other = (await tokens.add("agent:nora")).token
    operator = (await tokens.add("user")).token
    await job_of("agent:cleo", "hers")
    await job_of("user", "mine")
    assert '"hers"' in await daybook_server.call(token, "cron_list")
    assert '"mine"' not in await daybook_server.call(token, "cron_list")
    assert await daybook_server.call(other, "cron_list") == "There are no jobs. cron_add adds one."
    assert 'job "hers" not found' in await daybook_server.call(other, "cron_get", job_id="hers")
    answer = await daybook_server.call(operator, "cron_list")
    assert '"hers"' in answer
    assert '"mine"' in answer


async def test_missing_wrong_and_removed_tokens_get_the_same_answer(
    daybook_server: Served, token: str
) -> None:
    none = await daybook_server.post()
    wrong = await daybook_server.post(WRONG)
    assert (await daybook_server.post(token)).status_code == 200
    await tokens.remove("agent:cleo")
    response = await daybook_server.post(token)
    basic = await daybook_server.client.post(
        http.PATH, headers=HEADERS | {"authorization": f"Basic {token}"}
    )
    for answer in (none, wrong, response, basic):
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.text == none.text
    assert "daybook tokens add" in none.text


async def test_a_request_with_two_tokens_is_refused(daybook_server: Served, token: str) -> None:
    headers = [*HEADERS.items(), *[("authorization", f"Bearer {token}")] * 2]
    answer = await daybook_server.client.post(http.PATH, headers=headers, content=b"{}")
    assert answer.status_code == 401


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "10.0.0.5", "a@localhost"]
)
async def test_a_foreign_host_name_is_refused_even_with_a_token(
    daybook_server: Served, token: str, host: str
) -> None:
    headers = HEADERS | {"authorization": f"Bearer {token}", "host": host}
    answer = await daybook_server.client.post(http.PATH, headers=headers, content=b"{}")
    assert (answer.status_code, answer.text) == (403, "not a name of this server\n")


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://localhost.evil.example"]
)
async def test_a_foreign_origin_is_refused_even_with_a_token(
    daybook_server: Served, token: str, origin: str
) -> None:
    headers = HEADERS | {"authorization": f"Bearer {token}", "origin": origin}
    answer = await daybook_server.client.post(http.PATH, headers=headers, content=b"{}")
    assert (answer.status_code, answer.text) == (403, "not from this origin\n")
    assert "access-control-allow-origin" not in answer.headers


async def test_configured_host_names_and_ip_addresses_are_accepted(
    daybook_home: Home, token: str
) -> None:
    async with served(("MCP.example.org",), any_address=True) as daybook_server:
        for host, code in (("mcp.example.org", 200), ("10.0.0.5:4281", 200), ("evil.example", 403)):
            headers = HEADERS | {"authorization": f"Bearer {token}", "host": host}
            asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
            answer = await daybook_server.client.post(http.PATH, headers=headers, json=asked)
            assert answer.status_code == code, host


async def test_a_body_above_one_mebibyte_is_refused(daybook_server: Served, token: str) -> None:
    headers = HEADERS | {"authorization": f"Bearer {token}"}
    long = b" " * (http.MAX_BODY_BYTES + 1)
    assert (
        await daybook_server.client.post(http.PATH, headers=headers, content=long)
    ).status_code == 413

    async def in_pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * (http.MAX_BODY_BYTES // 16)

    answer = await daybook_server.client.post(http.PATH, headers=headers, content=in_pieces())
    assert answer.status_code == 413


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "OPTIONS"])
async def test_methods_other_than_post_are_refused(
    daybook_server: Served, token: str, method: str
) -> None:
    headers = HEADERS | {"authorization": f"Bearer {token}"}
    answer = await daybook_server.client.request(method, http.PATH, headers=headers)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_other_paths_give_404_with_a_token_and_401_without(
    daybook_server: Served, token: str
) -> None:
    headers = HEADERS | {"authorization": f"Bearer {token}"}
    assert (await daybook_server.client.post("/", headers=headers)).status_code == 404
    assert (await daybook_server.client.post("/")).status_code == 401
    assert "server" not in (await daybook_server.client.post("/")).headers


async def test_a_token_appears_in_no_log_and_no_file_of_the_home(
    daybook_server: Served, token: str, caplog: pytest.LogCaptureFixture, daybook_home: Home
) -> None:
    with caplog.at_level(logging.DEBUG):
        await daybook_server.post(token)
        await daybook_server.post(WRONG)
        await daybook_server.call(token, "cron_get", job_id="x")
    records = [each for each in caplog.records if not each.name.startswith(("httpcore", "httpx"))]
    assert not any(token in each.getMessage() or WRONG in each.getMessage() for each in records)
    files = [each for each in daybook_home.path.rglob("*") if each.is_file()]
    assert files
    assert not any(token.encode() in each.read_bytes() for each in files)


async def test_a_new_token_is_in_its_json_and_not_in_its_repr(daybook_home: Home) -> None:
    added = await tokens.add("agent:nora")
    assert added.model_dump(mode="json")["token"] == added.token
    assert added.token not in repr(added)


async def test_the_last_use_of_a_token_is_recorded(daybook_server: Served, token: str) -> None:
    (before,) = await tokens.list_tokens()
    assert (before.owner, before.user_id, before.used_at) == ("agent:cleo", "u-7", None)
    await daybook_server.post(token)
    (after,) = await tokens.list_tokens()
    assert after.used_at is not None


async def test_a_refused_tool_call_is_a_result_marked_as_an_error(
    daybook_server: Served, token: str
) -> None:
    answer: httpx.Response = await daybook_server.post(
        token, "tools/call", name="cron_add", arguments={"schedule": "@daily"}
    )
    result = answer.json()["result"]
    assert result["isError"] is True
    assert result["content"][0]["text"].startswith("prompt: is missing (write the prompt")


async def test_serve_raises_the_error_of_a_ledger_that_cannot_be_opened(daybook_home: Home) -> None:
    no_folder = daybook_home.path / "file"
    no_folder.touch()
    with pytest.raises(LedgerUnreachable) as raised:
        await http.serve(f"sqlite+aiosqlite:///{no_folder}/ledger.db", "127.0.0.1", 0)
    assert raised.value.exit_code == 4
