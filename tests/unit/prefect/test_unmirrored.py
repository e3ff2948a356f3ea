"""Marks of ended runs that Prefect does not show yet (promise 13: mirror each once)."""

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

pytestmark = pytest.mark.anyio

MICROSECOND = timedelta(microseconds=1)


async def _marked(world: World, before: datetime | None = None, limit: int = 100) -> list[RunRow]:
    async with world.ledger.read() as session:
        return await unmirrored.unmirrored_rows(session, before or world.clock.now(), limit)


async def _ended(world: World, status: Status) -> RunRow:
    """Return a run that reached this outcome by the real transitions."""
    stored = await world.jobs.add()
    claim_request = world.runs.claim_request(stored)
    match status:
        case Status.SKIPPED:
            world.clock.set(claim_request.due + timedelta(seconds=1))
            await world.jobs.edit(stored.id, enabled=False)
            answer = await world.runs.claim(claim_request)
        case Status.MISSED:
            world.clock.set(claim_request.due + timedelta(hours=3))
            answer = await world.runs.claim(claim_request)
        case Status.UNKNOWN:
            answer = await world.runs.running(claim_request)
            await claims.holder_died(world.ledger, answer.run_id, answer.fence, "killed")
        case _:
            answer = await world.runs.finished(claim_request, status)
    assert isinstance(answer, Granted | Finished)
    return await world.runs.row(str(answer.run_id))


@pytest.mark.parametrize("status", sorted(TERMINAL))
async def test_each_outcome_of_a_run_with_a_flow_run_is_marked_as_unmirrored(
    world: World, status: Status
) -> None:
    row = await _ended(world, status)

    assert row.status == status
    assert await _marked(world) == [row]


async def test_a_run_that_got_another_outcome_meanwhile_keeps_its_mark(world: World) -> None:
    granted = await world.runs.running(await world.jobs.add())
    await claims.holder_died(world.ledger, granted.run_id, granted.fence, "killed")
    await world.runs.finish(granted, Status.SUCCEEDED)  # while a worker sets the run to Crashed

    await unmirrored.clear_mark(world.ledger, granted.run_id, Status.UNKNOWN)
    assert [row.id for row in await _marked(world)] == [granted.run_id]
    await unmirrored.clear_mark(world.ledger, granted.run_id, Status.SUCCEEDED)
    assert await _marked(world) == []


async def test_a_direct_call_or_request_without_a_flow_run_is_not_marked(world: World) -> None:
    claim_request = ClaimRequest(
        claim_requests.flow_key("f"),
        "agent-prompt",
        "direct",
        world.clock.now(),
        "here:1",
        {"prompt": "Hi"},
    )
    await world.runs.finished(claim_request, Status.SUCCEEDED)
    row = await claims.request(world.ledger, await world.jobs.add(), "1", "manual")
    await claims.cancel(world.ledger, row.id)

    assert await _marked(world) == []


async def test_a_live_run_is_not_marked_as_unmirrored(world: World) -> None:
    claim_request = world.runs.claim_request(await world.jobs.add())
    granted = await world.runs.running(claim_request)
    assert await _marked(world) == []

    await world.runs.lose()
    await leases.expire_all(world.ledger)

    assert [each.id for each in await _marked(world)] == [granted.run_id]


@pytest.mark.dialect
async def test_unmirrored_rows_are_limited_by_end_time_and_sorted_oldest_first(
    world: World,
) -> None:
    jobs = [await world.jobs.add(f"job-{number}", every="1h") for number in range(3)]
    ended = []
    for job in jobs:
        ended.append((await world.runs.finished(job, Status.SUCCEEDED)).run_id)
        world.clock.move(timedelta(minutes=1))
    second = (await world.runs.row(ended[1])).finished_at
    assert second is not None

    assert [each.id for each in await _marked(world)] == ended
    assert [each.id for each in await _marked(world, second)] == ended[:2]
    assert [each.id for each in await _marked(world, second - MICROSECOND)] == ended[:1]
    assert [each.id for each in await _marked(world, limit=2)] == ended[:2]


