"""The flow called in a script: its result, the run in the ledger, the artifact, Prefect's state."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.schemas.objects import State
from prefect.exceptions import FailedRun

from daybook.api import runs
from daybook.errors import InvalidInput, LedgerUnreachable
from daybook.execution import attempt
from flows.agent_prompt import agent_prompt
from tests.timings import change
from tests.world.prefect_world import PrefectWorld
from tests.world.processes import alive
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

call: Any = agent_prompt  # for arguments that the signature forbids, or a state as the result

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, *PREFECT_LEAVES_A_SOCKET]


async def _prefect_state(world: PrefectWorld, flow_run_id: str | None) -> State[Any]:
    state = (await world.client.read_flow_run(UUID(str(flow_run_id)))).state
    assert state is not None
    return state


@pytest.mark.slow
async def test_a_direct_call_of_the_offline_agent_is_recorded_as_a_run(world: PrefectWorld) -> None:
    result: Any = await agent_prompt(prompt="What is on today?")

    row = await world.runs.row()
    assert result == {
        "run_id": row.id,
        "status": "succeeded",
        "reason": "",
        "output": row.output,
        "result": None,
        "error": None,
    }
    assert str(row.output).startswith("Offline agent: no model is configured")
    assert (row.status, row.trigger, row.attempts, row.fence) == ("succeeded", "direct", 1, 1)
    assert (row.agent, row.flow_starts, row.job_id) == ("default", 1, None)
    assert row.occurrence == f"flow:{row.flow_run_id}"
    assert row.parameters["prompt"] == "What is on today?"
    assert row.due.microsecond == 0
    assert row.due <= row.started_at <= row.finished_at  # type: ignore[operator]
    page = await world.prefect.artifact(row.flow_run_id)
    assert "What is on today?" in page
    assert str(row.output) in page
    assert (await _prefect_state(world, row.flow_run_id)).name == "Completed"


@pytest.mark.slow
async def test_an_agents_markdown_is_escaped_in_the_artifact(world: PrefectWorld) -> None:
    agent = await world.agents.add('print("![x](http://evil.example/x.png) <script>x</script>")')

    result: Any = await agent_prompt(prompt="Say `it`", agent=agent.name)

    assert result["output"].startswith("![x]")  # the result keeps the original text
    page = await world.prefect.artifact((await world.runs.row()).flow_run_id)
    assert "[image: x](http://evil.example/x.png) &lt;script>" in page
    assert "![" not in page
    assert "<script" not in page


@pytest.mark.floor("C", "work_dir: where the agent runs")
async def test_a_program_runs_in_the_work_dir_of_the_job(
    world: PrefectWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_ALLOWED_WORK_DIRS", str(tmp_path))
    (tmp_path / "repo").mkdir()
    agent = await world.agents.add('import os; print(os.getcwd(), "for", input())')
    policy = {"work_dir": f"{tmp_path}/repo"}

    await call(prompt="Look into {{work_dir}}", agent=agent.name, policy=policy)

    repo = (tmp_path / "repo").resolve()
    assert (await world.runs.row()).output == f"{repo} for Look into {repo}"
    (tmp_path / "repo").rmdir()
    with pytest.raises(FailedRun, match=r"work_dir: .*/repo does not exist on this machine"):
        await call(prompt="Look into {{work_dir}}", agent=agent.name, policy=policy)


async def test_a_program_that_fails_fails_the_run(world: PrefectWorld) -> None:
    agent = await world.agents.add('print("so far"); sys.exit("no such repository")')

    with pytest.raises(FailedRun, match="no such repository"):
        await agent_prompt(prompt="Do it", agent=agent.name)

    row = await world.runs.row()
    assert (row.status, row.output) == ("failed", "so far")
    assert "no such repository" in str(row.error)
    state = await _prefect_state(world, row.flow_run_id)
    assert (state.name, state.type.value) == ("Failed", "FAILED")
    assert state.message == row.error
    assert "no such repository" in await world.prefect.artifact(row.flow_run_id)


@pytest.mark.floor("C", "A timeout ends the agent's process")
@pytest.mark.slow
async def test_a_program_that_exceeds_its_timeout_is_ended_and_timed_out(
    world: PrefectWorld,
) -> None:
    agent = await world.agents.add('print("so far", flush=True); tell("running"); forever()')

    with pytest.raises(FailedRun, match="no answer within 5 s"):
        await call(prompt="Do it", agent=agent.name, policy={"timeout": "5s", "retries": 0})

    assert not alive(await agent.says("running"))
    row = await world.runs.row()
    assert (row.status, row.output) == ("timed_out", "so far")
    state = await _prefect_state(world, row.flow_run_id)
    assert (state.name, state.type.value) == ("TimedOut", "FAILED")


@pytest.mark.slow
async def test_an_agent_that_does_not_exist_fails_the_run(world: PrefectWorld) -> None:
    with pytest.raises(FailedRun, match='unknown "nobody"'):
        await agent_prompt(prompt="Do it", agent="nobody")

    assert (await world.runs.row()).status == "failed"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"prompt": " "}, "prompt"),
        ({"prompt": "Do it", "agent": ""}, "agent"),
        ({"prompt": "Do it", "session": "chat"}, "session"),
        ({"prompt": "Do it", "session": "sometimes"}, "session"),
        ({"prompt": "Do it", "policy": {"surprise": "1h"}}, "surprise"),
        ({"prompt": "Do it", "policy": {"timeout": "soon"}}, "timeout"),
    ],
)
async def test_invalid_arguments_are_refused_and_no_run_is_recorded(
    world: PrefectWorld, given: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        await call(**given)

    assert refused.value.field == named
    assert await world.runs.rows() == []


@pytest.mark.slow
async def test_a_question_without_a_job_is_recorded_as_a_run(world: PrefectWorld) -> None:
    asked = await runs.ask("What is on today?")
    row = await world.runs.row()
    assert (asked.id, asked.status, asked.job) == (row.id, "succeeded", None)
    assert asked.output is not None and asked.output.startswith("Offline agent")
    failed = await runs.ask("What is on today?", agent="nobody")
    assert (failed.status, "nobody" in str(failed.error)) == ("failed", True)


@pytest.mark.slow
async def test_each_subflow_is_its_own_run(world: PrefectWorld) -> None:
    @flow
    async def parent() -> list[Any]:
        return [await agent_prompt(prompt="One"), await agent_prompt(prompt="Two")]

    results = await parent()

    rows = await world.runs.rows()
    assert [row.parameters["prompt"] for row in rows] == ["One", "Two"]
    assert [each["run_id"] for each in results] == [row.id for row in rows]
    assert len({row.flow_run_id for row in rows}) == 2


async def test_without_a_ledger_the_action_does_not_start(world: PrefectWorld) -> None:
    agent = await world.agents.add("had()")
    await world.ledger.close()
    for each in world.home.path.glob("ledger.db*"):
        each.unlink()
    (world.home.path / "ledger.db").mkdir()

    with pytest.raises(LedgerUnreachable):
        await agent_prompt(prompt="Do it", agent=agent.name)

    assert agent.effect_count == 0
    (world.home.path / "ledger.db").rmdir()


async def test_a_refused_lease_renewal_ends_the_program(
    world: PrefectWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch, attempt, run_lease_renewal=0.05)
    agent = await world.agents.add('had(); tell("running"); forever()')
    task = asyncio.create_task(call(prompt="Do it", agent=agent.name, return_state=True))
    pid = await agent.says("running")

    async with world.ledger.write() as session:
        row = await world.runs.row()
        row.fence, row.holder, row.flow_run_id = row.fence + 1, "there:2", "another"
        await session.merge(row)
    state = await task

    assert not alive(pid)
    assert (state.name, state.type.value) == ("Skipped", "COMPLETED")
    assert "was taken over" in str(state.message)
    row = await world.runs.row()
    assert (row.status, row.holder) == ("running", "there:2")
    (known,) = row.evidence
    assert (known["fence"], known["status"]) == (1, "unknown")


@pytest.mark.slow
async def test_a_call_whose_run_became_unknown_reports_unknown_to_prefect(
    world: PrefectWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch, attempt, run_lease_renewal=0.05)
    agent = await world.agents.add('tell("running"); forever()')
    task = asyncio.create_task(call(prompt="Do it", agent=agent.name, return_state=True))
    pid = await agent.says("running")

    async with world.ledger.write() as session:
        row = await world.runs.row()
        row.status, row.reason = "unknown", "the lease was lost"
        await session.merge(row)
    state = await task

    assert not alive(pid)
    assert (state.name, state.type.value) == ("Unknown", "CRASHED")
    assert state.message == "the lease was lost"


async def test_a_cancelled_call_records_its_run_as_unknown(world: PrefectWorld) -> None:
    agent = await world.agents.add('had(); tell("running"); forever()')
    task = asyncio.create_task(agent_prompt(prompt="Do it", agent=agent.name))
    pid = await agent.says("running")

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert not alive(pid)
    row = await world.runs.row()
    assert (row.status, row.reason) == (
        "unknown",
        "the process was stopped while the agent was running",
    )


async def test_a_structured_answer_is_repaired_once_and_the_run_says_so(
    world: PrefectWorld,
) -> None:
    agent = await world.agents.add(
        'had(); print("none" if "does not match" not in sys.stdin.read() else \'{"n": 3}\')'
    )
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}

    result = await call(
        prompt="How many?", agent=agent.name, output_format="structured", output_schema=schema
    )

    assert (result["status"], result["result"]) == ("succeeded", {"n": 3})
    row = await world.runs.row()
    assert (row.result, row.attempts) == ({"n": 3}, 1)
    assert row.reason.startswith("repaired: the first answer is not JSON")
    assert agent.effect_count == 2


async def test_an_unknown_agent_fails_the_run_before_begin(world: PrefectWorld) -> None:
    with pytest.raises(FailedRun, match='unknown "nobody"'):
        await agent_prompt(prompt="Do it", agent="nobody")

    row = await world.runs.row()
    assert (row.status, row.attempts, row.started_at) == ("failed", 0, None)
    assert 'unknown "nobody"' in str(row.error)
