"""What a model agent calls while it answers: tools of real servers, and what becomes of its run."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from uuid import uuid4

import pytest
from prefect.exceptions import FailedRun

from daybook.tools.server_blocks import PrefectServers
from tests.calling import LOOKS, Asked, calls
from tests.providers import Answer, Status, Step, provider
from tests.toolbox import nobody_there, served
from tests.world import World
from tests.world.workers import PREFECT_LEAVES_A_SOCKET, alive

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]


async def test_a_model_calls_the_tools_of_a_server_which_is_gone_afterwards(asked: Asked) -> None:
    async with served(asked.world, LOOKS) as server:
        await asked.given(server.name)
        look, write = (f"{server.name}_{each}" for each in ("look", "write"))
        result = await asked.run(
            calls(look, where="Rome"), calls(write, text="rain"), Answer("It rains.")
        )
        first, second = await server.says("look Rome"), await server.says("write rain")

    assert (result["status"], result["output"]) == ("succeeded", "It rains.")
    assert asked.here.requests[0].tools == [look, write]
    assert [seen.prompt for seen in asked.here.requests[1:]] == ["rain in Rome", "written"]
    assert first == second  # one connection for both
    assert not alive(first)
    row = await asked.world.row()
    assert row.usage is not None
    assert (row.usage["requests"], row.usage["tool_calls"]) == (3, 2)


async def test_only_what_is_allowed_is_offered_and_nothing_else_can_be_called(
    asked: Asked,
) -> None:
    async with served(asked.world, LOOKS) as server:
        await asked.given(f"{server.name}.lo*")
        result = await asked.run(calls(f"{server.name}_write", text="x"), Answer("I cannot."))

    assert result["output"] == "I cannot."
    assert asked.here.requests[0].tools == [f"{server.name}_look"]
    assert "write" in asked.here.requests[1].prompt
    assert server.had == 0


HANGS = """
@server.tool
def write() -> str:
    had()
    tell("begun")
    forever()

@server.tool(annotations={"readOnlyHint": True})
def look() -> str:
    had()
    tell("begun")
    forever()
"""


async def hung(world: World, tool: str, *, idempotent: bool) -> int:
    """A run whose tool hangs, to its end, and nothing is left of the servers; how often it hung."""
    with provider() as here:
        asked = Asked(world, here)
        async with served(world, HANGS) as server:
            await asked.given(server.name)
            # In it the server is begun as well, on a machine that has something else to do.
            policy = {"timeout": "40s", "retries": 1, "idempotent": idempotent}
            why = "no answer within 40 s while calling"
            with pytest.raises(FailedRun, match=why):
                await asked.run(calls(f"{server.name}_{tool}"), policy=policy)
            begun = [await server.says("begun") for _ in range(server.had)]
    assert not any(map(alive, begun))
    (row,) = [each for each in await world.rows() if each.parameters["agent"] == asked.name]
    assert (row.status, row.attempts) == ("timed_out", server.had)
    return server.had


@pytest.mark.timeout(240)
async def test_a_tool_that_hangs_is_ended_with_its_attempt_and_not_done_twice(world: World) -> None:
    async with asyncio.TaskGroup() as side_by_side:
        writing = side_by_side.create_task(hung(world, "write", idempotent=False))
        again = side_by_side.create_task(hung(world, "write", idempotent=True))
        looking = side_by_side.create_task(hung(world, "look", idempotent=False))
    assert (writing.result(), again.result(), looking.result()) == (1, 2, 2)


@pytest.mark.parametrize(("tool", "attempts"), [("write", 1), ("look", 2)])
async def test_a_model_that_is_busy_is_asked_again_unless_its_tools_have_changed_something(
    asked: Asked, tool: str, attempts: int
) -> None:
    async with served(asked.world, LOOKS) as server:
        await asked.given(server.name)
        given = {"text": "x"} if tool == "write" else {"where": "x"}
        script: list[Step] = [calls(f"{server.name}_{tool}", **given), Status(503), "At last."]
        if attempts == 1:
            with pytest.raises(FailedRun, match="503"):
                await asked.run(*script)
        else:
            assert (await asked.run(*script))["output"] == "At last."

    assert len(await asked.attempts()) == attempts
    row = await asked.world.row()
    assert row.usage is not None
    assert row.usage["input_tokens"] >= 100


LARGE = """
@server.tool(annotations={"readOnlyHint": True})
def long(size: int) -> str:
    tell("long")
    return "x" * size
"""


async def test_an_answer_of_forty_megabytes_is_told_as_none_and_the_server_can_be_called_again(
    asked: Asked,
) -> None:
    async with served(asked.world, LARGE) as server:
        await asked.given(server.name)
        long = f"{server.name}_long"
        result = await asked.run(
            calls(long, size=40_000_000), calls(long, size=50_000), Answer("Fine.")
        )
        first, second = [await server.says("long") for _ in range(2)]

    assert result["output"] == "Fine."
    assert "longer than" in asked.here.requests[1].prompt
    told = asked.here.requests[2].prompt
    assert told.startswith("x" * 40_000 + "\n")
    assert "50,000 characters" in told
    assert len(told) < 41_000
    assert first != second
    assert not alive(first) and not alive(second)


LEAKS = """
from fastmcp.exceptions import ToolError
@server.tool
def open_(door: str) -> str:
    if door == "front":
        return "the token is " + os.environ["DOOR_TOKEN"]
    raise ToolError("401 for " + os.environ["DOOR_TOKEN"])
