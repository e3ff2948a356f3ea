"""Waiting runs that need a Prefect run (`docs/promise.md` 11), and live runs in Prefect."""

from __future__ import annotations

from datetime import timedelta

import pytest

from daybook.ledger.states import Status
from daybook.ledger.tables import RunRow
from daybook.runs import claim_requests, claims, waiting_runs
from daybook.runs.claim_requests import ClaimRequest, Waiting
from tests.world import World

pytestmark = pytest.mark.anyio


async def _to_ensure(world: World, **given: int) -> list[RunRow]:
    async with world.ledger.read() as session:
        return await waiting_runs.needing_prefect_run(session, **given)


async def test_the_next_ten_waiting_runs_of_each_job_need_a_prefect_run(world: World) -> None:
    busy, other = await world.jobs.add("busy"), await world.jobs.add("other")
    asked = []
    for number in range(12):
        asked.append(await claims.request(world.ledger, busy, str(number), "api"))
        world.clock.move(timedelta(seconds=1))
    last = await claims.request(world.ledger, other, "1", "api")

    assert [row.id for row in await _to_ensure(world)] == [*(row.id for row in asked[:10]), last.id]
    first = [row.id for row in await _to_ensure(world, per_job=1)]
    assert first == [asked[0].id, last.id]

    await claims.cancel(world.ledger, asked[0].id)
    assert [row.id for row in await _to_ensure(world, per_job=1)] == [asked[1].id, last.id]


async def test_only_waiting_runs_need_a_prefect_run(world: World) -> None:
    one, two = await world.jobs.add("one", every="1h"), await world.jobs.add("two", every="1h")
    await world.runs.claimed(one)
    await world.runs.finished(two, Status.SUCCEEDED)
    granted = await world.runs.claimed(two)
    assert await _to_ensure(world) == []

    await claims.holder_died(world.ledger, granted.run_id, granted.fence, "killed")

    assert [row.id for row in await _to_ensure(world)] == [granted.run_id]


async def test_all_waiting_runs_without_a_job_need_a_prefect_run(world: World) -> None:
    def direct(number: int) -> ClaimRequest:
        given = {"prompt": "Hi", "session_key": "ops"}
        key = claim_requests.flow_key(f"d{number}")
        now = world.clock.now()
        return ClaimRequest(
            key, "agent-prompt", "direct", now, "w", given, flow_run_id=f"d{number}"
        )

    held = await world.runs.running(direct(0))
    for number in range(1, 13):
        assert isinstance(await world.runs.claim(direct(number)), Waiting)

    assert len(await _to_ensure(world)) == 12

    async with world.ledger.read() as session:
        live = await waiting_runs.live_in_prefect(session)
    assert {row.flow_run_id for row in live} == {f"d{number}" for number in range(13)}
    await world.runs.finish(held, Status.SUCCEEDED)
    async with world.ledger.read() as session:
        live = await waiting_runs.live_in_prefect(session)
    assert "d0" not in {row.flow_run_id for row in live}


async def test_a_live_run_without_a_prefect_run_is_not_live_in_prefect(world: World) -> None:
    stored = await world.jobs.add("one", every="1h")
    row = await claims.request(world.ledger, stored, "1", "api")
    async with world.ledger.read() as session:
        assert await waiting_runs.live_in_prefect(session) == []

    await claims.link_prefect_run(world.ledger, row, "f1")

    async with world.ledger.read() as session:
        assert [each.id for each in await waiting_runs.live_in_prefect(session)] == [row.id]
