"""Which ended runs Prefect has to be told of, and that it is told once (`docs/promise.md` 13)."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event

from daybook.ledger.states import TERMINAL, Status
from daybook.ledger.tables import RunRow
from daybook.prefect import links, unmirrored
from daybook.runs import audit, claim_requests, claims, leases
from daybook.runs.claim_requests import ClaimRequest, Finished, Granted
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.dialect]

MICROSECOND = timedelta(microseconds=1)


async def _marked(world: World, before: datetime | None = None, limit: int = 100) -> list[RunRow]:
    async with world.ledger.read() as session:
        return await unmirrored.unmirrored_rows(session, before or world.clock.now(), limit)


async def _ended(world: World, status: Status) -> RunRow:
    """A run with that outcome, by the way that really leads there."""
    stored = await world.add()
    offer = world.offer(stored)
    match status:
        case Status.SKIPPED:
            world.clock.set(offer.due + timedelta(seconds=1))
            await world.edit(stored.id, enabled=False)
            answer = await world.claim(offer)
        case Status.MISSED:
            world.clock.set(offer.due + timedelta(hours=3))
            answer = await world.claim(offer)
        case Status.UNKNOWN:
            answer = await world.begun(offer)
            await claims.holder_died(world.ledger, answer.run_id, answer.fence, "killed")
        case _:
            answer = await world.settled(offer, status)
    assert isinstance(answer, Granted | Finished)
    return await world.row(str(answer.run_id))


@pytest.mark.parametrize("status", sorted(TERMINAL))
async def test_every_outcome_of_a_carried_run_is_marked(world: World, status: Status) -> None:
    row = await _ended(world, status)

    assert row.status == status
    assert await _marked(world) == [row]


async def test_a_run_that_prefect_does_not_know_is_not_marked(world: World) -> None:
    offer = ClaimRequest(
        claim_requests.flow_key("f"),
        "agent-prompt",
        "direct",
        world.clock.now(),
        "here:1",
        {"prompt": "Hi"},
    )
    await world.settled(offer, Status.SUCCEEDED)
    row = await claims.request(world.ledger, await world.add(), "1", "manual")
    await claims.cancel(world.ledger, row.id)

    assert await _marked(world) == []


async def test_a_live_run_is_not_marked(world: World) -> None:
    offer = world.offer(await world.add())
    granted = await world.begun(offer)
    assert await _marked(world) == []

    await world.lose()
    await leases.expire_all(world.ledger)

    assert [each.id for each in await _marked(world)] == [granted.run_id]


async def test_those_that_ended_before_an_instant_the_oldest_first(world: World) -> None:
    jobs = [await world.add(f"job-{number}", every="1h") for number in range(3)]
    ended = []
    for job in jobs:
        ended.append((await world.settled(world.offer(job), Status.SUCCEEDED)).run_id)
        world.clock.move(timedelta(minutes=1))
    second = (await world.row(ended[1])).finished_at
    assert second is not None

    assert [each.id for each in await _marked(world)] == ended
    assert [each.id for each in await _marked(world, second)] == ended[:2]
    assert [each.id for each in await _marked(world, second - MICROSECOND)] == ended[:1]
    assert [each.id for each in await _marked(world, limit=2)] == ended[:2]


async def test_what_was_told_is_not_told_again(world: World) -> None:
    rows = [await _ended(world, Status.SUCCEEDED)]
    world.clock.move(timedelta(seconds=5))
    before = world.clock.now()

    await unmirrored.clear_marks(world.ledger, [rows[0].id, "nobody"], before)

    assert await _marked(world) == []
    assert (await world.row(rows[0].id)).unmirrored is False


async def test_an_outcome_that_came_meanwhile_is_still_to_be_told(world: World) -> None:
    # Prefect is told `unknown` while the late outcome is being written.
    offer = world.offer(await world.add())
    granted = await world.begun(offer)
    await claims.holder_died(world.ledger, granted.run_id, granted.fence, "killed")
    world.clock.move(timedelta(seconds=5))
    before = world.clock.now()
    assert [each.status for each in await _marked(world, before)] == ["unknown"]
    world.clock.move(MICROSECOND)
    await world.settle(granted, Status.SUCCEEDED)

    await unmirrored.clear_marks(world.ledger, [granted.run_id], before)

    assert [each.status for each in await _marked(world)] == ["succeeded"]
    await unmirrored.clear_marks(world.ledger, [granted.run_id])
    assert await _marked(world) == []


async def test_a_late_outcome_is_told_although_unknown_was(world: World) -> None:
    row = await _ended(world, Status.UNKNOWN)
    await unmirrored.clear_marks(world.ledger, [row.id])
    world.clock.move(timedelta(minutes=5))

    await world.settle(_as_granted(row), Status.FAILED)

    assert [each.status for each in await _marked(world)] == ["failed"]


async def test_a_run_that_was_started_again_is_the_retrys_to_tell(world: World) -> None:
    offer = world.offer(await world.add())
    first = await world.begun(offer)
    await claims.holder_died(world.ledger, first.run_id, first.fence, "killed")
    retried = await world.claim(replace(offer, flow_starts=2, retries=(1,)))
    assert isinstance(retried, Granted)
    # Else Prefect's run, which is going again, would be ended as the first one's outcome says.
    assert await _marked(world) == []

    await world.settle(first, Status.FAILED)

    assert (await world.row(first.run_id)).status == "failed"
    assert await _marked(world) == []
    await claims.begin(world.ledger, retried.run_id, retried.fence)
    await world.settle(retried, Status.SUCCEEDED)
    assert [each.id for each in await _marked(world)] == [retried.run_id]


async def test_where_the_deployment_was_deleted_the_mark_is_to_go(world: World) -> None:
    stored = await world.add(every="10m", catch_up="none")
    world.clock.move(timedelta(hours=1))
    await audit.advance(world.ledger, stored.id, world.clock.now())
    (missed,) = await world.rows()
    assert missed.unmirrored and missed.flow_run_id is None
    assert await _marked(world) == []  # it may get its deployment yet

    async with world.ledger.write() as session:
        await links.record_agreement(session, stored.id, "d", None, world.clock.now())
        await links.record_lost_deployment(
            session, stored.id, "d", world.clock.now(), "deleted in Prefect"
        )

    assert await _marked(world) == [missed]


async def test_a_look_at_what_is_marked_reads_no_history(world: World) -> None:
    # A partial index is taken only where the condition is written as the index has it.
    statements: list[tuple[str, Any]] = []
    engine = world.ledger._engine.sync_engine
    event.listen(
        engine,
        "before_cursor_execute",
        lambda _, __, statement, given, *___: statements.append((statement, given)),
    )
    now = world.ledger.now()
    async with world.ledger.write() as session:
        for number in range(300):
            ended = RunRow(
                occurrence=f"flow:{number}",
                kind="webhook",
                trigger="direct",
                status="succeeded",
                due=now,
                queued_at=now,
                finished_at=now - timedelta(minutes=number),
            )
            session.add(ended)
        await session.flush()
        if world.database.kind == "postgresql":  # which knows by then that few are marked
            await (await session.connection()).exec_driver_sql("ANALYZE runs")
    await _marked(world)
    (asked, given), *_ = [each for each in statements if "FROM runs" in each[0]]
    async with world.ledger.read() as session:
        connection = await session.connection()
        if world.database.kind == "sqlite":
            explain = "EXPLAIN QUERY PLAN"
        else:
            await connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # of a small table
            explain = "EXPLAIN"
        plan = (await connection.exec_driver_sql(f"{explain} {asked}", given)).all()

    assert "runs_unmirrored" in str(plan)


async def test_nothing_to_write_down_asks_for_no_lock(world: World) -> None:
    async with world.ledger.write():
        await unmirrored.clear_marks(world.ledger, [])


def _as_granted(row: RunRow) -> Granted:
    return Granted(
        row.id,
        row.fence,
        row.parameters,
        row.occurrence,
        row.due,
        row.trigger,
        None,
        queued_at=row.queued_at,
    )
