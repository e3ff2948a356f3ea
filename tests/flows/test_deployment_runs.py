"""Runs of a deployment, each executed in its own process as a worker starts it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from datetime import UTC, datetime, timedelta

import pytest
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.states import AwaitingRetry, Cancelling, Scheduled

from daybook.clock import SYSTEM_CLOCK
from daybook.execution import execute
from daybook.prefect import ended_runs, scheduled_runs
from daybook.runs import claim_requests, claims
from daybook.runs.claim_requests import ClaimRequest, Granted
from tests.world.prefect_world import PrefectWorld
from tests.world.processes import alive
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.e2e,
    pytest.mark.slow,
    *PREFECT_LEAVES_A_SOCKET,
]

ACTS = 'had(); tell("running"); forever()'


async def test_a_scheduled_run_starts_at_its_due_time_and_not_before(world: PrefectWorld) -> None:
    agent = await world.agents.add("had(); print(sys.stdin.read())")
    stored = await world.deploy(prompt="What is new?", every="8s", agent=agent.name)
    run = await world.prefect.scheduled(stored)
    expected = run.expected_start_time
    assert expected is not None

    execution = await world.executions.begin(run)
    assert SYSTEM_CLOCK.now() < expected  # it has to wait
    code, output = await execution.wait_for_exit()

    assert code == 0, output
    row = await world.runs.row()
    due = datetime.fromtimestamp(int(expected.timestamp()), UTC)
    assert row.occurrence == claim_requests.due_key(stored.id, due)
    assert (row.status, row.trigger, row.due) == ("succeeded", "schedule", due)
    assert (row.flow_run_id, row.flow_starts, row.attempts) == (str(run.id), 1, 1)
    assert row.started_at is not None
    assert timedelta(0) <= row.started_at - due < timedelta(seconds=60)
    assert agent.effect_count == 1
    state = await world.prefect.state(run)
    assert (state.name, state.message) == ("Completed", "What is new?")
    of_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]))
    logged = [each.message for each in await world.client.read_logs(of_run)]
    pattern = rf"succeeded · agent {agent.name} · [\d.]+ s\nWhat is new\?"
    assert any(re.fullmatch(pattern, each) for each in logged)
    page = await world.prefect.artifact(row.flow_run_id)
    assert page.startswith(f"# {stored.job.name}\n")
    assert f"**succeeded** · due {due:%F %T} UTC · schedule · " in page
    assert " · took " in page
    assert f"/deployments/deployment/{run.deployment_id})" in page
    assert "What is new?" in page


async def test_without_a_ledger_a_run_crashes_with_the_reason_and_the_keeper_starts_it_again(
    world: PrefectWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execute, "NO_LEDGER_DELAY", timedelta(0))
    agent = await world.agents.add("had()")
    run = await world.prefect.custom_run(await world.deploy(on_demand=True, agent=agent.name))
    ledger, moved = world.home.path / "ledger.db", world.home.path / "away"
    moved.mkdir()
    for each in world.home.path.glob("ledger.db*"):
        each.rename(moved / each.name)
    ledger.mkdir()

    state = await world.executions.complete_here(run)

    assert (state.type.value, state.name) == ("CRASHED", "Crashed")
    assert str(ledger) in str(state.message)
    assert agent.effect_count == 0

    ledger.rmdir()
    for each in moved.iterdir():
        each.rename(world.home.path / each.name)
    await ended_runs.record_end(world.ledger, world.client, str(run.id))
    row = await world.runs.row()
    assert (row.status, row.reason) == (
        "waiting",
        f"its Prefect run ended as Crashed: {state.message}",
    )
    await scheduled_runs.ensure_row(world.ledger, world.client, row)
    again = await world.prefect.run((await world.runs.row()).flow_run_id)
    assert again.id != run.id
    assert (await world.executions.complete(again)).is_completed()

    row = await world.runs.row()
    assert (row.status, row.flow_starts, row.retry_of) == ("succeeded", 1, None)
    assert agent.effect_count == 1


async def test_a_run_claimed_by_another_process_is_skipped(world: PrefectWorld) -> None:
    agent = await world.agents.add("had()")
    stored = await world.deploy(every="3s", agent=agent.name)
    run = await world.prefect.scheduled(stored)
    assert run.expected_start_time is not None
    due = datetime.fromtimestamp(int(run.expected_start_time.timestamp()), UTC)
    await SYSTEM_CLOCK.wait_until(due)
    parameters = stored.job.parameters()
    key = claim_requests.due_key(stored.id, due)
    claim_request = ClaimRequest(
        key, "agent-prompt", "schedule", due, "there:2", parameters, stored.id, "other"
    )
    other = await claims.claim(world.ledger, claim_request)
    assert isinstance(other, Granted)

    state = await world.executions.complete(run)

    assert (state.type.value, state.name) == ("CANCELLED", "Skipped")
    assert state.message == f"run {other.run_id[:8]} is already in progress"
    assert (await world.runs.row()).holder == "there:2"
    assert agent.effect_count == 0


@pytest.mark.parametrize("supervised", [True, False])
async def test_cancelling_a_run_in_prefect_ends_its_program_and_is_recorded(
    world: PrefectWorld, supervised: bool
) -> None:
    agent = await world.agents.add(ACTS)
    run = await world.prefect.custom_run(await world.deploy(on_demand=True, agent=agent.name))
    execution = await world.executions.begin(run, bare=not supervised)
    pid = await agent.says("running")

    await world.client.set_flow_run_state(run.id, Cancelling(), force=True)
    if not supervised:  # otherwise the supervisor sends the signal
        await execution.sent(signal.SIGTERM)
    _, output = await execution.wait_for_exit()

    assert not alive(pid), output
    row = await world.runs.row()
    assert (row.status, row.reason) == ("cancelled", "cancelled"), output
    assert agent.effect_count == 1
    if supervised:
        assert (await world.prefect.state(run)).name == "Cancelled"


async def test_a_stopped_process_leaves_the_run_unknown_and_a_retry_is_a_new_run(
    world: PrefectWorld,
) -> None:
    agent = await world.agents.add(ACTS)
    run = await world.prefect.custom_run(await world.deploy(on_demand=True, agent=agent.name))
    execution = await world.executions.begin(run, bare=True)
    pid = await agent.says("running")

    await execution.sent(signal.SIGTERM)
    _, output = await execution.wait_for_exit()

    assert not alive(pid), output
    first = await world.runs.row()
    assert (first.status, first.reason) == (
        "unknown",
        "the process was stopped while the agent was running",
    ), output
    assert (await world.prefect.state(run)).is_crashed()

    # Retry in the UI.
    await world.client.set_flow_run_state(run.id, Scheduled(name="AwaitingRetry"))
    again = await world.executions.begin(run, bare=True)
    pid = await agent.says("running")
    os.kill(pid, signal.SIGKILL)
    await again.wait_for_exit()

    rows = await world.runs.rows()
    assert [row.status for row in rows] == ["unknown", "failed"]
    assert rows[1].occurrence == f"flow:{run.id}:1"
    assert (rows[1].retry_of, rows[1].trigger) == (first.id, "retry")
    assert (rows[0].flow_starts, rows[1].flow_starts) == (1, 2)
    assert agent.effect_count == 2


async def test_an_unknown_run_rescheduled_by_a_machine_is_not_repeated(world: PrefectWorld) -> None:
    agent = await world.agents.add(ACTS)
    run = await world.prefect.custom_run(await world.deploy(on_demand=True, agent=agent.name))
    reschedules = {"PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR": "reschedule"}
    execution = await world.executions.begin(run, variables=reschedules)
    pid = await agent.says("running")

    await execution.sent(signal.SIGTERM)
    _, output = await execution.wait_for_exit()
    assert not alive(pid), output
    assert (await world.runs.row()).status == "unknown", output
    assert (await world.prefect.state(run)).name == AwaitingRetry().name

    state = await world.executions.complete(run)

    assert (state.type.value, state.name) == ("CRASHED", "Unknown")
    assert agent.effect_count == 1
    assert (await world.runs.row()).status == "unknown"


async def test_after_a_killed_process_the_next_start_waits_for_the_lease(
    world: PrefectWorld,
) -> None:
    agent = await world.agents.add(ACTS)
    stored = await world.deploy(on_demand=True, agent=agent.name)
    run = await world.prefect.custom_run(stored)
    execution = await world.executions.begin(run, bare=True)
    pid = await agent.says("running")
    await execution.sent(signal.SIGKILL)
    await execution.wait_for_exit()
    os.kill(pid, signal.SIGKILL)
    row = await world.runs.row()
    assert row.status == "running"

    await world.client.set_flow_run_state(run.id, Scheduled(), force=True)
    state = await world.executions.complete(run)

    assert (state.type.value, state.name) == ("SCHEDULED", "AwaitingConcurrencySlot")
    assert state.message == f"{row.holder} may still be running"
    assert state.state_details.scheduled_time == row.lease_until
    assert agent.effect_count == 1
    assert (await world.runs.row()).status == "running"


async def test_a_requested_run_keeps_its_occurrence_and_its_parameters(world: PrefectWorld) -> None:
    agent = await world.agents.add("had(); print(sys.stdin.read())")
    stored = await world.deploy(prompt="Then", on_demand=True, agent=agent.name)
    row = await claims.request(world.ledger, stored, "1", "api")
    run = await world.prefect.keyed_run(stored, f"{world.ledger.id}:{row.occurrence}:1")

    state = await world.executions.complete(run)

    assert state.is_completed()
    found = await world.runs.row()
    assert (found.id, found.trigger, found.status) == (row.id, "api", "succeeded")
    assert (found.occurrence, found.due) == (row.occurrence, row.due)
    assert found.output == "Then"


async def test_a_run_of_a_removed_job_is_skipped(world: PrefectWorld) -> None:
    agent = await world.agents.add("had()")
    stored = await world.deploy(on_demand=True, agent=agent.name)
    run = await world.prefect.custom_run(stored)
    await world.jobs.archive(stored)

    state = await world.executions.complete(run)

    assert (state.name, state.message) == ("Skipped", "the job was removed")
    assert agent.effect_count == 0
    assert (await world.runs.row()).status == "skipped"


async def test_two_concurrent_starts_of_one_run_execute_it_once(world: PrefectWorld) -> None:
    agent = await world.agents.add(ACTS)
    run = await world.prefect.custom_run(await world.deploy(on_demand=True, agent=agent.name))
    first, second = await asyncio.gather(
        world.executions.begin(run, bare=True), world.executions.begin(run, bare=True)
    )
    pid = await agent.says("running")
    ended = [asyncio.create_task(each.wait_for_exit()) for each in (first, second)]
    (done,), _ = await asyncio.wait(ended, return_when=asyncio.FIRST_COMPLETED)
    assert (await world.runs.row()).status == "running"
    os.kill(pid, signal.SIGKILL)
    await asyncio.gather(*ended)

    assert agent.effect_count == 1
    (row,) = await world.runs.rows()
    assert row.status == "failed"
    assert done.result()[0] == 0
