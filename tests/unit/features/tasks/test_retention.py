"""Retention of tasks, wakes and task sessions."""

from __future__ import annotations

from datetime import timedelta

import pytest

from daybook.delivery.outbox import queue_of_client
from daybook.features.tasks import claims, queue, retention
from daybook.keeper import retention as keeper
from daybook.runs.retention import RetentionLimits
from tests.unit.features.tasks.cycling import Cycling
from tests.world import World

pytestmark = pytest.mark.anyio

DAYS_90 = RetentionLimits(timedelta(days=90), None)
TICK = timedelta(microseconds=1)


async def test_a_task_is_deleted_with_all_its_runs_90_days_after_its_last_end(world: World) -> None:
    first = await world.tasks.claimed()
    await claims.fail(world.ledger, first.run.id, first.token, "no")
    world.clock.move(timedelta(days=50))
    await queue.retry(world.ledger, first.task.id)
    await world.tasks.register("one")
    again = await world.tasks.claim("one")
    await claims.complete(world.ledger, again.run.id, again.token)

    world.clock.move(timedelta(days=90))
    assert await retention.delete_ended_tasks(world.ledger, DAYS_90) == 0
    world.clock.move(TICK)
    assert await retention.delete_ended_tasks(world.ledger, RetentionLimits(None, None)) == 0
    assert await retention.delete_ended_tasks(world.ledger, DAYS_90) == 2
    left = world.tasks.everything()
    assert [left[name] for name in ("tasks", "task_runs", "task_events")] == [[], [], []]


async def test_a_task_with_a_live_run_is_not_deleted(world: World) -> None:
    first = await world.tasks.claimed()
    await claims.fail(world.ledger, first.run.id, first.token, "no")
    await queue.retry(world.ledger, first.task.id)
    before = world.tasks.everything()
    world.clock.move(timedelta(days=1000))
    assert await retention.delete_ended_tasks(world.ledger, DAYS_90) == 0
    assert world.tasks.everything() == before


async def test_wakes_are_deleted_after_a_week_but_other_events_stay(world: World) -> None:
    cycling = Cycling(world)
    run = await world.tasks.add()
    await cycling.there()
    await cycling.cycle()
    await cycling.end()
    world.clock.move(retention.MAX_RETENTION_AGE - TICK)
    two = await cycling.there("two")
    await cycling.cycle()
    world.clock.move(2 * TICK)
    assert await retention.delete_old_wakes(world.ledger) == 1
    assert [row.queue for row in await cycling.wakes()] == [queue_of_client(two.id)]
    events = [(each.event, each.session) for each in await world.tasks.events(run.id)]
    assert sorted(events) == [("added", ""), ("woken", "two")]


async def test_a_wake_that_was_never_sent_is_deleted_too(world: World) -> None:
    cycling = Cycling(world)
    await world.tasks.add()
    await cycling.there()
    await cycling.cycle()
    world.clock.move(retention.MAX_RETENTION_AGE + TICK)
    assert await retention.delete_old_wakes(world.ledger) == 1
    assert await cycling.wakes() == []


async def test_expired_sessions_are_deleted_unless_they_hold_a_run(world: World) -> None:
    await world.tasks.claimed("holder", "24h")
    await world.tasks.register("gone")
    world.clock.move(retention.MAX_RETENTION_AGE + timedelta(minutes=15))
    await world.tasks.register("new")
    assert await retention.delete_expired_sessions(world.ledger) == 0
    world.clock.move(TICK)
    done = await keeper.prune(world.ledger, DAYS_90)
    assert not done
    names = {row[1] for row in world.database.query("SELECT id, name FROM task_sessions")}
    assert names == {"holder", "new"}


async def test_the_limit_of_time_ends_the_deletion_of_wakes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    cycling = Cycling(world)
    await world.tasks.add()
    await cycling.there()
    await cycling.cycle()
    await cycling.end()
    await cycling.there("two")
    await cycling.cycle()
    world.clock.move(retention.MAX_RETENTION_AGE + TICK)
    monkeypatch.setattr(retention, "BATCH_SIZE", 1)
    wakes = "SELECT count(*) FROM outbox WHERE purpose = 'wake'"
    assert world.database.query(wakes) == [(2,)]

    done = await keeper.prune(world.ledger, DAYS_90, most_seconds=0)

    assert (done.left, done.features["tasks"]) == (True, 0)
    assert world.database.query(wakes) == [(1,)]