"""


async def test_a_secret_that_a_tool_says_reaches_no_model_and_no_book(
    asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOOR_TOKEN", "open-sesame-9931")
    async with served(asked.world, LEAKS) as server:
        kept = await PrefectServers(asked.world.client).read(server.name)
        fields = kept.settings.model_dump(mode="json")
        fields["environment"].append("DOOR_TOKEN")
        await PrefectServers(asked.world.client).add(server.name, fields, replace=True)
        await asked.given(server.name)
        tool = f"{server.name}_open_"
        await asked.run(calls(tool, door="front"), calls(tool, door="back"), Answer("Hm."))

    assert asked.here.requests[1].prompt == "the token is [DOOR_TOKEN]"
    assert "401 for [DOOR_TOKEN]" in asked.here.requests[2].prompt
    sent = json.dumps([seen.body for seen in asked.here.requests])
    assert os.environ["DOOR_TOKEN"] not in sent


async def test_a_server_that_is_away_is_tried_again_before_anything_was_asked(
    asked: Asked,
) -> None:
    name = f"s-{uuid4().hex[:8]}"
    servers = PrefectServers(asked.world.client)
    with nobody_there() as address:
        await servers.add(name, {"url": address})
        await asked.given(name)
        with pytest.raises(FailedRun, match="the agent was not asked"):
            await asked.run("Hello.", policy={"retries": 1})

    assert [each.status for each in await asked.attempts()] == ["failed", "failed"]
    assert asked.here.requests == []


@pytest.mark.parametrize("entry", ["nowhere", "nowhere.look", "daybook.launch"])
async def test_a_name_that_nobody_knows_fails_before_anything_is_begun(
    asked: Asked, entry: str
) -> None:
    await asked.given(entry)
    with pytest.raises(FailedRun, match=entry):
        await asked.run("Hello.")
    assert await asked.attempts() == []
    assert asked.here.requests == []


async def test_a_tool_that_its_server_does_not_have_is_the_operators_to_mend(
    asked: Asked,
) -> None:
    async with served(asked.world, LOOKS) as server:
        await asked.given(f"{server.name}.launch")
        with pytest.raises(FailedRun, match=r"has no tool launch \(it has: look, write\)"):
            await asked.run("Hello.")
    assert len(await asked.attempts()) == 1
    assert asked.here.requests == []


DIES = """
@server.tool(annotations={"readOnlyHint": True})
def look(where: str) -> str:
    tell(f"look {where}")
    if where == "abyss":
        os._exit(3)
    return "light"
"""


async def test_a_server_that_dies_is_told_and_started_anew_for_the_next_call(
    asked: Asked,
) -> None:
    async with served(asked.world, DIES) as server:
        await asked.given(server.name)
        look = f"{server.name}_look"
        result = await asked.run(calls(look, where="abyss"), calls(look, where="up"), "Light.")
        first, second = await server.says("look abyss"), await server.says("look up")

    assert result["output"] == "Light."
    assert "exited with code 3" in asked.here.requests[1].prompt
    assert asked.here.requests[2].prompt == "light"
    assert first != second
    assert not alive(second)


async def test_a_structured_answer_may_be_found_with_tools(asked: Asked) -> None:
    schema = {"type": "object", "properties": {"sky": {"type": "string"}}, "required": ["sky"]}
    async with served(asked.world, LOOKS) as server:
        await asked.given(server.name)
        result = await asked.run(
            calls(f"{server.name}_write", text="x"),
            Answer("Rain, I would say."),
            Answer('{"sky": "rain"}'),
            output_format="structured",
            output_schema=schema,
        )

    assert result["result"] == {"sky": "rain"}
    assert server.had == 1
    # What asks for the form alone could write once more: it is given what only reads.
    assert [seen.tools for seen in asked.here.requests[1:]] == [
        [f"{server.name}_look", f"{server.name}_write"],
        [f"{server.name}_look"],
    ]


async def test_a_loop_of_calls_is_stopped_by_the_runs_tokens_and_not_tried_again(
    asked: Asked,
) -> None:
    async with served(asked.world, LOOKS) as server:
        await asked.given(server.name)
        with pytest.raises(FailedRun, match="stopped: the token limit is reached"):
            await asked.run(
                calls(f"{server.name}_look", where="Rome"), policy={"tokens_per_run": 300}
            )

    # 120 tokens each: after the second 240, after the third 360.
    assert len(asked.here.requests) == 3
    row = await asked.world.row()
    assert (row.status, row.attempts) == ("failed", 1)
    assert "300 were left, and 3 requests took 360" in str(row.error)
    assert row.usage is not None
    assert (row.usage["input_tokens"], row.usage["output_tokens"]) == (300, 60)


async def test_a_run_that_is_stopped_in_a_call_is_unknown_and_the_server_is_gone(
    asked: Asked,
) -> None:
    async with served(asked.world, HANGS) as server:
        await asked.given(server.name)
        asked.here.script = [calls(f"{server.name}_write")]
        run = await asked.world.prefect.custom_run(
            await asked.world.deploy(on_demand=True, agent=asked.name)
        )
        execution = await asked.world.workers.execute(run, bare=True)
        pid = await server.says("begun")
        await execution.sent(signal.SIGTERM)
        _, said = await execution.ends()

    assert not alive(pid), said
    assert (await asked.world.row()).status == "unknown", said
    assert server.had == 1
    assert len(asked.here.requests) == 1
