"""A server that is held open while an agent answers, by its pipes and over HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from daybook.agents.base import Tool
from daybook.errors import AgentMisconfigured, AgentTemporary, DaybookError
from daybook.execution import agent_tools
from daybook.http.secrets import HIDDEN, Secret
from daybook.owners import Actor
from tests.contract.tools.conftest import OCCURRENCE, Caller, Saved, runs
from tests.toolbox import nobody_there

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@asynccontextmanager
async def held(ours: Caller, *entries: str, timeout: float = 60) -> AsyncIterator[dict[str, Tool]]:
    """The tools by the names that a model calls them by."""
    offer = await agent_tools.find("brief", entries or ("ours",), ours.saved, tuple)
    async with agent_tools.open_tools(offer, OCCURRENCE, Actor(), timeout) as tools:
        yield {each.name: each for each in tools}


async def test_many_calls_go_over_one_connection(ours: Caller) -> None:
    async with held(ours) as tools:
        assert await tools["ours_add"].call({"a": 1, "b": 2}) == "3"
        assert await tools["ours_say"].call({"text": "x", "times": 3}) == "xxx"
        assert await tools["ours_add"].call({"a": 4}) == "4"
    first, second = [(await ours.told.line())[0] for _ in range(2)]
    assert first == second
    assert runs(first) is (ours.kind == "http")  # the program was ours to start


async def test_an_error_of_a_tool_is_its_words(ours: Caller) -> None:
    async with held(ours) as tools:
        with pytest.raises(DaybookError, match="no such file"):
            await tools["ours_fail"].call({"words": "no such file"})
        with pytest.raises(DaybookError, match="valid"):
            await tools["ours_add"].call({"a": "one"})
        assert await tools["ours_add"].call({"a": 1}) == "1"


async def test_each_call_is_known_by_a_key_of_its_own_the_same_in_every_attempt(
    ours: Caller,
) -> None:
    async def keys(*tools: str) -> list[dict[str, str | None]]:
        async with held(ours) as found:
            return [json.loads(await found[each].call({})) for each in tools]

    first, second = await keys("ours_key", "ours_key")
    (again,) = await keys("ours_key")
    assert str(first["meta"]).startswith(f"{OCCURRENCE}/")
    assert second["meta"] == f"{first['meta']}.2"
    assert again["meta"] == first["meta"]
    assert first["header"] is None  # one header would be that of all calls
    assert first["team"] == ("ops" if ours.kind == "http" else None)


async def test_a_secret_that_it_says_back_is_hidden_and_none_is_filled_in(
    ours: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours.saved.kept["ops"] = Secret("ops", "hunter-2-and-more", (ours.host, "tool:ours.say"))
    if ours.kind == "http":
        headers = {"X-Team": "{{secret:ops}}"}
        ours.saved.settings["ours"] |= {"headers": headers}
    else:
        monkeypatch.setenv("OPS_TOKEN", "hunter-2-and-more")
        ours.saved.settings["ours"] |= {"environment": ["PATH", "OPS_TOKEN"]}
    async with held(ours) as tools:
        # What a model writes is sent as it is: it gets no secret by naming one.
        said = await tools["ours_say"].call({"text": "{{secret:ops}}"})
        assert said == "{{secret:ops}}"
        hidden = HIDDEN if ours.kind == "http" else "[OPS_TOKEN]"
        assert await tools["ours_say"].call({"text": "a hunter-2-and-more b"}) == f"a {hidden} b"
        with pytest.raises(DaybookError) as caught:
            await tools["ours_fail"].call({"words": "not for hunter-2-and-more"})
        assert "hunter" not in str(caught.value)
        assert hidden in str(caught.value)


async def test_one_that_dies_at_work_is_told_as_not_known(ours: Caller) -> None:
    async with held(ours) as tools:
        with pytest.raises(DaybookError, match="its effect is unknown"):
            await tools["ours_crash"].call({})
        if ours.kind == "stdio":  # there it is ours to start anew
            assert await tools["ours_add"].call({"a": 1}) == "1"


async def test_what_is_at_work_when_the_time_is_up_is_ended(ours: Caller) -> None:
    async with held(ours) as tools:
        waiting = asyncio.ensure_future(tools["ours_wait"].call({}))
        server, begun = await ours.told.line()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    if ours.kind == "stdio":
        assert not runs(server)
        assert not runs(int(begun))


async def test_a_long_answer_is_cut_for_the_model(ours: Caller) -> None:
    async with held(ours) as tools:
        said = await tools["ours_say"].call({"text": "x", "times": 100_000})
    assert said == "x" * 40_000 + "\n[cut here: the answer has 100,000 characters]"


@pytest.mark.parametrize("entries", [("ours.add", "ours.s*"), ("ours.[as]*d*", "ours.say")])
async def test_what_is_not_allowed_is_not_offered(ours: Caller, entries: tuple[str, ...]) -> None:
    async with held(ours, *entries) as tools:
        assert set(tools) == {"ours_add", "ours_say"}


async def test_a_tool_that_is_not_there_is_told_with_those_that_are(ours: Caller) -> None:
    with pytest.raises(AgentMisconfigured, match=r"has no tool launch \(it has: about, add,"):
        async with held(ours, "ours.launch"):
            pass


async def test_one_that_is_away_is_temporary_and_the_others_are_closed(ours: Caller) -> None:
    with nobody_there() as address:
        ours.saved.settings["away"] = {"url": address}
        with pytest.raises(AgentTemporary, match="the agent was not asked"):
            async with held(ours, "ours", "away"):
                pass


async def test_one_that_does_not_come_up_in_the_attempts_time_is_temporary(told: object) -> None:
    silent = Saved({"silent": {"command": ["sleep", "1000"]}})
    offer = await agent_tools.find("brief", ["silent"], silent, tuple)
    with pytest.raises(AgentTemporary, match="not ready within 1 s; the agent was not asked"):
        async with agent_tools.open_tools(offer, OCCURRENCE, Actor(), 1.0):
            pass


@pytest.mark.parametrize(("bound", "most"), [("MAX_TOOLS", 3), ("MAX_DEFINITION_CHARACTERS", 500)])
async def test_more_than_a_model_takes_is_the_operators_to_narrow(
    ours: Caller, bound: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_tools, bound, most)
    with pytest.raises(AgentMisconfigured, match=f"{most}.*list only those it needs"):
        async with held(ours):
            pass
    async with held(ours, "ours.add", "ours.say") as tools:
        assert len(tools) == 2
