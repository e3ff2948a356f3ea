"""The scheduler's pause, and its end."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from daybook.errors import NothingClaimable, Refused, SchedulerStopped
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import Fact
from daybook.spec import owners
from daybook.tasks import claims, switch
from daybook.tasks.switch import FACT, Switch
from tests.unit.tasks.conftest import AGENT, Board
from tests.unit.tasks.cycling import CYCLE, STARVED, Hall

pytestmark = pytest.mark.anyio


async def read(ledger: Ledger) -> Switch:
    async with ledger.read() as session:
        return await switch.read(session)


async def test_it_is_on_until_somebody_pauses_it(board: Board) -> None:
    assert await read(board.ledger) == Switch()


async def test_a_pause_outlives_the_process_with_its_reason_and_who_did_it(board: Board) -> None:
    with owners.acting_as(AGENT):
        await switch.pause(board.ledger, "moving house")
    async with Ledger(board.ledger.address, board.clock) as ledger:
        assert await read(ledger) == Switch(True, "moving house", board.now(), "agent:maria")


async def test_pausing_again_keeps_since_when(board: Board) -> None:
    since = (await switch.pause(board.ledger, "one")).at
    board.clock.move(timedelta(hours=1))
    assert await switch.pause(board.ledger, "two") == Switch(True, "two", since, "user")
    board.clock.move(timedelta(hours=1))
    resumed = await switch.resume(board.ledger)
    assert (resumed.paused, resumed.at) == (False, board.now())
    board.clock.move(timedelta(hours=1))
    assert await switch.resume(board.ledger) == resumed
    assert await read(board.ledger) == resumed


async def test_a_reason_of_two_lines_is_refused_and_nothing_is_paused(board: Board) -> None:
    with pytest.raises(Refused) as caught:
        await switch.pause(board.ledger, "one\ntwo")
    assert caught.value.field == "reason"
    assert not (await read(board.ledger)).paused


UNREADABLE = [
    "",
    "no",
    "false",
    "{}",
    '{"paused": false}',
    '{"paused": "false", "reason": "", "at": "2026-01-15T12:00:00+00:00", "actor": "user"}',
    '{"paused": false, "reason": "", "at": "2026-01-15T12:00:00", "actor": "user"}',
    '{"paused": false, "reason": "", "at": "2026-01-15T12:00:00+00:00", "actor": "user", "x": 1}',
]


@pytest.mark.parametrize("kept", UNREADABLE)
async def test_one_that_cannot_be_read_counts_as_paused(board: Board, kept: str) -> None:
    hall = Hall(board)
    run = await board.task()
    await hall.there()
    async with board.ledger.write() as session:
        session.add(Fact(key=FACT, value=kept))
    found = await read(board.ledger)
    assert (found.paused, found.at) == (True, None)
    assert "cannot be read" in found.reason
    report = await hall.cycle()
    assert (report.runs["paused"], report.wakes_tried) == ([run.id], 0)
    with pytest.raises(NothingClaimable, match="paused"):
        await board.claim()

    await switch.resume(board.ledger)
    assert (await hall.cycle()).runs["woken"] == [run.id]


async def test_while_it_is_paused_leases_end_and_nobody_is_woken_or_claims(board: Board) -> None:
    hall = Hall(board)
    held = await board.claimed("one")
    waiting = await board.task("waiting")
    await hall.there("two")
    await switch.pause(board.ledger, "stop")

    assert held.run.lease_until is not None
    board.clock.set(held.run.lease_until - timedelta(seconds=1))
    extended = await claims.heartbeat(board.ledger, held.run.id, held.token)
    assert extended.lease_until == board.now() + timedelta(minutes=5)
    board.clock.move(timedelta(minutes=5))
    report = await hall.cycle()
    assert report.runs["recovered"] == [held.run.id]
    assert sorted(report.runs["paused"]) == sorted([held.run.id, waiting.id])
    assert await hall.wakes() == []
    with pytest.raises(NothingClaimable, match="paused"):
        await board.claim("two")


async def test_while_it_is_paused_no_run_starves(board: Board) -> None:
    hall = Hall(board, capable={"default": frozenset()})
    await hall.worker()
    run = await board.task()
    await switch.pause(board.ledger)
    board.clock.move(STARVED)
    for _ in range(12):
        await hall.cycle(CYCLE)
    row = await board.run(run.id)
    assert (row.starved_cycles, row.tiers, hall.told, hall.asked) == (0, [], [], 0)
    assert await hall.requests() == []


async def test_it_is_drained_when_nobody_is_at_work(board: Board) -> None:
    async def drained() -> bool:
        async with board.ledger.read() as session:
            return await switch.drained(session, board.now())

    await switch.pause(board.ledger)
    assert await drained()
    await switch.resume(board.ledger)
    one = await board.claimed("one")
    await switch.pause(board.ledger)
    assert not await drained()
    async with board.ledger.read() as session:
        assert await switch.holding(session, board.now()) == [one.run.id]
    await claims.complete(board.ledger, one.run.id, one.token)
    assert await drained()


async def test_a_lease_that_is_over_holds_up_no_drain(board: Board) -> None:
    held = await board.claimed("one", "30s")
    async with board.ledger.read() as session:
        at = board.now() + timedelta(seconds=30)
        assert not await switch.drained(session, at - timedelta(microseconds=1))
        assert await switch.drained(session, at)
    assert (await board.run(held.run.id)).session_id


async def test_a_stopped_scheduler_is_not_started_again(board: Board) -> None:
    scheduler = Hall(board).scheduler()
    turns: list[int] = []

    async def turn(cycle: object) -> None:
        turns.append(len(turns))
        scheduler.stop()

    async with asyncio.timeout(60):
        await scheduler.go_on(turn)
    assert turns == [0]
    for again in (scheduler.go_on(turn), scheduler.cycle()):
        with pytest.raises(SchedulerStopped, match="cannot be started again"):
            await again
    assert turns == [0]
