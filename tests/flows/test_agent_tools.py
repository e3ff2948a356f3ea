"""Tools of real servers that a model agent calls while it answers, and the outcome of its run."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from uuid import uuid4

import pytest
from prefect.exceptions import FailedRun

from daybook.tools.server_blocks import STORE, PrefectServers
from tests.at_prefect import add_document
from tests.calling import LOOKS, ModelAgent, calls
from tests.providers import Answer, Status, Step, provider
from tests.toolbox import nobody_there, served
from tests.world.prefect_world import PrefectWorld
from tests.world.processes import alive
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]


async def test_a_model_calls_a_servers_tools_and_the_server_ends_afterwards(
    model_agent: ModelAgent,
) -> None:
    async with served(model_agent.world, LOOKS) as server:
        await model_agent.given(server.name)
        read_tool, write = (f"{server.name}_{each}" for each in ("look", "write"))
        result = await model_agent.run(
            calls(read_tool, where="Rome"), calls(write, text="rain"), Answer("It rains.")
        )
        first, second = await server.says("look Rome"), await server.says("write rain")

    assert (result["status"], result["output"]) == ("succeeded", "It rains.")
    assert model_agent.fake_provider.requests[0].tools == [read_tool, write]
    assert [request.prompt for request in model_agent.fake_provider.requests[1:]] == [
        "rain in Rome",
        "written",
    ]
    assert first == second  # both calls used one server process
    assert not alive(first)
    row = await model_agent.world.runs.row()
    assert row.usage is not None
    assert (row.usage["requests"], row.usage["tool_calls"]) == (3, 2)


async def test_a_model_is_offered_only_listed_tools_and_can_call_no_other(
    model_agent: ModelAgent,
) -> None:
    async with served(model_agent.world, LOOKS) as server:
        await model_agent.given(f"{server.name}.lo*")
        result = await model_agent.run(calls(f"{server.name}_write", text="x"), Answer("I cannot."))

    assert result["output"] == "I cannot."
    assert model_agent.fake_provider.requests[0].tools == [f"{server.name}_look"]
    assert "write" in model_agent.fake_provider.requests[1].prompt
    assert server.effect_count == 0


HANGS = """
@server.tool
def write() -> str:
    had()
    tell("started")
    forever()

@server.tool(annotations={"readOnlyHint": True})
def look() -> str:
    had()
    tell("started")
    forever()
"""


async def hung(world: PrefectWorld, tool: str, *, idempotent: bool) -> int:
    """Run a tool that hangs until its run ends; return how often it was called.

    Assert that no process of the server is left.
    """
    with provider() as fake_provider:
        model_agent = ModelAgent(world, fake_provider)
        async with served(world, HANGS) as server:
            await model_agent.given(server.name)
            # The timeout includes the start of the server, which may be slow on a busy machine.
            policy = {"timeout": "40s", "retries": 1, "idempotent": idempotent}
            why = "no answer within 40 s while calling"
            with pytest.raises(FailedRun, match=why):
                await model_agent.run(calls(f"{server.name}_{tool}"), policy=policy)
            pids = [await server.says("started") for _ in range(server.effect_count)]
    assert not any(map(alive, pids))
    (row,) = [
        each for each in await world.runs.rows() if each.parameters["agent"] == model_agent.name
    ]
    assert (row.status, row.attempts) == ("timed_out", server.effect_count)
    return server.effect_count


@pytest.mark.timeout(240)
async def test_a_hanging_tool_ends_with_its_attempt_and_only_safe_calls_are_repeated(
    world: PrefectWorld,
) -> None:
    async with asyncio.TaskGroup() as side_by_side:
        writing = side_by_side.create_task(hung(world, "write", idempotent=False))
        again = side_by_side.create_task(hung(world, "write", idempotent=True))
        looking = side_by_side.create_task(hung(world, "look", idempotent=False))
    assert (writing.result(), again.result(), looking.result()) == (1, 2, 2)


@pytest.mark.parametrize("tool", ["write", "look"])
async def test_a_busy_model_is_retried_and_the_calls_before_are_not_repeated(
    model_agent: ModelAgent, tool: str
) -> None:
    async with served(model_agent.world, LOOKS) as server:
        await model_agent.given(server.name)
        given = {"text": "x"} if tool == "write" else {"where": "x"}
        script: list[Step] = [calls(f"{server.name}_{tool}", **given), Status(503), "At last."]
        assert (await model_agent.run(*script))["output"] == "At last."
        assert (await server.word())[1] == f"{tool} x"

    assert len(model_agent.fake_provider.requests) == 3
    assert server.effect_count == (1 if tool == "write" else 0)
    assert len(await model_agent.attempts()) == 2
    row = await model_agent.world.runs.row()
    assert row.usage is not None
    assert (row.usage["requests"], row.usage["input_tokens"]) == (2, 110)


LARGE = """
@server.tool(annotations={"readOnlyHint": True})
def long(size: int) -> str:
    tell("long")
    return "x" * size
