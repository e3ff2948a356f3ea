"""Which sessions a cycle wakes, by which way, and when it sends no wake."""

from __future__ import annotations

import asyncio
import json
from datetime import timedelta

import pytest

from daybook.delivery import history, outbox, sending
from daybook.delivery.outbox import is_outgoing
from daybook.features.tasks import scheduler, statistics
from daybook.features.tasks.policy import DEFAULTS, SchedulerPolicy
from daybook.features.tasks.wakes import WAKE_TIMEOUT
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Delivery
from daybook.ledger.tables import OutboxRow
from tests.unit.features.tasks.cycling import CYCLE, Cycling, of_task_sessions
from tests.world import World

WAKE_COOLDOWN = DEFAULTS.wake_cooldown
pytestmark = pytest.mark.anyio

TICK = timedelta(microseconds=1)
URL = "https://hooks.example.org/wake?key=private"


def target_sessions(wake: OutboxRow) -> list[str]:
    """Return the names of the sessions that the wake targets."""
    return [each["session"] for each in json.loads(wake.body)["targets"]]


async def test_a_wake_for_a_session_named_inbox_does_not_reach_the_inbox(
    world: World,
) -> None:
    cycling = Cycling(world)
    await cycling.there("inbox")
    await world.tasks.add("one")
    await cycling.cycle()
    assert [row.status for row in await cycling.wakes()] == [Delivery.PENDING]
    assert await cycling.end() == 1
    async with world.ledger.read() as session:
        assert await history.inbox(session, unread_only=False, job_id=None, limit=10) == []


@pytest.mark.floor("D", "WakeTarget: run, session and reason")
async def test_a_connected_session_is_woken_through_its_own_queue(world: World) -> None:
    cycling = Cycling(world)
    run = await world.tasks.add("tidy up", priority="high")
    row = await cycling.there("one")
    report = await cycling.cycle()

    (wake,) = await cycling.wakes()
    assert wake.queue == wake.address == outbox.queue_of_client(row.id)
    assert target_sessions(wake) == ["one"]
    (target,) = json.loads(wake.body)["targets"]
    assert (target["session"], target["run_id"], target["priority"]) == ("one", run.id, "high")
    assert not is_outgoing(wake.queue)
    assert report.runs["woken"] == [run.id]
    (event,) = [each for each in await world.tasks.events(run.id) if each.event == "woken"]
    assert (event.actor, event.session, event.outbox_id) == ("scheduler", "one", wake.id)
    assert event.reason.startswith("queued for ")
    assert target["reason"] == event.reason


@pytest.mark.floor("D", "WithWakeCooldown: 60 s by default, per run and session")
@pytest.mark.floor("D", "The wake cooldown ends exactly at its end")
async def test_a_woken_session_gets_no_wake_for_the_same_run_for_a_minute(world: World) -> None:
    cycling = Cycling(world)
    run = await world.tasks.add()
    await cycling.there()
    await cycling.cycle()
    assert await cycling.end() == 1
    report = await cycling.cycle(WAKE_COOLDOWN - TICK)
    assert report.runs["recently_notified"] == [run.id]
    assert report.wakes_succeeded == 1
    report = await cycling.cycle(TICK)
    assert report.runs["woken"] == [run.id]
    assert len(await cycling.wakes()) == 2


async def test_the_wake_cooldown_starts_when_the_wake_is_delivered(world: World) -> None:
    cycling = Cycling(world)
    await world.tasks.add()
    await cycling.there()
    await cycling.cycle()
    world.clock.move(timedelta(seconds=40))
    await cycling.end()
    assert (await cycling.cycle(WAKE_COOLDOWN - TICK)).count("recently_notified") == 1
    assert (await cycling.cycle(TICK)).count("woken") == 1


@pytest.mark.floor("D", "A wake cooldown of 0 switches it off")
async def test_a_cooldown_of_zero_wakes_again_at_once_but_not_while_a_wake_is_under_way(
    world: World,
) -> None:
    cycling = Cycling(world, SchedulerPolicy(wake_cooldown=timedelta(0)))
    await world.tasks.add()
    await cycling.there()
    assert (await cycling.cycle()).count("woken") == 1
    assert (await cycling.cycle(TICK)).count("recently_notified") == 1
    assert await cycling.end() == 1
    assert (await cycling.cycle(TICK)).count("woken") == 1


