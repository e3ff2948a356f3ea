"""The scheduler's cycle: its report, its statistics, and when it writes nothing."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from daybook.errors import InvalidInput
from daybook.features.tasks import pause, statistics
from daybook.features.tasks.policy import DEFAULTS, SchedulerPolicy
from daybook.features.tasks.scheduler import Scheduler
from daybook.features.tasks.settings import load_policy
from daybook.features.tasks.statistics import (
    COUNTERS,
    CUMULATIVE_COUNTERS,
    FACT_KEY,
    MAX_IDS_PER_COUNTER,
    CycleReport,
    CycleSummary,
    Statistics,
)
from daybook.ledger.tables import Fact
from tests.unit.features.tasks.cycling import CYCLE, Cycling
from tests.world import World

pytestmark = pytest.mark.anyio

ONE_OF = ("woken", "no_match", "recently_notified", "unclaimable", "paused")


def check(report: CycleReport) -> None:
    """Assert the invariants of every cycle report."""
    assert report.pending == sum(report.count(name) for name in ONE_OF)
    placed = [run for name in ONE_OF for run in report.runs.get(name, [])]
    assert len(placed) == len(set(placed))
    assert list(CycleSummary.model_fields) == ["at", *COUNTERS, "runs", "errors"]


async def statistics_of(world: World) -> Statistics:
    async with world.ledger.read() as session:
        return await statistics.read(session)


def facts(world: World) -> list[tuple[Any, ...]]:
    outbox = world.database.query("SELECT * FROM outbox")
    return [*world.database.query("SELECT key, value FROM facts ORDER BY key"), *outbox]


@pytest.mark.floor("D", "CycleResult.PendingRuns and .ActiveRuns")
@pytest.mark.floor("D", "CycleResult.SessionsScanned")
@pytest.mark.floor("D", "CycleResult.WakeAttempts and .WakeSucceeded")
@pytest.mark.floor("D", "CycleResult.SelectedRunIDs")
@pytest.mark.floor("D", "CycleResult.NoMatchRuns and .NoMatchRunIDs")
@pytest.mark.floor("D", "CycleResult.RecentlyNotified")
@pytest.mark.floor("D", "CycleResult.UnclaimableRuns")
async def test_a_cycle_counts_each_pending_run_under_exactly_one_result(world: World) -> None:
    cycling = Cycling(world, SchedulerPolicy(wake_url="https://hooks.example.org/wake"))
    await world.tasks.add("held", priority="urgent", capabilities=["held"])
    await world.tasks.register("holder", capabilities=["held", "busy"])
    await world.tasks.claim("holder")
    await cycling.there("idle", capabilities=["idle"])
    tasks_to_add: dict[str, dict[str, Any]] = {
        "woken": {"capabilities": ["idle"], "priority": "high"},
        "no_match": {"capabilities": ["busy"]},
        "second": {"capabilities": ["idle"], "priority": "low"},
        "unclaimable": {"capabilities": ["unknown"]},
        "persons": {"owner": "user"},
        "paused": {"paused": True},
    }
    runs = {
        name: (await world.tasks.add(name, **fields)).id for name, fields in tasks_to_add.items()
    }
    report = await cycling.cycle()
    check(report)
    assert (report.pending, report.active, report.scanned) == (6, 1, 7)
    assert report.sessions == 2
    assert report.runs["woken"] == [runs["woken"]]
    assert sorted(report.runs["no_match"]) == sorted([runs["no_match"], runs["second"]])
    assert sorted(report.runs["unclaimable"]) == sorted([runs["unclaimable"], runs["persons"]])
    assert report.runs["paused"] == [runs["paused"]]

    await cycling.end()
    report = await cycling.cycle(CYCLE)
    check(report)
    assert report.runs["recently_notified"] == [runs["woken"]]
    assert report.runs["woken"] == [runs["second"]]
    assert (report.wakes_tried, report.wakes_succeeded, report.wakes_failed) == (1, 1, 0)


async def test_a_run_that_only_an_expired_session_fits_is_unclaimable(world: World) -> None:
    cycling = Cycling(world)
    await cycling.there("one")
    world.clock.move(timedelta(minutes=15))
    run = await world.tasks.add()
    report = await cycling.cycle()
    assert report.runs["unclaimable"] == [run.id]


@pytest.mark.floor("D", "A cycle sweeps, matches and wakes")
@pytest.mark.floor("D", "CycleResult.RecoveredLeases and .RecoveredRunIDs")
async def test_a_run_with_an_expired_lease_is_requeued_and_matched_in_the_same_cycle(
    world: World,
) -> None:
    cycling = Cycling(world)
    held = await world.tasks.claimed("one")
    await cycling.there("two")
    world.clock.move(timedelta(minutes=5))
    report = await cycling.cycle()
    check(report)
    assert report.runs["recovered"] == report.runs["woken"] == [held.run.id]
    assert report.active == 0


async def test_the_third_expired_lease_of_a_run_alerts_the_operator_once(world: World) -> None:
    cycling = Cycling(world)
    run = await world.tasks.add("slippery")
    for expiries in (1, 2, 3):
        await world.tasks.register("one")
        await world.tasks.claim("one", "30s")
        report = await cycling.cycle(timedelta(seconds=30))
        check(report)
        assert report.count("needs_attention") == (expiries == 3)
        assert len(await cycling.alerts()) == (expiries == 3)
    (alert,) = await cycling.alerts()
    assert (alert.event, report.pending, report.scanned) == ("needs_attention", 0, 1)
    assert "slippery" in str(alert.subject)
    assert run.id[:12] in str(alert.body)
    await cycling.cycle(CYCLE)
    assert len(await cycling.alerts()) == 1


@pytest.mark.slow
async def test_a_cycle_requeues_up_to_its_limit_and_the_next_cycle_the_rest(world: World) -> None:
    cycling = Cycling(world)
    count = DEFAULTS.sweep_limit + 3
    for number in range(count):
        await world.tasks.add(f"task {number}")
        await world.tasks.register(f"s{number}")
        await world.tasks.claim(f"s{number}")
    report = await cycling.cycle(timedelta(minutes=5))
    check(report)
    assert report.count("recovered") == DEFAULTS.sweep_limit
    last = (await statistics_of(world)).last_cycle
    assert last is not None and len(last.runs["recovered"]) == MAX_IDS_PER_COUNTER
    report = await cycling.cycle(CYCLE)
    assert (report.count("recovered"), report.active) == (3, 0)


# --- nothing to do


@pytest.mark.floor("D", "CycleResult.NeedsAttention and .NeedsAttentionRunIDs")
async def test_a_cycle_with_nothing_to_do_writes_nothing(world: World) -> None:
    cycling = Cycling(world)
    await cycling.there("idle")
    await world.tasks.claimed("one", "1h")
    third = await world.tasks.add("third", capabilities=["x"])
    await world.tasks.register("x", capabilities=["x"])
    for _ in range(3):
        await world.tasks.claim("x", "30s")
        world.clock.move(timedelta(seconds=30))
        await world.tasks.sweep()
    assert (await world.tasks.run(third.id)).status == "needs_attention"
    before = world.tasks.everything(), facts(world)
    for _ in range(3):
        report = await cycling.cycle(CYCLE)
    assert (world.tasks.everything(), facts(world)) == before
    assert (report.pending, report.active, report.scanned) == (0, 1, 2)
    assert report.runs == {"needs_attention": [third.id]}
    assert (await statistics_of(world)).cycles == 0


async def test_a_delivered_wake_is_counted_once_even_if_its_run_was_claimed(world: World) -> None:
    cycling = Cycling(world)
    await world.tasks.add()
    await cycling.there()
    await cycling.cycle()
    await world.tasks.claim("one")
    await cycling.end()
    report = await cycling.cycle(CYCLE)
    assert (report.pending, report.wakes_succeeded) == (0, 1)
    before = facts(world)
    assert (await cycling.cycle(CYCLE)).wakes_succeeded == 0
    assert facts(world) == before


async def test_a_policy_that_is_invalid_at_the_first_cycle_fails_it_without_changes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    cycling = Cycling(world)
    await world.tasks.claimed()
    world.clock.move(timedelta(minutes=5))
    before = world.tasks.everything(), facts(world)
    monkeypatch.setenv("DAYBOOK_TASKS", '{"starved": 3}')
    scheduler = Scheduler(
        world.ledger,
        policy=load_policy,
        notifier=cycling.notifier,
        capabilities_of=cycling.capabilities,
    )
    with pytest.raises(InvalidInput, match="DAYBOOK_TASKS: starved: "):
        await scheduler.cycle()
    assert (world.tasks.everything(), facts(world)) == before
    # The next cycle reads the settings again.
    monkeypatch.delenv("DAYBOOK_TASKS")
    assert (await scheduler.cycle()).count("recovered") == 1


async def test_a_policy_that_becomes_invalid_is_reported_and_the_last_valid_one_applies(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    cycling = Cycling(world)
    held, waiting = await world.tasks.claimed(), await world.tasks.add(capabilities=["gpu"])
    scheduler = Scheduler(
        world.ledger,
        policy=load_policy,
        notifier=cycling.notifier,
        capabilities_of=cycling.capabilities,
    )
    monkeypatch.setenv("DAYBOOK_TASKS", '{"starve_after": "4m"}')
    await scheduler.cycle()
    monkeypatch.setenv("DAYBOOK_TASKS", '{"starve_after": "1m", "starved": 3}')
    for minutes, cycles in ((3, 0), (1, 1)):
        world.clock.move(timedelta(minutes=minutes))
        report = await scheduler.cycle()
        assert (await world.tasks.run(waiting.id)).starved_cycles == cycles
    (error,) = report.errors
    assert "DAYBOOK_TASKS: starved: 3 is not greater than" in error
    assert [each.error for each in (await statistics_of(world)).errors] == [error]
    world.clock.move(timedelta(minutes=1))
    assert (await scheduler.cycle()).runs["recovered"] == [held.run.id]
    # A corrected policy applies from the next cycle on.
    monkeypatch.setenv("DAYBOOK_TASKS", '{"starve_after": "6m"}')
    report = await scheduler.cycle()
    assert "DAYBOOK_TASKS" not in str(report.errors)
    assert (await world.tasks.run(waiting.id)).starved_cycles == 2


async def test_a_scheduler_that_leads_later_keeps_the_policy_read_at_its_start(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    cycling = Cycling(world)
    scheduler = Scheduler(
        world.ledger,
        policy=load_policy,
        notifier=cycling.notifier,
        capabilities_of=cycling.capabilities,
    )
    await world.tasks.claimed()
    monkeypatch.setenv("DAYBOOK_TASKS", '{"starved": 3}')
    world.clock.move(timedelta(minutes=5))
    report = await scheduler.cycle()
    assert report.count("recovered") == 1
    assert "DAYBOOK_TASKS: starved" in report.errors[0]


# --- statistics


@pytest.mark.floor("D", "Stats.Cycles and the last cycle")
@pytest.mark.floor("D", "Stats.WakeAttempts and .WakeSucceeded")
async def test_statistics_have_totals_over_cycles_and_the_last_cycle(world: World) -> None:
    cycling = Cycling(world)
    run = await world.tasks.add()
    await cycling.there()
    for _ in range(3):
        report = await cycling.cycle(timedelta(seconds=60))
        await cycling.end()
    found = await statistics_of(world)
    assert found.cycles == 3
    assert found.totals["wakes_tried"] == 3
    assert found.totals["wakes_succeeded"] == 2  # the next cycle counts the last wake
    assert found.last_cycle == report.summary()
    assert report.runs["woken"] == [run.id]
    assert (found.rebuilds, found.recovery_errors, found.errors) == (0, 0, [])


@pytest.mark.floor("D", "Stats totals of no match, recently notified and unclaimable")
@pytest.mark.floor("D", "Stats totals of recovered, spawn requested, needs attention")
async def test_statistics_add_up_the_results_of_all_cycles(world: World) -> None:
    steps = {"fan_out": 1, "request_worker": 2, "starved": 3, "needs_attention": 4}
    policy = SchedulerPolicy.of({"starve_after": "15s", **steps})
    cycling = Cycling(world, policy, capable={"default": frozenset({"rare"})})
    await cycling.worker()
    await world.tasks.claimed("lost", "30s")
    await world.tasks.add("unclaimable", capabilities=["rare"])
    await cycling.there("idle", capabilities=["idle"])
    for title in ("woken", "no match"):
        await world.tasks.add(title, capabilities=["idle"])
    added = Counter[str]()
    for _ in range(6):
        report = await cycling.cycle(CYCLE)
        await cycling.end()
        added.update({name: report.count(name) for name in CUMULATIVE_COUNTERS})
        added["needs_attention"] += report.marked - report.count("needs_attention")
    assert (await statistics_of(world)).totals == added
    assert min(added.values()) > 0


async def test_unreadable_statistics_start_again_from_zero(world: World) -> None:
    async with world.ledger.write() as session:
        session.add(Fact(key=FACT_KEY, value='{"cycles": "many"}'))
    assert (await statistics_of(world)).cycles == 0
    await world.tasks.add()
    await Cycling(world).cycle()
    assert (await statistics_of(world)).cycles == 1


@pytest.mark.floor("D", "Stats.RecoveryErrors and .LastRecoveryError")
@pytest.mark.parametrize("world", ["sqlite"], indirect=True)
async def test_a_failed_lease_sweep_is_counted_and_the_cycle_still_wakes_sessions(
    world: World,
) -> None:
    cycling = Cycling(world)
    held = await world.tasks.claimed("one")
    waiting = await world.tasks.add("waiting", owner="session:two")
    await cycling.there("two")
    # Daybook never writes such a value, but SQLite accepts it.
    world.database.query(f"UPDATE task_runs SET expiries = 'x' WHERE id = '{held.run.id}'")
    world.clock.move(timedelta(minutes=5))
    await cycling.there("two")
    report = await cycling.cycle()
    assert report.count("recovered") == 0
    assert report.runs["woken"] == [waiting.id]
    assert report.errors[0].startswith("lease expiry: ")
    found = await statistics_of(world)
    assert found.recovery_errors == 1
    assert found.errors[0].error == report.errors[0]


@pytest.mark.floor("D", "CycleResult.Paused")
async def test_a_cycle_of_a_paused_scheduler_counts_its_runs_as_paused(world: World) -> None:
    cycling = Cycling(world)
    runs = [(await world.tasks.add(f"task {n}")).id for n in range(3)]
    await cycling.there()
    await pause.pause(world.ledger)
    report = await cycling.cycle()
    check(report)
    assert sorted(report.runs["paused"]) == sorted(runs)
