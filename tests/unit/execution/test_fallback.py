"""Fallback agents: after which errors the next agent is asked, and what its request contains."""

from __future__ import annotations

import asyncio
import logging
import sys
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daybook.agents import kinds
from daybook.agents.base import Agent, AgentReply, AgentRequest, Tool
from daybook.errors import (
    AgentError,
    AgentFailed,
    AgentMisconfigured,
    AgentTemporary,
    AgentTimeout,
)
from daybook.execution.agent_request import PreparedRequest
from daybook.execution.agent_tools import ToolSelection
from daybook.execution.fallback import PreparedAgents
from daybook.owners import Actor
from daybook.testing import ScriptedAgent

REQUEST = AgentRequest("How many?", timeout=30, occurrence="o")
SCHEMA = {"type": "object", "required": ["count"]}


def marked(error: AgentError, **marks: bool) -> AgentError:
    vars(error).update(marks)
    return error


def used(error: AgentError, tokens: int) -> AgentError:
    error.usage = {"requests": 1, "input_tokens": tokens, "output_tokens": 0}
    return error


def prepared(
    *agents: Agent | AgentMisconfigured, tools: tuple[Tool, ...] = (), **given: Any
) -> PreparedAgents:
    """Prepare the agents as `a`, `b` and so on; ``given`` are fields of the request."""
    return PreparedAgents(
        {
            name: agent
            if isinstance(agent, AgentMisconfigured)
            else PreparedRequest(
                agent,
                replace(REQUEST, fallback=position, **given),
                ToolSelection(name, own=tools),
                Actor(),
            )
            for position, (name, agent) in enumerate(zip("abc", agents, strict=False))
        }
    )