"""


async def test_an_answer_of_forty_megabytes_is_refused_and_the_next_call_succeeds(
    model_agent: ModelAgent,
) -> None:
    async with served(model_agent.world, LARGE) as server:
        await model_agent.given(server.name)
        long = f"{server.name}_long"
        result = await model_agent.run(
            calls(long, size=40_000_000), calls(long, size=50_000), Answer("Fine.")
        )
        first, second = [await server.says("long") for _ in range(2)]

    assert result["output"] == "Fine."
    assert "longer than" in model_agent.fake_provider.requests[1].prompt
    prompt = model_agent.fake_provider.requests[2].prompt
    assert prompt.startswith("x" * 40_000 + "\n")
    assert "50,000 characters" in prompt
    assert len(prompt) < 41_000
    assert first != second
    assert not alive(first) and not alive(second)


LEAKS = """
from fastmcp.exceptions import ToolError
@server.tool
def open_(entrance: str) -> str:
    if entrance == "front":
        return "the token is " + os.environ["DOOR_TOKEN"]
    raise ToolError("401 for " + os.environ["DOOR_TOKEN"])
"""


async def test_a_secret_in_a_tools_answer_or_error_is_masked_for_the_model(
    model_agent: ModelAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOOR_TOKEN", "open-sesame-9931")
    async with served(model_agent.world, LEAKS) as server:
        server_block = await PrefectServers(model_agent.world.client).read(server.name)
        fields = server_block.settings.model_dump(mode="json")
        fields["environment"].append("DOOR_TOKEN")
        await add_document(STORE, model_agent.world.client, server.name, fields)
        await model_agent.given(server.name)
        tool = f"{server.name}_open_"
        await model_agent.run(
            calls(tool, entrance="front"), calls(tool, entrance="back"), Answer("Hm.")
        )

    assert model_agent.fake_provider.requests[1].prompt == "the token is [DOOR_TOKEN]"
    assert "401 for [DOOR_TOKEN]" in model_agent.fake_provider.requests[2].prompt
    sent = json.dumps([request.body for request in model_agent.fake_provider.requests])
    assert os.environ["DOOR_TOKEN"] not in sent


async def test_an_unreachable_tool_server_is_retried_before_the_agent_is_asked(
    model_agent: ModelAgent,
) -> None:
    name = f"s-{uuid4().hex[:8]}"
    with nobody_there() as address:
        await add_document(STORE, model_agent.world.client, name, {"url": address})
        await model_agent.given(name)
        with pytest.raises(FailedRun, match="the agent was not asked"):
            await model_agent.run("Hello.", policy={"retries": 1})

    assert [each.status for each in await model_agent.attempts()] == ["failed", "failed"]
    assert model_agent.fake_provider.requests == []


@pytest.mark.parametrize("entry", ["nowhere", "nowhere.look", "daybook.launch"])
async def test_an_unknown_tool_name_fails_the_run_before_its_first_attempt(
    model_agent: ModelAgent, entry: str
) -> None:
    await model_agent.given(entry)
    with pytest.raises(FailedRun, match=entry):
        await model_agent.run("Hello.")
    assert await model_agent.attempts() == []
    assert model_agent.fake_provider.requests == []


async def test_a_tool_missing_from_its_server_fails_the_run_without_a_retry(
    model_agent: ModelAgent,
) -> None:
    async with served(model_agent.world, LOOKS) as server:
        await model_agent.given(f"{server.name}.launch")
        with pytest.raises(FailedRun, match=r"has no tool launch \(it has: look, write\)"):
            await model_agent.run("Hello.")
    assert len(await model_agent.attempts()) == 1
    assert model_agent.fake_provider.requests == []


DIES = """
@server.tool(annotations={"readOnlyHint": True})
def look(where: str) -> str:
    tell(f"look {where}")
    if where == "abyss":
        os._exit(3)
    return "light"