@pytest.mark.dialect
async def test_a_cleared_mark_is_not_returned_again(world: World) -> None:
    rows = [await _ended(world, Status.SUCCEEDED)]
    world.clock.move(timedelta(seconds=5))
    before = world.clock.now()

    await unmirrored.clear_marks(world.ledger, [rows[0].id, "nobody"], before)

    assert await _marked(world) == []
    assert (await world.runs.row(rows[0].id)).unmirrored is False


async def test_a_late_outcome_recorded_meanwhile_keeps_its_mark(world: World) -> None:
    # The mirror writes `unknown` to Prefect while the late outcome is recorded.
    claim_request = world.runs.claim_request(await world.jobs.add())
    granted = await world.runs.running(claim_request)
    await claims.holder_died(world.ledger, granted.run_id, granted.fence, "killed")
    world.clock.move(timedelta(seconds=5))
    before = world.clock.now()
    assert [each.status for each in await _marked(world, before)] == ["unknown"]
    world.clock.move(MICROSECOND)
    await world.runs.finish(granted, Status.SUCCEEDED)

    await unmirrored.clear_marks(world.ledger, [granted.run_id], before)

    assert [each.status for each in await _marked(world)] == ["succeeded"]
    await unmirrored.clear_marks(world.ledger, [granted.run_id])
    assert await _marked(world) == []


async def test_a_late_outcome_is_marked_although_unknown_was_mirrored(world: World) -> None:
    row = await _ended(world, Status.UNKNOWN)
    await unmirrored.clear_marks(world.ledger, [row.id])
    world.clock.move(timedelta(minutes=5))

    await world.runs.finish(_as_granted(row), Status.FAILED)

    assert [each.status for each in await _marked(world)] == ["failed"]


async def test_a_retried_run_is_not_marked_and_only_its_retry_is_mirrored(world: World) -> None:
    claim_request = world.runs.claim_request(await world.jobs.add())
    first = await world.runs.running(claim_request)
    await claims.holder_died(world.ledger, first.run_id, first.fence, "killed")
    retried = await world.runs.claim(replace(claim_request, flow_starts=2, retries=(1,)))
    assert isinstance(retried, Granted)
    # Otherwise the mirror would end the running Prefect run with the first run's outcome.
    assert await _marked(world) == []

    await world.runs.finish(first, Status.FAILED)

    assert (await world.runs.row(first.run_id)).status == "failed"
    assert await _marked(world) == []
    await claims.begin(world.ledger, retried.run_id, retried.fence)
    await world.runs.finish(retried, Status.SUCCEEDED)
    assert [each.id for each in await _marked(world)] == [retried.run_id]


async def test_a_row_whose_deployment_was_deleted_is_returned_to_be_cleared(world: World) -> None:
    stored = await world.jobs.add(every="10m", catch_up="none")
    world.clock.move(timedelta(hours=1))
    await audit.advance(world.ledger, stored.id, world.clock.now())
    (missed,) = await world.runs.rows()
    assert missed.unmirrored and missed.flow_run_id is None
    assert await _marked(world) == []  # it may still get a deployment

    async with world.ledger.write() as session:
        await links.record_agreement(session, stored.id, "d", None, world.clock.now())
        await links.record_lost_deployment(
            session, stored.id, "d", world.clock.now(), "deleted in Prefect"
        )

    assert await _marked(world) == [missed]


@pytest.mark.dialect
async def test_the_query_for_unmirrored_rows_uses_its_index(world: World) -> None:
    # A partial index is used only if the query has exactly its condition.
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
        if world.database.kind == "postgresql":  # so the planner knows that few are marked
            await (await session.connection()).exec_driver_sql("ANALYZE runs")
    await _marked(world)
    (asked, given), *_ = [each for each in statements if "FROM runs" in each[0]]
    async with world.ledger.read() as session:
        connection = await session.connection()
        if world.database.kind == "sqlite":
            explain = "EXPLAIN QUERY PLAN"
        else:
            await connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # the table is small
            explain = "EXPLAIN"
        plan = (await connection.exec_driver_sql(f"{explain} {asked}", given)).all()

    assert "runs_unmirrored" in str(plan)


@pytest.mark.dialect
async def test_clearing_no_marks_takes_no_lock(world: World) -> None:
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
        kind=row.kind,
        queued_at=row.queued_at,
    )