@pytest.mark.parametrize(
    ("error", "moves_on"),
    [
        (AgentTemporary("429"), True),
        (AgentMisconfigured("401"), True),
        (AgentFailed("the prompt exceeds the context window"), False),
        (AgentTimeout(30), False),
        (marked(AgentTemporary("503 after a tool call"), final=True), False),
        (marked(AgentMisconfigured("401 after a tool call"), final=True), False),
        (marked(AgentTemporary("503 in the repair"), answered=True), False),
    ],
)
async def test_another_agent_is_asked_only_if_this_one_is_unavailable(
    error: AgentError, moves_on: bool, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = ScriptedAgent(error), ScriptedAgent("Three.", name="second")
    agents = prepared(first, second)
    if moves_on:
        answer = await agents.ask()
        assert (answer.reply.text, answer.reply.agent) == ("Three.", "second")
        assert answer.remark == f"agent a: {error}; answered by the fallback agent b"
        (warning,) = [each for each in caplog.records if each.levelno == logging.WARNING]
        assert warning.getMessage() == f"the agent a is unavailable: {error}"
    else:
        with pytest.raises(type(error)) as raised:
            await agents.ask()
        assert str(raised.value) == str(error)
        assert caplog.records == []
    assert (len(first.requests), len(second.requests)) == (1, int(moves_on))


async def test_without_an_error_no_other_agent_is_asked() -> None:
    second = ScriptedAgent()
    answer = await prepared(ScriptedAgent("Two."), second).ask()
    assert (answer.reply.text, answer.remark, second.requests) == ("Two.", "", [])


async def test_an_agent_that_cannot_be_prepared_counts_as_unavailable() -> None:
    agents = prepared(AgentMisconfigured('unknown "a"'), ScriptedAgent("Three."))
    assert (await agents.ask()).reply.text == "Three."


BUSY, SLOW = AgentTemporary("busy"), AgentTemporary("slow", 40)
WRONG, REFUSED = AgentMisconfigured("wrong"), AgentFailed("refused")


@pytest.mark.parametrize(
    ("errors", "kind", "retry_after"),
    [
        ((BUSY, SLOW), AgentTemporary, None),
        ((SLOW, WRONG), AgentTemporary, 40),
        ((WRONG, SLOW, WRONG), AgentTemporary, 40),
        ((WRONG, WRONG), AgentMisconfigured, None),
        ((SLOW, REFUSED), AgentFailed, None),
    ],
)
async def test_if_no_agent_answers_an_error_that_allows_a_retry_is_raised(
    errors: tuple[AgentError, ...], kind: type[AgentError], retry_after: float | None
) -> None:
    agents = [ScriptedAgent(used(copy(each), 10)) for each in errors]
    expected = "; ".join(f"agent {n}: {each}" for n, each in zip("abc", errors, strict=False))
    with pytest.raises(AgentError) as raised:
        await prepared(*agents).ask()
    assert (type(raised.value), str(raised.value)) == (kind, expected)
    assert getattr(raised.value, "retry_after", None) == retry_after
    assert raised.value.usage == {
        "requests": len(errors),
        "input_tokens": 10 * len(errors),
        "output_tokens": 0,
    }


async def test_the_usage_of_all_agents_is_added_up_and_reported_before_the_next_one() -> None:
    reported: list[dict[str, Any]] = []
    reply = AgentReply("Three.", "b", usage={"requests": 2, "input_tokens": 7, "output_tokens": 1})
    agents = prepared(
        ScriptedAgent(used(AgentTemporary("busy"), 60)), ScriptedAgent(reply), took=reported.append
    )
    answer = await agents.ask()
    assert answer.reply.usage == {"requests": 3, "input_tokens": 67, "output_tokens": 1}
    assert reported == [{"requests": 1, "input_tokens": 60, "output_tokens": 0}]


@pytest.mark.parametrize(("tokens", "left"), [(100, 40), (60, None)])
async def test_the_agents_share_the_tokens(tokens: int, left: int | None) -> None:
    second = ScriptedAgent("Three.")
    agents = prepared(ScriptedAgent(used(AgentTemporary("busy"), 60)), second, tokens=tokens)
    if left is None:
        with pytest.raises(AgentTemporary, match="busy"):
            await agents.ask()
        assert second.requests == []
    else:
        await agents.ask()
        assert [each.tokens for each in second.requests] == [left]


class Slow:
    """Agent that is unavailable only when its time is over."""

    name = "slow"

    async def answer(self, request: AgentRequest) -> AgentReply:
        try:
            async with asyncio.timeout(request.timeout):
                await asyncio.Event().wait()
        except TimeoutError:
            raise AgentTemporary("the tool servers were not ready") from None
        raise AssertionError


async def test_a_fallback_agent_has_the_time_that_is_left() -> None:
    second = ScriptedAgent("Three.")
    await prepared(ScriptedAgent(AgentTemporary("busy")), second).ask()
    (request,) = second.requests
    assert 0 < request.timeout < REQUEST.timeout

    late = ScriptedAgent("Three.")
    with pytest.raises(AgentTemporary, match=r"^the tool servers were not ready$"):
        await prepared(Slow(), late, timeout=0.05).ask()
    assert late.requests == []


async def test_each_fallback_agent_has_an_idempotency_key_of_its_own() -> None:
    busy = AgentTemporary("busy")
    first, second = ScriptedAgent(busy), ScriptedAgent(busy)
    third = ScriptedAgent("three", '{"count": 3}')
    await prepared(first, second, third).ask("structured", SCHEMA)
    keys = [
        request.idempotency_key() for each in (first, second, third) for request in each.requests
    ]
    assert keys == ["o", "o~1", "o~2", "o~2#2"]


class Calls:
    """Agent that calls its first tool and is then cut off."""

    name = "calls"

    async def answer(self, request: AgentRequest) -> AgentReply:
        await request.tools[0].call({})
        raise AgentTemporary("cut off")


@pytest.mark.parametrize(
    ("read_only", "repeatable", "moves_on"),
    [(True, False, True), (False, False, False), (False, True, True)],
)
async def test_after_a_tool_call_that_may_have_changed_something_no_other_agent_is_asked(
    read_only: bool, repeatable: bool, moves_on: bool
) -> None:
    called: list[dict[str, Any]] = []

    async def call(arguments: dict[str, Any]) -> str:
        called.append(arguments)
        return "done"

    second = ScriptedAgent("Three.")
    tool = Tool("write", "Writes.", {"type": "object"}, call, read_only)
    agents = prepared(Calls(), second, tools=(tool,), repeatable=repeatable)
    if moves_on:
        assert (await agents.ask()).reply.text == "Three."
    else:
        with pytest.raises(AgentTemporary, match="cut off"):
            await agents.ask()
    assert (len(called), len(second.requests)) == (1, int(moves_on))


def program(text: str, *arguments: str) -> Agent:
    command = [sys.executable, "-I", "-S", "-c", text, *arguments]
    return kinds.build("daybook-command-agent", "program", {"command": command})


FAILS = "import sys; sys.exit('no credit')"
HANGS = "import threading; threading.Event().wait()"


@pytest.mark.parametrize(("text", "kind"), [(FAILS, AgentFailed), (HANGS, AgentTimeout)])
async def test_after_a_program_was_started_no_other_agent_is_asked(
    text: str, kind: type[AgentError]
) -> None:
    second = ScriptedAgent("Three.")
    with pytest.raises(kind):
        await prepared(program(text), second, timeout=0.2 if kind is AgentTimeout else 30.0).ask()
    assert second.requests == []


async def test_a_program_that_is_missing_has_done_nothing() -> None:
    missing = kinds.build("daybook-command-agent", "gone", {"command": ["/nowhere/agent"]})
    answer = await prepared(missing, ScriptedAgent("Three.")).ask()
    assert answer.reply.text == "Three."
    assert "/nowhere/agent" in answer.remark


async def test_a_program_that_vanished_before_its_second_start_may_have_had_its_effect(
    tmp_path: Path,
) -> None:
    script = tmp_path / "agent"
    script.write_text('#!/bin/sh\necho "three"\nrm "$0"\n')
    script.chmod(0o700)
    vanishing = kinds.build("daybook-command-agent", "vanishing", {"command": [str(script)]})
    second = ScriptedAgent('{"count": 3}')
    with pytest.raises(AgentMisconfigured, match=str(script)):
        await prepared(vanishing, second).ask("structured", SCHEMA)
    assert second.requests == []
