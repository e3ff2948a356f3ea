"""Tool connections that stay open while an agent answers, over stdio and over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest

from daybook.agents.base import Tool
from daybook.errors import AgentMisconfigured, AgentTemporary, DaybookError
from daybook.execution import agent_tools
from daybook.execution.builtin_tools import ToolContext
from daybook.http.secrets import Secret, SecretStore
from daybook.owners import Actor
from daybook.redaction import HIDDEN
from daybook.runs.claim_requests import Granted
from tests.contract.tools.conftest import OCCURRENCE, Caller, Saved, runs
from tests.toolbox import nobody_there

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

CONTEXT = ToolContext(cast("Granted", None), "brief", secrets=cast("SecretStore", None))


@asynccontextmanager
async def held(
    caller: Caller, *entries: str, timeout: float = 60
) -> AsyncIterator[dict[str, Tool]]:
    """Yield the tools by the names under which a model calls them."""
    selection = await agent_tools.find("brief", entries or ("ours",), caller.saved, tuple, CONTEXT)
    async with agent_tools.open_tools(selection, OCCURRENCE, Actor(), timeout) as tools:
        yield {each.name: each for each in tools}


async def test_all_tool_calls_of_an_answer_share_one_connection(caller: Caller) -> None:
    async with held(caller) as tools:
        assert await tools["ours_add"].call({"a": 1, "b": 2}) == "3"
        assert await tools["ours_say"].call({"text": "x", "times": 3}) == "xxx"
        assert await tools["ours_add"].call({"a": 4}) == "4"
    first, second = [(await caller.report_pipe.line())[0] for _ in range(2)]
    assert first == second
    assert runs(first) is (caller.kind == "http")  # Daybook starts and ends a stdio program only


async def test_a_tools_error_is_raised_with_its_message(caller: Caller) -> None:
    async with held(caller) as tools:
        with pytest.raises(DaybookError, match="no such file"):
            await tools["ours_fail"].call({"words": "no such file"})
        with pytest.raises(DaybookError, match="valid"):
            await tools["ours_add"].call({"a": "one"})
        assert await tools["ours_add"].call({"a": 1}) == "1"


async def test_each_call_has_its_own_key_that_is_the_same_in_every_attempt(caller: Caller) -> None:
    async def keys(*tools: str) -> list[dict[str, str | None]]:
        async with held(caller) as found:
            return [json.loads(await found[each].call({})) for each in tools]

    first, second = await keys("ours_key", "ours_key")
    (again,) = await keys("ours_key")
    assert str(first["meta"]).startswith(f"{OCCURRENCE}/")
    assert second["meta"] == f"{first['meta']}.2"
    assert again["meta"] == first["meta"]
    assert first["header"] is None  # a header would be the same for all calls
    assert first["team"] == ("ops" if caller.kind == "http" else None)


async def test_a_secret_in_an_answer_is_masked_and_a_placeholder_is_not_filled_in(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller.saved.stored_secrets["ops"] = Secret(
        "ops", "hunter-2-and-more", (caller.host, "tool:ours.say")
    )
    if caller.kind == "http":
        headers = {"X-Team": "{{secret:ops}}"}
        caller.saved.settings["ours"] |= {"headers": headers}
    else:
        monkeypatch.setenv("OPS_TOKEN", "hunter-2-and-more")
        caller.saved.settings["ours"] |= {"environment": ["PATH", "OPS_TOKEN"]}
    async with held(caller) as tools:
        # Daybook sends a model's arguments unchanged: a model gets no secret by naming one.
        answer = await tools["ours_say"].call({"text": "{{secret:ops}}"})
        assert answer == "{{secret:ops}}"
        hidden = HIDDEN if caller.kind == "http" else "[OPS_TOKEN]"
        assert await tools["ours_say"].call({"text": "a hunter-2-and-more b"}) == f"a {hidden} b"
        with pytest.raises(DaybookError) as caught:
            await tools["ours_fail"].call({"words": "not for hunter-2-and-more"})
        assert "hunter" not in str(caught.value)
        assert hidden in str(caught.value)


async def test_a_server_that_dies_during_a_call_leaves_its_effect_unknown(caller: Caller) -> None:
    async with held(caller) as tools:
        with pytest.raises(DaybookError, match="its effect is unknown"):
            await tools["ours_crash"].call({})
        if caller.kind == "stdio":  # Daybook restarts a stdio server
            assert await tools["ours_add"].call({"a": 1}) == "1"


async def test_cancelling_a_call_ends_the_stdio_server_and_its_processes(caller: Caller) -> None:
    async with held(caller) as tools:
        waiting = asyncio.ensure_future(tools["ours_wait"].call({}))
        server, child = await caller.report_pipe.line()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    if caller.kind == "stdio":
        assert not runs(server)
        assert not runs(int(child))


async def test_a_long_answer_is_cut_for_the_model(caller: Caller) -> None:
    async with held(caller) as tools:
        answer = await tools["ours_say"].call({"text": "x", "times": 100_000})
    assert answer == "x" * 40_000 + "\n[cut here: the answer has 100,000 characters]"


@pytest.mark.parametrize("entries", [("ours.add", "ours.s*"), ("ours.[as]*d*", "ours.say")])
async def test_a_model_is_offered_only_the_tools_that_its_agent_lists(
    caller: Caller, entries: tuple[str, ...]
) -> None:
    async with held(caller, *entries) as tools:
        assert set(tools) == {"ours_add", "ours_say"}


async def test_a_tool_missing_from_its_server_is_refused_with_the_servers_tools(
    caller: Caller,
) -> None:
    with pytest.raises(AgentMisconfigured, match=r"has no tool launch \(it has: about, add,"):
        async with held(caller, "ours.launch"):
            pass


async def test_an_unreachable_server_is_a_temporary_error(caller: Caller) -> None:
    with nobody_there() as address:
        caller.saved.settings["away"] = {"url": address}
        with pytest.raises(AgentTemporary, match="the agent was not asked"):
            async with held(caller, "ours", "away"):
                pass


async def test_a_server_that_does_not_start_in_time_is_a_temporary_error(
    report_pipe: object,
) -> None:
    silent = Saved({"silent": {"command": ["sleep", "1000"]}})
    selection = await agent_tools.find("brief", ["silent"], silent, tuple, CONTEXT)
    with pytest.raises(AgentTemporary, match="not ready within 1 s; the agent was not asked"):
        async with agent_tools.open_tools(selection, OCCURRENCE, Actor(), 1.0):
            pass


@pytest.mark.parametrize(
    ("bound", "most", "advice"),
    [
        ("MAX_TOOLS", 3, "list only those that it needs"),
        ("MAX_DEFINITION_CHARACTERS", 500, "list only the tools that it needs"),
    ],
)
async def test_too_many_or_too_long_tool_definitions_are_refused_with_advice(
    caller: Caller, bound: str, most: int, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_tools, bound, most)
    with pytest.raises(AgentMisconfigured, match=f"{most}.*{advice}"):
        async with held(caller):
            pass
    async with held(caller, "ours.add", "ours.say") as tools:
        assert len(tools) == 2