@pytest.mark.floor("D", "WithWakeCooldown sets the cooldown")
async def test_a_longer_cooldown_counts_from_the_wake_however_old_it_is(world: World) -> None:
    cycling = Cycling(world, SchedulerPolicy(wake_cooldown=timedelta(minutes=14)))
    await world.tasks.add()
    await cycling.there()
    await cycling.cycle()
    await cycling.end()
    report = await cycling.cycle(timedelta(minutes=14) - TICK)
    assert report.count("recently_notified") == 1
    assert (await cycling.cycle(TICK)).count("woken") == 1


@pytest.mark.floor("D", "WithSweepReason, WithWakeReason and WithActor are recorded")
async def test_the_operators_actor_and_reasons_are_recorded(world: World) -> None:
    policy = SchedulerPolicy(actor="ops", wake_reason="team blue", sweep_reason="sweep", fan_out=1)
    cycling = Cycling(world, policy)
    held = await world.tasks.claimed("gone", "60s")
    world.clock.move(timedelta(minutes=3))
    await cycling.there()
    await cycling.cycle()
    world.clock.move(timedelta(minutes=3))
    await cycling.cycle()
    events = {each.event: each for each in await world.tasks.events(held.run.id)}
    assert {events[name].actor for name in ("expired", "woken", "fan_out")} == {"ops"}
    assert events["expired"].reason.startswith("sweep: its lease expired ")
    assert events["woken"].reason.startswith("team blue: queued for ")
    (target,) = json.loads(str((await cycling.wakes())[0].body))["targets"]
    assert target["reason"].startswith("team blue: queued for ")


@pytest.mark.floor("D", "A wake that fails does not fail the cycle")
@pytest.mark.floor("D", "Only successful wakes start the cooldown")
@pytest.mark.floor("D", "CycleResult.WakeFailed")
async def test_a_failed_wake_does_not_fail_the_cycle_or_start_a_cooldown(world: World) -> None:
    cycling = Cycling(world)
    run = await world.tasks.add()
    await cycling.there()
    await cycling.cycle()
    assert await cycling.end(Delivery.FAILED) == 1
    report = await cycling.cycle(CYCLE)
    assert (report.wakes_failed, report.wakes_succeeded) == (1, 0)
    assert report.runs["woken"] == [run.id]
    assert "the connection is gone" in report.errors[0]
    # It causes no alert and cannot be sent again: the next cycle sends a new wake.
    assert await cycling.alerts() == []
    assert await sending.retry(world.ledger) == 0
    async with world.ledger.read() as session:
        assert (await history.health(session, world.ledger.now())).failed == 0
        assert await history.recent(session) == []


async def test_a_pending_wake_is_not_repeated_until_it_times_out(world: World) -> None:
    cycling = Cycling(world)
    run = await world.tasks.add()
    await cycling.there()
    await cycling.cycle()
    report = await cycling.cycle(WAKE_TIMEOUT - TICK)
    assert report.runs["recently_notified"] == [run.id]
    report = await cycling.cycle(TICK)
    assert report.runs["woken"] == [run.id]
    assert (report.wakes_failed, report.wakes_tried) == (1, 1)
    first, second = await cycling.wakes()
    assert (first.status, second.status) == (Delivery.SUPPRESSED, Delivery.PENDING)
    assert "60 s" in str(first.error)


async def test_a_wake_missing_from_the_statistics_is_suppressed_too(world: World) -> None:
    cycling = Cycling(world)
    await world.tasks.add()
    await cycling.there()
    await cycling.cycle()
    world.database.query(f"DELETE FROM facts WHERE key = '{statistics.FACT_KEY}' RETURNING key")
    await cycling.cycle(WAKE_TIMEOUT)
    first, second = await cycling.wakes()
    assert (first.status, second.status) == (Delivery.SUPPRESSED, Delivery.PENDING)


async def test_a_pending_wake_does_not_count_as_outbox_backlog(world: World) -> None:
    cycling = Cycling(world)
    await world.tasks.add()
    await cycling.there()
    await cycling.cycle()
    async with world.ledger.read() as session:
        found = await history.health(session, world.ledger.now())
    assert (found.pending, found.oldest_pending_at) == (0, None)


