"""Tool calls from the flow on: what the tool receives, and the outcome of the run."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect.exceptions import CancelledRun, CrashedRun, FailedRun

from daybook.ledger.states import Outcome, Status
from daybook.resources import secrets
from daybook.runs import claims
from daybook.tools.server_blocks import STORE
from flows.tool_call import tool_call
from tests.at_prefect import add_document
from tests.toolbox import install, nobody_there, served
from tests.world.prefect_world import PrefectWorld
from tests.world.processes import alive
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, *PREFECT_LEAVES_A_SOCKET]

VALUE = "s3cr3t-of-the-api"

# Each tool writes its call as a line of JSON into the file `calls`.
SOURCE = """
import json
import sys
from pathlib import Path
from daybook.errors import Temporary
from daybook.tools import occurrence

CALLS = Path({calls!r})

def noted(**params):
    with CALLS.open("a") as calls:
        calls.write(json.dumps({{"key": occurrence(), **params}}) + "\\n")
    return len(CALLS.read_text().splitlines())

async def reindex(full: bool, parts: list[int]) -> dict[str, object]:
    "Build the index again."
    noted(full=full, parts=parts)
    return {{"parts": len(parts)}}

def breaks(why: str = "it broke") -> None:
    noted()
    raise ValueError(why)

def later(times: int) -> str:
    if noted() <= times:
        raise Temporary("not now", retry_after=1.0)
    return "at last"

def echo(text: str) -> str:
    noted(text=text)
    return f"heard {{text}}"
