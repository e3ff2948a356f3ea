"""A run's own process sends what is to be told of it, and Prefect's UI says what became of it."""

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

from daybook.clock import SYSTEM
from daybook.keeper import drain, loops
from daybook.ledger import deliveries
from daybook.ledger.jobs import StoredJob
from daybook.ledger.tables import OutboxRow, RunRow
from daybook.timing import TIMING
from tests.crew import so
from tests.floor import PREFECT_LEAVES_A_SOCKET, Floor
from tests.unit.outgoing.wires import Server, answer, hang, serving

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.e2e,
    pytest.mark.slow,
    *PREFECT_LEAVES_A_SOCKET,
]


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as here:
        yield here


async def _job(floor: Floor, server: Server, **more: str) -> StoredJob:
    """A job whose runs succeed, and whose callback goes to the server."""
    agent = await floor.agent("print('Forty-two.')")
    given = {"on_complete": f"{server.address}/done?t=s3cr3t"} | more
    return await floor.job(agent=agent.name, on_demand=True, **given)


async def _told(floor: Floor) -> list[OutboxRow]:
    async with floor.ledger.read() as session:
        return await deliveries.of_run(session, (await floor.row()).id)


async def test_the_process_that_settles_sends_and_the_artifact_says_so(
    floor: Floor, server: Server
) -> None:
    state = await floor.executed(await floor.asked(await _job(floor, server)))
    assert state.is_completed()
    row = await floor.row()
    assert (row.status, row.delivery) == ("succeeded", "delivered")
    [callback] = server.requests
    assert callback.path == "/done?t=s3cr3t"
    assert callback.headers["x-cronrun-id"] == row.id
    body = json.loads(callback.body)
    assert (body["version"], body["event"], body["id"]) == (1, "completed", row.id)
    page = await floor.artifact(row.flow_run_id)
    assert f"- callback to {server.address}/done: **delivered**" in page
    assert "s3cr3t" not in page


async def test_a_run_that_tells_nobody_asks_and_shows_nothing(floor: Floor, server: Server) -> None:
    await floor.executed(await floor.asked(await _job(floor, server, on_complete="")))
    row = await floor.row()
    assert (row.status, row.delivery, len(server.requests)) == ("succeeded", "not_requested", 0)
    assert "Delivery" not in await floor.artifact(row.flow_run_id)


async def test_what_failed_at_once_is_sent_by_the_keeper_and_shown_again(
    floor: Floor, server: Server
) -> None:
    server.steps = [answer(503), answer(200)]
    await floor.executed(await floor.asked(await _job(floor, server)))
    row = await floor.row()
    assert (row.status, row.delivery) == ("succeeded", "pending")
    page = await floor.artifact(row.flow_run_id)
    assert "**pending**" in page and "answered 503" in page

    memory = drain.Memory()

    async def delivered() -> bool:
        await drain.drain(floor.ledger, floor.client, "keeper", memory)
        return (await floor.row()).delivery == "delivered"

    assert await so(delivered, 20)
    assert len({seen.headers["webhook-id"] for seen in server.requests}) == 1
    first, later = await _artifacts(floor, row)
    assert first == page
    assert "## Delivery: delivered" in later and "tried 2 times" in later
    assert "s3cr3t" not in later


async def _asked(server: Server) -> bool:
    return len(server.requests) == 1


async def _artifacts(floor: Floor, row: RunRow) -> list[str]:
    of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[UUID(str(row.flow_run_id))]))
    found = await floor.client.read_artifacts(artifact_filter=of_run)
    return [str(each.data) for each in sorted(found, key=lambda each: str(each.created))]


async def test_a_receiver_that_hangs_holds_the_process_for_a_while_only(
    floor: Floor, server: Server
) -> None:
    server.steps = [hang]
    execution = await floor.execute(await floor.asked(await _job(floor, server)), bare=True)
    await so(partial(_asked, server), 60)
    began = SYSTEM.now()
    await execution.ends()
    # Not the receiver's time; and Prefect is told, and the process ends, on a busy machine.
    assert SYSTEM.now() - began < TIMING.own_state_limit + timedelta(seconds=10)
    assert (await floor.row()).status == "succeeded"
    # Given back: no try is used up, and the next one has its whole time.
    [told] = await _told(floor)
    assert (told.status, told.attempts, told.lease_until) == ("pending", 0, None)


async def test_a_receiver_that_hangs_leaves_the_end_to_the_flow_beside_a_keeper(
    floor: Floor, server: Server
) -> None:
    server.steps = [hang, answer(200)]
    run = await floor.asked(await _job(floor, server))
    keeping = asyncio.create_task(loops.Keeper(floor.ledger, "here:1:a").go_on())

    async def delivered() -> bool:
        return (await floor.row()).delivery == "delivered"

    async def mirrored() -> bool:
        return not (await floor.row()).unmirrored

    try:
        code, said = await (await floor.execute(run, bare=True)).ends()
        assert code == 0, said
        assert await so(delivered, 30)
        assert await so(mirrored, 40)
    finally:
        keeping.cancel()
        await asyncio.wait({keeping})

    ends = [each for each in await floor.client.read_flow_run_states(run.id) if each.is_final()]
    assert [each.name for each in ends] == ["Completed"]  # the flow's own, with its result
    assert len({seen.headers["webhook-id"] for seen in server.requests}) == 1
    assert len(server.requests) == 2


async def test_a_process_that_is_told_to_end_meanwhile_loses_nothing(
    floor: Floor, server: Server
) -> None:
    server.steps = [hang]
    execution = await floor.execute(await floor.asked(await _job(floor, server)), bare=True)

    async def sent() -> bool:
        return len(server.requests) == 1

    assert await so(sent, 60)
    await execution.sent(signal.SIGTERM)
    await execution.ends()
    row = await floor.row()
    assert (row.status, row.delivery) == ("succeeded", "pending")
    server.steps = [answer(200)]
    memory = drain.Memory()

    async def delivered() -> bool:
        await drain.drain(floor.ledger, floor.client, "keeper", memory)
        return (await floor.row()).delivery == "delivered"

    assert await so(delivered, 90)
    assert len({seen.headers["webhook-id"] for seen in server.requests}) == 1


async def test_what_could_not_begin_is_told_at_once_too(floor: Floor, server: Server) -> None:
    more = {"on_complete": "", "on_fail": f"{server.address}/failed"}
    stored = await floor.job(agent="nobody", on_demand=True, **more)
    await floor.executed(await floor.asked(stored))
    assert (await floor.row()).delivery == "delivered"
    [callback] = server.requests
    assert json.loads(callback.body)["status"] == "failed"


async def test_looking_costs_prefect_nothing_while_nothing_is_due(floor: Floor) -> None:
    asked = list[str]()

    async def hears(request: httpx.Request) -> None:
        asked.append(request.url.path)

    floor.client._client.event_hooks = {"request": [hears], "response": []}
    memory = drain.Memory()
    assert await drain.drain(floor.ledger, floor.client, "keeper", memory) == drain.IDLE
    assert asked == []