async def test_a_wake_that_is_being_sent_is_not_suppressed(world: World) -> None:
    cycling = Cycling(world)
    await world.tasks.add()
    await cycling.there()
    await cycling.cycle()
    world.clock.move(timedelta(seconds=50))
    queues = of_task_sessions
    assert len(await sending.claim(world.ledger, "server", most=9, wanted=queues)) == 1
    report = await cycling.cycle(timedelta(seconds=30))
    assert report.count("recently_notified") == 1
    assert [row.status for row in await cycling.wakes()] == [Delivery.PENDING]


@pytest.mark.floor("D", "At most one wake per session and cycle")
async def test_a_session_is_woken_once_per_cycle_for_the_first_fitting_run(world: World) -> None:
    cycling = Cycling(world)
    low = await world.tasks.add("low", priority="low")
    urgent = await world.tasks.add("urgent", priority="urgent")
    await cycling.there()
    report = await cycling.cycle()
    assert report.runs["woken"] == [urgent.id]
    assert report.runs["no_match"] == [low.id]
    # The cooldown applies to a session and a run: the next cycle may wake it for another run.
    report = await cycling.cycle(CYCLE)
    assert report.runs["woken"] == [low.id]
    assert report.runs["recently_notified"] == [urgent.id]


async def test_the_session_with_the_preferred_capability_is_woken(world: World) -> None:
    cycling = Cycling(world)
    await cycling.there("idle longest", capabilities=["python"])
    world.clock.move(timedelta(seconds=1))
    await cycling.there("knows more", capabilities=["python", "sql"])
    await world.tasks.add(capabilities=["python"], preferred=["sql"])
    await cycling.cycle()
    assert [target_sessions(row) for row in await cycling.wakes()] == [["knows more"]]


@pytest.mark.floor("D", "Stats.WakeFailed and .LastWakeError")
async def test_a_wake_without_a_connection_or_wake_url_fails_with_a_hint(world: World) -> None:
    cycling = Cycling(world)
    run = await world.tasks.add()
    await world.tasks.register("alone")
    for _ in range(2):
        report = await cycling.cycle(CYCLE)
        assert (report.wakes_tried, report.wakes_failed) == (1, 1)
        assert report.runs["woken"] == [run.id]
        assert "wake_url" in report.errors[0]
    assert await cycling.wakes() == []
    async with world.ledger.read() as session:
        stored = await statistics.read(session)
    assert len(stored.errors) == 1
    assert stored.totals["wakes_failed"] == 2


async def test_sessions_that_cannot_be_woken_share_one_entry_among_the_errors(world: World) -> None:
    cycling = Cycling(world)
    for number in range(12):
        await world.tasks.register(f"s{number}", capabilities=[f"c{number}"])
        await world.tasks.add(capabilities=[f"c{number}"])
        report = await cycling.cycle(CYCLE)
        assert report.wakes_failed == number + 1
    async with world.ledger.read() as session:
        assert len((await statistics.read(session)).errors) == 1


async def test_a_reachable_session_is_preferred_to_an_unreachable_one(world: World) -> None:
    cycling = Cycling(world)
    await world.tasks.register("alone", capabilities=["sql"])
    await cycling.there("connected")
    await world.tasks.add(preferred=["sql"])
    assert (await cycling.cycle()).wakes_failed == 0
    assert [target_sessions(row) for row in await cycling.wakes()] == [["connected"]]


async def test_a_session_with_an_expired_connection_is_woken_by_webhook(world: World) -> None:
    cycling = Cycling(world, SchedulerPolicy(wake_url=URL))
    await cycling.there("one")
    world.clock.move(timedelta(days=1))
    await world.tasks.register("one")
    await world.tasks.add()
    await cycling.cycle()
    assert [row.address for row in await cycling.wakes()] == [URL]