"""


class Tools:
    """Installed Python tools; ``calls`` are the recorded calls."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "calls"
        source = SOURCE.format(calls=str(self._file))
        install(folder / "site", source, "reindex", "breaks", "later", "echo")

    @property
    def calls(self) -> list[dict[str, Any]]:
        if not self._file.exists():
            return []
        return [json.loads(line) for line in self._file.read_text().splitlines()]


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    made = Tools(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return made


async def call(tool: str, params: dict[str, Any] | None = None, **policy: Any) -> dict[str, Any]:
    given: dict[str, Any] = {"tool": tool, "params": params or {}, "policy": policy}
    result: dict[str, Any] = await tool_call(**given)
    return result


@pytest.mark.floor("B", "A tool is called with exactly the stored params")
@pytest.mark.floor("B", "A tool's result has tool_name, params and result")
async def test_a_python_tool_is_called_with_exactly_the_jobs_params(
    world: PrefectWorld, tools: Tools
) -> None:
    params = {"full": True, "parts": [1, 2]}

    result = await call("reindex", params)

    row = await world.runs.row()
    assert tools.calls == [{"key": row.occurrence, **params}]
    answer = {"tool_name": "reindex", "params": params, "result": {"parts": 2}}
    assert result["result"] == answer == row.result
    assert (row.kind, row.status, row.session_id, row.agent) == (
        "tool-call",
        "succeeded",
        None,
        None,
    )
    page = await world.prefect.artifact(row.flow_run_id)
    assert "tool reindex" in page
    assert '"full": true' in page


@pytest.mark.parametrize(
    ("tool", "params", "words"),
    [
        ("reindx", {}, "reindex"),
        ("nowhere.reindex", {}, "nowhere"),
        ("reindex", {"full": True}, "'parts' is a required property"),
        ("reindex", {"full": "maybe", "parts": []}, "'maybe' is not of type 'boolean'"),
        ("reindex", {"full": True, "parts": [], "more": 1}, "more"),
        ("echo", {"text": "{{secret:nobody}}"}, "nobody"),
        ("echo", {"text": "{{secret:}}"}, "misspelt"),
        ("echo", {"text": "ghp_" + "a1" * 20}, "looks like a secret"),
        ("http://169.254.169.254/mcp#x", {}, "metadata service"),
    ],
    ids=[
        *("unknown", "unknown-server", "missing", "type", "more"),
        *("no-secret", "misspelt", "literal", "metadata"),
    ],
)
@pytest.mark.slow
async def test_an_invalid_call_fails_the_run_before_its_first_attempt(
    world: PrefectWorld, tools: Tools, tool: str, params: dict[str, Any], words: str
) -> None:
    with pytest.raises(FailedRun):
        await call(tool, params, retries=3)

    row = await world.runs.row()
    assert words in str(row.error)
    assert (row.status, row.attempts, tools.calls) == ("failed", 0, [])


@pytest.mark.floor("B", "The error of a tool is the error of the run")
@pytest.mark.slow
async def test_an_exception_fails_the_run_with_its_message_and_without_a_retry(
    world: PrefectWorld, tools: Tools
) -> None:
    with pytest.raises(FailedRun, match="ValueError: it broke"):
        await call("breaks", retries=3)

    row = await world.runs.row()
    assert (row.status, row.attempts, len(tools.calls)) == ("failed", 1, 1)


@pytest.mark.slow
async def test_a_temporary_error_is_retried_as_often_as_promised_with_the_same_key(
    world: PrefectWorld, tools: Tools
) -> None:
    result = await call("later", {"times": 2}, retries=2, retry_delay="1s")

    row = await world.runs.row()
    assert result["output"] == "at last"
    assert row.attempts == 3
    assert tools.calls == [{"key": row.occurrence}] * 3


async def test_a_secret_reaches_the_tool_and_is_not_stored(
    world: PrefectWorld, tools: Tools
) -> None:
    await add_document(secrets.STORE, world.client, "ops", {"value": VALUE, "hosts": ["tool:echo"]})
    try:
        result = await call("echo", {"text": "{{secret:ops}}"})
        with pytest.raises(FailedRun, match="is not for tool:breaks"):
            await call("breaks", {"why": "{{secret:ops}}"})
    finally:
        await secrets.STORE.remove(world.client, "ops")

    first, second = await world.runs.rows()
    assert tools.calls == [{"key": first.occurrence, "text": VALUE}]
    assert result["result"]["params"] == {"text": "{{secret:ops}}"}
    assert result["output"] == "heard ********"
    assert VALUE not in json.dumps([result, first.result, first.parameters, second.error])
    assert VALUE not in await world.prefect.artifact(first.flow_run_id)


@pytest.mark.slow
async def test_the_tool_of_a_saved_server_is_called(world: PrefectWorld) -> None:
    source = """
@server.tool
def reindex(full: bool) -> dict[str, bool]:
    had()
    return {"full": full}
"""
    async with served(world, source) as server:
        result = await call(f"{server.name}.reindex", {"full": True})
        with pytest.raises(FailedRun):
            await call(f"{server.name}.reindex", {"full": 1.5})
        with pytest.raises(FailedRun):
            await call(f"{server.name}.other")

    first, second, third = await world.runs.rows()
    assert result["result"]["tool_name"] == f"{server.name}.reindex"
    assert result["result"]["result"] == {"full": True}
    assert (first.attempts, second.attempts, third.attempts) == (1, 0, 0)
    assert "1.5" in str(second.error)
    assert "reindex" in str(third.error)  # the server's only tool
    assert server.effect_count == 1


@pytest.mark.slow
async def test_an_error_of_a_servers_tool_fails_the_run(world: PrefectWorld) -> None:
    source = """
@server.tool
def reindex() -> None:
    had()
    raise ToolError("the index is locked")
"""
    async with served(world, source) as server:
        with pytest.raises(FailedRun, match="the index is locked"):
            await call(f"{server.name}.reindex", retries=3)

    row = await world.runs.row()
    assert (row.status, row.attempts, server.effect_count) == ("failed", 1, 1)


CUT = """
@server.tool
def reindex() -> str:
    had()
    if len(open(sys.argv[1] + ".effects").readlines()) == 1:
        os._exit(1)
    return "at last"
"""


@pytest.mark.slow
async def test_a_server_that_ends_during_a_call_leaves_the_run_unknown(world: PrefectWorld) -> None:
    async with served(world, CUT) as server:
        with pytest.raises(CrashedRun):
            await call(f"{server.name}.reindex", retries=3)

    row = await world.runs.row()
    assert (row.status, row.attempts, server.effect_count) == ("unknown", 1, 1)
    assert "its effect is unknown" in row.reason


@pytest.mark.slow
async def test_an_idempotent_call_is_retried_if_its_server_ends(world: PrefectWorld) -> None:
    async with served(world, CUT) as server:
        result = await call(f"{server.name}.reindex", retries=1, retry_delay="1s", idempotent=True)

    row = await world.runs.row()
    assert (result["output"], row.attempts, server.effect_count) == ("at last", 2, 2)


@pytest.mark.slow
async def test_a_call_without_an_answer_in_time_is_unknown_and_its_server_is_ended(
    world: PrefectWorld,
) -> None:
    source = """
@server.tool
def reindex() -> None:
    had(); tell(str(start_child())); forever()
"""
    async with served(world, source) as server:
        with pytest.raises(CrashedRun):
            await call(f"{server.name}.reindex", timeout="3s", retries=3)
        # Whatever the tool was doing at the timeout, no process of the server is alive.
        pid, child = await server.word()
        assert not alive(pid)
        assert not alive(int(child))

    row = await world.runs.row()
    assert (row.status, row.attempts, server.effect_count) == ("unknown", 1, 1)


@pytest.mark.slow
async def test_a_server_is_ended_if_its_run_is_cancelled_before_the_call(
    world: PrefectWorld,
) -> None:
    source = """
@server.tool
def reindex() -> None:
    had()
tell("started"); heed()
"""
    async with served(world, source) as server:
        calling = asyncio.create_task(call(f"{server.name}.reindex"))
        pid = await server.says("started")
        row = await world.runs.row()
        taken = Outcome(Status.CANCELLED, "by hand")
        await claims.finish(world.ledger, row.id, row.fence, taken)
        server.release()
        with pytest.raises(CancelledRun):
            await calling
        assert not alive(pid)

    row = await world.runs.row()
    assert (row.status, row.attempts, server.effect_count) == ("cancelled", 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "words", "attempts"),
    [
        ({"command": ["/nowhere/server"]}, "/nowhere/server", 0),
        ({"command": [sys.executable, "-c", "import sys; sys.exit('not now')"]}, "not now", 2),
        ({}, "127.0.0.1", 2),
    ],
    ids=["no-program", "ends-at-once", "nobody-there"],
)
async def test_a_server_that_does_not_start_is_retried_unless_its_program_is_missing(
    world: PrefectWorld, settings: dict[str, Any], words: str, attempts: int
) -> None:
    with nobody_there() as url:
        await add_document(STORE, world.client, "away", settings or {"url": url})
        try:
            with pytest.raises(FailedRun, match=words):
                await call("away.reindex", retries=1, retry_delay="1s")
        finally:
            await STORE.remove(world.client, "away")

    row = await world.runs.row()
    assert (row.status, row.attempts) == ("failed", attempts)