"""


async def test_a_server_that_dies_is_reported_and_restarted_for_the_next_call(
    model_agent: ModelAgent,
) -> None:
    async with served(model_agent.world, DIES) as server:
        await model_agent.given(server.name)
        read_tool = f"{server.name}_look"
        result = await model_agent.run(
            calls(read_tool, where="abyss"), calls(read_tool, where="up"), "Light."
        )
        first, second = await server.says("look abyss"), await server.says("look up")

    assert result["output"] == "Light."
    assert "exited with code 3" in model_agent.fake_provider.requests[1].prompt
    assert model_agent.fake_provider.requests[2].prompt == "light"
    assert first != second
    assert not alive(second)


async def test_a_structured_answer_may_use_tools_and_its_repair_only_reading_ones(
    model_agent: ModelAgent,
) -> None:
    schema = {"type": "object", "properties": {"sky": {"type": "string"}}, "required": ["sky"]}
    async with served(model_agent.world, LOOKS) as server:
        await model_agent.given(server.name)
        result = await model_agent.run(
            calls(f"{server.name}_write", text="x"),
            Answer("Rain, I would say."),
            Answer('{"sky": "rain"}'),
            output_format="structured",
            output_schema=schema,
        )

    assert result["result"] == {"sky": "rain"}
    assert server.effect_count == 1
    # The repair request could write a second time, so it offers read-only tools only.
    assert [request.tools for request in model_agent.fake_provider.requests[1:]] == [
        [f"{server.name}_look", f"{server.name}_write"],
        [f"{server.name}_look"],
    ]


async def test_the_runs_token_limit_stops_a_loop_of_tool_calls_without_a_retry(
    model_agent: ModelAgent,
) -> None:
    async with served(model_agent.world, LOOKS) as server:
        await model_agent.given(server.name)
        with pytest.raises(FailedRun, match="budget: 480 of 600 tokens per run are used"):
            await model_agent.run(
                calls(f"{server.name}_look", where="Rome"), policy={"tokens_per_run": 600}
            )

    # Each request uses 120 tokens: after the fourth, 120 are left, and the next needs more.
    assert len(model_agent.fake_provider.requests) == 4
    row = await model_agent.world.runs.row()
    assert (row.status, row.attempts) == ("failed", 1)
    assert row.usage is not None
    assert (row.usage["input_tokens"], row.usage["output_tokens"]) == (400, 80)


async def test_a_run_stopped_during_a_tool_call_is_unknown_and_its_server_ends(
    model_agent: ModelAgent,
) -> None:
    async with served(model_agent.world, HANGS) as server:
        await model_agent.given(server.name)
        model_agent.fake_provider.script = [calls(f"{server.name}_write")]
        run = await model_agent.world.prefect.custom_run(
            await model_agent.world.deploy(on_demand=True, agent=model_agent.name)
        )
        execution = await model_agent.world.executions.begin(run, bare=True)
        pid = await server.says("started")
        await execution.sent(signal.SIGTERM)
        _, output = await execution.wait_for_exit()

    assert not alive(pid), output
    assert (await model_agent.world.runs.row()).status == "unknown", output
    assert server.effect_count == 1
    assert len(model_agent.fake_provider.requests) == 1