async def test_one_webhook_request_wakes_all_unconnected_sessions_of_a_cycle(world: World) -> None:
    cycling = Cycling(world, SchedulerPolicy(wake_url=URL))
    await cycling.there("connected", capabilities=["c"])
    for name in "ab":
        await world.tasks.register(name, capabilities=[name])
    runs = {name: await world.tasks.add(name, capabilities=[name]) for name in "abc"}
    report = await cycling.cycle()
    assert report.wakes_tried == 3
    own, together = sorted(await cycling.wakes(), key=lambda row: not row.queue.startswith("task-"))
    assert [each["session"] for each in json.loads(own.body)["targets"]] == ["connected"]
    targets = json.loads(together.body)["targets"]
    assert {each["session"]: each["run_id"] for each in targets} == {
        "a": runs["a"].id,
        "b": runs["b"].id,
    }
    # The dispatcher treats it as an ordinary row, and its queue name omits the URL's query.
    assert together.queue == "https://hooks.example.org/wake"
    assert is_outgoing(together.queue)
    assert (together.owner, together.event, together.run_id) == ("user", "task.wake", None)


@pytest.mark.floor("D", "FanOutAfter: all eligible sessions are woken")
async def test_fan_out_wakes_all_other_sessions_and_stays_due_until_it_woke_one(
    world: World,
) -> None:
    cycling = Cycling(world, SchedulerPolicy(starve_after=timedelta(seconds=30), fan_out=1))
    run = await world.tasks.add()
    await cycling.there("one")
    world.clock.move(timedelta(seconds=20))
    await cycling.cycle()
    await cycling.end()
    report = await cycling.cycle(CYCLE)
    # The only one that fits was woken 15 s ago.
    assert report.runs["recently_notified"] == [run.id]
    assert (await world.tasks.run(run.id)).tiers == []
    await cycling.there("two")
    await cycling.there("three")
    before = len(await cycling.wakes())
    await cycling.cycle(CYCLE)
    assert sorted(map(target_sessions, (await cycling.wakes())[before:])) == [["three"], ["two"]]
    assert (await world.tasks.run(run.id)).tiers == ["fan_out"]


@pytest.mark.floor("D", "Rebuild clears the wake cooldowns")
@pytest.mark.floor("D", "Rebuild keeps the budgets")
@pytest.mark.floor("D", "RebuildResult: pending, active, sessions, cleared, rebuilt at")
@pytest.mark.floor("D", "Stats.Rebuilds and .LastRebuildAt")
async def test_rebuild_clears_wake_cooldowns_and_keeps_escalation_steps(
    world: World,
) -> None:
    cycling = Cycling(world, SchedulerPolicy(fan_out=1))
    run = await world.tasks.add()
    world.clock.move(timedelta(minutes=3))
    await cycling.there()
    await cycling.cycle()
    await cycling.end()
    assert (await cycling.cycle(CYCLE)).count("recently_notified") == 1
    before = await world.tasks.run(run.id)
    assert (before.starved_cycles, before.tiers) == (2, ["fan_out"])
    done = await scheduler.rebuild(world.ledger, cycling.policy)
    assert (done.pending, done.active, done.sessions, done.cleared) == (1, 0, 1, 1)
    assert (done.statistics.rebuilds, done.statistics.last_rebuild_at) == (1, done.at)
    after = await world.tasks.run(run.id)
    assert (after.starved_cycles, after.tiers) == (2, ["fan_out"])
    assert (await cycling.cycle()).runs["woken"] == [run.id]


@pytest.mark.floor("D", "Two concurrent cycles wake each session once")
async def test_two_concurrent_cycles_wake_each_session_once_for_its_run(world: World) -> None:
    cycling = Cycling(world)
    runs = [await world.tasks.add(f"task {n}", capabilities=[f"c{n}"]) for n in range(5)]
    for n in range(5):
        await cycling.there(f"s{n}", capabilities=[f"c{n}"])
    async with Ledger(world.ledger.address, world.clock) as other:
        both = [cycling.scheduler(), cycling.scheduler(other)]
        reports = await asyncio.gather(*(each.cycle() for each in both))
    assert sorted(each.wakes_tried for each in reports) == [0, 5]
    assert len(await cycling.wakes()) == 5
    woken = [
        [e.session for e in await world.tasks.events(run.id) if e.event == "woken"] for run in runs
    ]
    assert woken == [[f"s{n}"] for n in range(5)]
