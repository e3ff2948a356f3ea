"""What is let go of tasks, and what stays."""

from __future__ import annotations

from datetime import timedelta

import pytest

from daybook.keeper import prune as keeper
from daybook.ledger.outbox import lane_of_task_session
from daybook.ledger.prune import Keep
from daybook.tasks import claims, prune, queue
from tests.unit.tasks.conftest import Board
from tests.unit.tasks.cycling import Hall

pytestmark = pytest.mark.anyio

DAYS_90 = Keep(timedelta(days=90), None)
TICK = timedelta(microseconds=1)


async def test_a_task_goes_with_all_its_runs_long_after_the_last_one(board: Board) -> None:
    first = await board.claimed()
    await claims.fail(board.ledger, first.run.id, first.token, "no")
    board.clock.move(timedelta(days=50))
    await queue.retry(board.ledger, first.task.id)
    await board.session("one")
    again = await board.claim("one")
    await claims.complete(board.ledger, again.run.id, again.token)

    board.clock.move(timedelta(days=90))
    assert await prune.ended(board.ledger, DAYS_90) == 0
    board.clock.move(TICK)
    assert await prune.ended(board.ledger, Keep(None, None)) == 0
    assert await prune.ended(board.ledger, DAYS_90) == 2
    left = board.everything()
    assert [left[name] for name in ("tasks", "task_runs", "task_events")] == [[], [], []]


async def test_a_task_with_a_live_run_stays_whole(board: Board) -> None:
    first = await board.claimed()
    await claims.fail(board.ledger, first.run.id, first.token, "no")
    await queue.retry(board.ledger, first.task.id)
    before = board.everything()
    board.clock.move(timedelta(days=1000))
    assert await prune.ended(board.ledger, DAYS_90) == 0
    assert board.everything() == before


async def test_wakes_go_after_a_week_and_what_else_happened_stays(board: Board) -> None:
    hall = Hall(board)
    run = await board.task()
    await hall.there()
    await hall.cycle()
    await hall.end()
    board.clock.move(prune.GONE - TICK)
    two = await hall.there("two")
    await hall.cycle()
    board.clock.move(2 * TICK)
    assert await prune.wakes(board.ledger) == 1
    assert [row.lane for row in await hall.wakes()] == [lane_of_task_session(two.id)]
    told = [(each.event, each.session) for each in await board.events(run.id)]
    assert sorted(told) == [("added", ""), ("woken", "two")]


async def test_a_wake_that_was_never_sent_goes_too(board: Board) -> None:
    hall = Hall(board)
    await board.task()
    await hall.there()
    await hall.cycle()
    board.clock.move(prune.GONE + TICK)
    assert await prune.wakes(board.ledger) == 1
    assert await hall.wakes() == []


async def test_sessions_that_are_gone_go_unless_they_hold_a_run(board: Board) -> None:
    await board.claimed("holder", "24h")
    await board.session("gone")
    board.clock.move(prune.GONE + timedelta(minutes=15))
    await board.session("new")
    assert await prune.sessions(board.ledger) == 0
    board.clock.move(TICK)
    done = await keeper.prune(board.ledger, DAYS_90)
    assert not done
    names = {row[1] for row in board.database.query("SELECT id, name FROM task_sessions")}
    assert names == {"holder", "new"}
