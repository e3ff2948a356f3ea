"""Messages and callbacks that a run's own process sends, and the delivery shown in Prefect's UI."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from uuid import UUID

import httpx
import pytest
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

from daybook.clock import SYSTEM_CLOCK
from daybook.delivery import history
from daybook.jobs.store import StoredJob
from daybook.keeper import deliveries as drain
from daybook.keeper.keeper import Keeper
from daybook.ledger.tables import OutboxRow, RunRow
from daybook.timing import TIMING
from tests.receiver import Receiver, answer, hang, serving
from tests.waiting import becomes_true
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.e2e,
    pytest.mark.slow,
    *PREFECT_LEAVES_A_SOCKET,
]


@pytest.fixture
async def server() -> AsyncIterator[Receiver]:
    async with serving() as server:
        yield server


async def _job(world: PrefectWorld, server: Receiver, **more: str) -> StoredJob:
    """Deploy a job whose runs succeed and whose callback goes to the server."""
    agent = await world.agents.add("print('Forty-two.')")
    given = {"on_complete": f"{server.address}/done?t=s3cr3t"} | more
    return await world.deploy(agent=agent.name, on_demand=True, **given)


async def _deliveries(world: PrefectWorld) -> list[OutboxRow]:
    async with world.ledger.read() as session:
        return await history.list_for_run(session, (await world.runs.row()).id)


@pytest.mark.floor("C", "A callback is a POST of the run as JSON")
async def test_the_process_of_a_run_sends_its_callback_and_the_artifact_shows_it(
    world: PrefectWorld, server: Receiver
) -> None:
    state = await world.executions.complete(
        await world.prefect.custom_run(await _job(world, server))
    )
    assert state.is_completed()
    row = await world.runs.row()
    assert (row.status, row.delivery) == ("succeeded", "delivered")
    [callback] = server.requests
    assert callback.path == "/done?t=s3cr3t"
    assert callback.headers["x-cronrun-id"] == row.id
    body = json.loads(callback.body)
    assert (body["version"], body["event"], body["id"]) == (1, "completed", row.id)
    page = await world.prefect.artifact(row.flow_run_id)
    assert f"- callback to {server.address}/done: **delivered**" in page
    assert "s3cr3t" not in page


async def test_a_run_without_recipients_sends_nothing_and_shows_no_delivery(
    world: PrefectWorld, server: Receiver
) -> None:
    await world.executions.complete(
        await world.prefect.custom_run(await _job(world, server, on_complete=""))
    )
    row = await world.runs.row()
    assert (row.status, row.delivery, len(server.requests)) == ("succeeded", "not_requested", 0)
    assert "Delivery" not in await world.prefect.artifact(row.flow_run_id)


async def test_the_keeper_retries_a_failed_callback_and_shows_the_new_delivery(
    world: PrefectWorld, server: Receiver
) -> None:
    server.steps = [answer(503), answer(200)]
    await world.executions.complete(await world.prefect.custom_run(await _job(world, server)))
    row = await world.runs.row()
    assert (row.status, row.delivery) == ("succeeded", "pending")
    page = await world.prefect.artifact(row.flow_run_id)
    assert "**pending**" in page and "answered 503" in page

    memory = drain.DeliveriesState()

    async def delivered() -> bool:
        await drain.send_due(world.ledger, world.client, "keeper", memory)
        return (await world.runs.row()).delivery == "delivered"

    assert await becomes_true(delivered, 20)
    assert len({request.headers["webhook-id"] for request in server.requests}) == 1
    first, later = await _artifacts(world, row)
    assert first == page
    assert "## Delivery: delivered" in later and "tried 2 times" in later
    assert "s3cr3t" not in later


async def _has_one_request(server: Receiver) -> bool:
    return len(server.requests) == 1


async def _artifacts(world: PrefectWorld, row: RunRow) -> list[str]:
    of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(str(row.flow_run_id))]))
    found = await world.client.read_artifacts(artifact_filter=of_run)
    return [str(each.data) for each in sorted(found, key=lambda each: str(each.created))]


async def test_a_hanging_receiver_delays_the_end_of_the_process_only_briefly(
    world: PrefectWorld, server: Receiver
) -> None:
    server.steps = [hang]
    execution = await world.executions.begin(
        await world.prefect.custom_run(await _job(world, server)), bare=True
    )
    await becomes_true(partial(_has_one_request, server), 60)
    began = SYSTEM_CLOCK.now()
    await execution.wait_for_exit()
    # Less than the receiver's timeout, with time to report to Prefect and exit on a busy machine.
    assert SYSTEM_CLOCK.now() - began < TIMING.own_state_limit + timedelta(seconds=10)
    assert (await world.runs.row()).status == "succeeded"
    # The process released the callback: no try is used up, and the next one has its full timeout.
    [delivery] = await _deliveries(world)
    assert (delivery.status, delivery.attempts, delivery.lease_until) == ("pending", 0, None)


async def test_the_flow_sets_its_own_end_state_despite_a_hanging_receiver(
    world: PrefectWorld, server: Receiver
) -> None:
    server.steps = [hang, answer(200)]
    run = await world.prefect.custom_run(await _job(world, server))
    keeping = asyncio.create_task(Keeper(world.ledger, "here:1:a").run())

    async def delivered() -> bool:
        return (await world.runs.row()).delivery == "delivered"

    async def mirrored() -> bool:
        return not (await world.runs.row()).unmirrored

    try:
        code, output = await (await world.executions.begin(run, bare=True)).wait_for_exit()
        assert code == 0, output
        assert await becomes_true(delivered, 30)
        assert await becomes_true(mirrored, 40)
    finally:
        keeping.cancel()
        await asyncio.wait({keeping})

    final_states = [
        each for each in await world.client.read_flow_run_states(run.id) if each.is_final()
    ]
    assert [each.name for each in final_states] == ["Completed"]  # set by the flow, with its result
    assert len({request.headers["webhook-id"] for request in server.requests}) == 1
    assert len(server.requests) == 2


async def test_a_process_terminated_while_it_sends_loses_no_callback(
    world: PrefectWorld, server: Receiver
) -> None:
    server.steps = [hang]
    execution = await world.executions.begin(
        await world.prefect.custom_run(await _job(world, server)), bare=True
    )

    async def sent() -> bool:
        return len(server.requests) == 1

    assert await becomes_true(sent, 60)
    await execution.sent(signal.SIGTERM)
    await execution.wait_for_exit()
    row = await world.runs.row()
    assert (row.status, row.delivery) == ("succeeded", "pending")
    server.steps = [answer(200)]
    memory = drain.DeliveriesState()

    async def delivered() -> bool:
        await drain.send_due(world.ledger, world.client, "keeper", memory)
        return (await world.runs.row()).delivery == "delivered"

    assert await becomes_true(delivered, 90)
    assert len({request.headers["webhook-id"] for request in server.requests}) == 1


async def test_a_failure_before_the_first_attempt_is_sent_at_once(
    world: PrefectWorld, server: Receiver
) -> None:
    more = {"on_complete": "", "on_fail": f"{server.address}/failed"}
    stored = await world.deploy(agent="nobody", on_demand=True, **more)
    await world.executions.complete(await world.prefect.custom_run(stored))
    assert (await world.runs.row()).delivery == "delivered"
    [callback] = server.requests
    assert json.loads(callback.body)["status"] == "failed"


async def test_a_delivery_result_is_kept_until_prefect_has_it(
    world: PrefectWorld, server: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = await world.deploy(
        agent="nobody", on_demand=True, on_complete="", on_fail=f"{server.address}/failed"
    )
    await world.executions.complete(await world.prefect.custom_run(stored))
    run_id = (await world.runs.row()).id
    memory = drain.DeliveriesState()
    memory.note([run_id])

    async def unreachable(artifact: object) -> None:
        raise httpx.ConnectError("no Prefect")

    with monkeypatch.context() as patch:
        patch.setattr(world.client, "create_artifact", unreachable)
        with pytest.raises(httpx.ConnectError):
            await drain.send_due(world.ledger, world.client, "keeper", memory)
    assert list(memory.ended) == [run_id]
    await drain.send_due(world.ledger, world.client, "keeper", memory)
    assert memory.ended == {}


async def test_the_dispatcher_does_not_ask_prefect_while_nothing_is_due(
    world: PrefectWorld,
) -> None:
    asked = list[str]()

    async def hears(request: httpx.Request) -> None:
        asked.append(request.url.path)

    world.client._client.event_hooks = {"request": [hears], "response": []}
    memory = drain.DeliveriesState()
    assert await drain.send_due(world.ledger, world.client, "keeper", memory) is None
    assert asked == []
