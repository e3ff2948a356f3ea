"""MCP clients of several vendors call the job tools of a real server, over stdio and HTTP."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from daybook.api import channels
from daybook.delivery.channels import apprise
from daybook.jobs import store
from daybook.jobs.store import StoredJob
from daybook.toolbox import agent_tools
from tests.e2e.mcp.clients import Talk, Where, by_fastmcp, by_javascript, by_mcp, sdk_in
from tests.e2e.mcp.conftest import Place

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

READ_ONLY = {"cron_list", "cron_get", "cron_runs", "cron_next"}
PUBLIC = "https://93.184.215.14/export"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sdk_in(tmp_path_factory.mktemp("sdk"))


@pytest.fixture(params=["stdio", "http"])
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["mcp", "fastmcp", "javascript"])
def client(request: pytest.FixtureRequest) -> str:
    if request.param == "javascript":
        request.getfixturevalue("program")
    return str(request.param)


@asynccontextmanager
async def talking(client: str, where: Where, request: pytest.FixtureRequest) -> AsyncIterator[Talk]:
    if client == "javascript":
        async with by_javascript(where, request.getfixturevalue("program")) as talk:
            yield talk
    else:
        async with (by_mcp if client == "mcp" else by_fastmcp)(where) as talk:
            yield talk


async def stored(place: Place, owner: str) -> list[StoredJob]:
    async with place.world.ledger.read() as session:
        return [each for each in await store.all_jobs(session) if each.row.owner == owner]


@pytest.mark.floor("B", "cron_add and cron_list add and list jobs")
@pytest.mark.floor("B", "cron_trigger runs a job now")
@pytest.mark.floor("B", "cron_enable, cron_disable and cron_remove change a job")
@pytest.mark.floor("B", "Tools for a message, a webhook and a tool call")
@pytest.mark.floor("E", "cron_add adds a job from a prompt and a schedule")
@pytest.mark.floor("E", "cron_update changes a job")
@pytest.mark.floor("E", "cron_enable and cron_disable switch a job")
@pytest.mark.floor("E", "cron_remove removes a job")
async def test_an_mcp_client_manages_jobs_from_add_to_remove(
    place: Place, client: str, how: str, request: pytest.FixtureRequest
) -> None:
    owner = f"agent:{client}-{how}"
    where = await place.over(how, owner)
    async with talking(client, where, request) as talk:
        assert len(talk.tools) == len(agent_tools())
        assert {name for name, read_only in talk.tools.items() if read_only} == READ_ONLY

        async def answer_text(tool: str, /, **given: object) -> str:
            answer = await talk.call(tool, **given)
            assert not answer.refused, answer.text
            return answer.text

        assert await answer_text("cron_list") == "There are no jobs. cron_add adds one."
        name = f"brief {client} {how}"
        added = await answer_text(
            "cron_add",
            prompt="Summarise the news.",
            schedule="0 9 * * 1-5",
            timezone="Europe/Berlin",
            name=name,
            channel="inbox",
        )
        found = re.match(r'Added\. Job "(.+)", id ([0-9a-f]{32})\n', added)
        assert found is not None
        assert found[1] == name
        job_id = found[2]
        assert "schedule: at 09:00 on weekdays, Europe/Berlin" in added
        assert "answer goes to: inbox" in added
        (job,) = await stored(place, owner)
        assert (job.id, job.row.created_by) == (job_id, "mcp")
        assert job.row.deployment_id is not None

        assert f'"{name}" (id {job_id[:8]}), enabled' in await answer_text(
            "cron_list", status="enabled"
        )
        changed = await answer_text(
            "cron_update", job_id=name, schedule="30 8 * * *", channel="none"
        )
        assert "schedule: at 08:30 every day, Europe/Berlin" in changed
        assert "answer goes to: no channel" in changed
        due = await answer_text("cron_next", job_id=job_id, count=2)
        assert due.splitlines()[0] == "at 08:30 every day, Europe/Berlin:"
        assert len(due.splitlines()) == 3
        off = await answer_text("cron_disable", job_id=job_id[:8], note="on holiday")
        assert "is: disabled (paused: on holiday)" in off

        ran = await answer_text("cron_trigger", job_id=job_id)
        run_id = re.search(r"run ([0-9a-f]{8}): ", ran)
        assert run_id is not None, ran
        row = await place.world.wait_for_end(job, "succeeded", 90.0)
        assert row.id.startswith(run_id[1])
        assert row.trigger == "mcp"
        history = await answer_text("cron_runs", job_id=name)
        assert f"run {run_id[1]}: succeeded" in history
        assert "output: " in history
        assert "last run: " in await answer_text("cron_get", job_id=job_id)

        assert "is: enabled" in await answer_text("cron_enable", job_id=job_id)
        hooked = await answer_text(
            "cron_add_webhook",
            url=PUBLIC,
            schedule="on demand",
            method="PUT",
            headers='{"X-Team": "a"}',
        )
        assert f"calls: PUT {PUBLIC}" in hooked
        tooled = await answer_text(
            "cron_add_tool", tool="reindex", schedule="on demand", params='{"full": true}'
        )
        assert 'tool: reindex\nparams: {"full": true}\n' in tooled
        assert (await answer_text("cron_list")).startswith("3 jobs:")
        for each in await stored(place, owner):
            assert (await answer_text("cron_remove", job_id=each.id)).startswith("Removed. Job ")
        assert await stored(place, owner) == []
        assert f"run {run_id[1]}: succeeded" in await answer_text("cron_runs", job_id=job_id)


async def test_mcp_refuses_private_webhook_addresses_for_the_operator_too(
    place: Place,
) -> None:
    async with by_mcp(await place.over("stdio", "user")) as talk:
        for url in ("http://127.0.0.1:9/x", "http://10.0.0.5/x"):
            refused = await talk.call("cron_add_webhook", url=url, schedule="on demand")
            assert (refused.refused, "public addresses only" in refused.text) == (True, True)
        made = await talk.call("cron_add_webhook", url=PUBLIC, schedule="on demand", name="hook")
        assert not made.refused, made.text
        moved = await talk.call("cron_update", job_id="hook", url="http://10.0.0.5/x")
        assert moved.refused
        assert not (await talk.call("cron_remove", job_id="hook")).refused


BASE = {"prompt": "Summarise.", "schedule": "0 9 * * *", "name": "refused"}


@pytest.mark.floor("E", "An invalid call is refused and stores nothing")
@pytest.mark.parametrize(
    ("tool", "given", "words"),
    [
        (
            "cron_add",
            BASE | {"channel": "chats"},
            ["chat_id: is missing", '"chats" serves several'],
        ),
        ("cron_update", {"job_id": "nobody's", "prompt": "x"}, ['job "nobody\'s" not found']),
        ("cron_add", {"schedule": "@daily"}, ["prompt: is missing"]),
        (
            "cron_add",
            BASE | {"channel": "tem"},
            ['unknown "tem"', "known: ", "chats", "inbox"],
        ),
        ("cron_add", BASE | {"channel": "file"}, ["channel: ", "reserved for the operator"]),
        ("cron_add", BASE | {"agent": "nobody"}, ["agent: "]),
        ("cron_add", BASE | {"agent": "offline"}, ["agent: "]),
        ("cron_add", BASE | {"model": "gpt-6-luna"}, ["model: ", "allowed: none"]),
        ("cron_add", BASE | {"schedule": "every 10s"}, ["schedule: is due every 10s", "5m"]),
        ("cron_add", BASE | {"schedule": "30m"}, ["schedule: ", "`every 30m` or `in 30m`"]),
        ("cron_add_webhook", {"url": "http://127.0.0.1/x", "schedule": "@daily"}, ["url: "]),
        ("cron_add_webhook", {"url": "http://10.0.0.5/x", "schedule": "@daily"}, ["url: "]),
        ("cron_add_tool", {"tool": "shell.run", "schedule": "@daily"}, ["tool: ", "reindex"]),
        ("cron_add_tool", {"tool": "reindex", "schedule": "@daily", "params": '{"x": 1}'}, ["x"]),
        ("cron_get", {"job_id": "the operator's"}, ['job "the operator\'s" not found']),
        ("cron_remove", {"job_id": "the operator's"}, ['job "the operator\'s" not found']),
        ("cron_trigger", {"job_id": "the operator's"}, ['job "the operator\'s" not found']),
        ("cron_update", {"job_id": "the operator's", "prompt": "x"}, ["not found"]),
    ],
)
async def test_a_forbidden_or_invalid_tool_call_is_refused_and_stores_nothing(
    refusing: Talk, place: Place, tool: str, given: dict[str, object], words: list[str]
) -> None:
    answer = await refusing.call(tool, **given)
    assert answer.refused
    for word in words:
        assert word in answer.text, answer.text
    assert await stored(place, "agent:refused") == []
    (operators,) = await stored(place, "user")
    assert (operators.row.revision, operators.row.run_count) == (1, 0)


@pytest.fixture(scope="module")
async def refusing(place: Place) -> AsyncIterator[Talk]:
    client = place.world.client
    await place.world.deploy(name="the operator's", on_demand=True)
    await channels.add("chats", "json://127.0.0.1:9/{chat_id}/say")
    try:
        async with by_mcp(await place.over("stdio", "agent:refused")) as talk:
            yield talk
    finally:
        await apprise.STORE.remove(client, "chats")
