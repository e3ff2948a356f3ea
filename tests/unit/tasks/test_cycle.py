"""What a cycle counts, keeps and leaves alone."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from daybook.errors import InvalidInput
from daybook.ledger.tables import Fact
from daybook.tasks import lease_expiry, model, pause, statistics
from daybook.tasks.model import EscalationPolicy
from daybook.tasks.scheduler import Cycle, Scheduler
from daybook.tasks.statistics import (
    COUNTERS,
    FACT_KEY,
    MAX_IDS_PER_COUNTER,
    CycleReport,
    CycleSummary,
    Statistics,
)
from tests.unit.tasks.cycling import CYCLE, Cycling
from tests.world import World

pytestmark = pytest.mark.anyio

ONE_OF = ("woken", "no_match", "recently_notified", "unclaimable", "paused")


def check(report: CycleReport) -> None:
    """What holds of every report."""
    assert report.pending == sum(report.count(name) for name in ONE_OF)
    placed = [run for name in ONE_OF for run in report.runs.get(name, [])]
    assert len(placed) == len(set(placed))
    assert list(CycleSummary.model_fields) == ["at", *COUNTERS, "runs", "errors"]


async def kept(world: World) -> Statistics:
    async with world.ledger.read() as session:
        return await statistics.read(session)


def facts(world: World) -> list[tuple[Any, ...]]:
    outbox = world.database.query("SELECT * FROM outbox")
    return [*world.database.query("SELECT key, value FROM facts ORDER BY key"), *outbox]


async def test_each_pending_run_is_in_one_place(world: World) -> None:
    cycling = Cycling(world, EscalationPolicy(wake_url="https://hooks.example.org/wake"))
    await world.tasks.add("held", priority="urgent", capabilities=["held"])
    await world.tasks.register("holder", capabilities=["held", "busy"])
    await world.tasks.claim("holder")
    await cycling.there("idle", capabilities=["idle"])
    wanted: dict[str, dict[str, Any]] = {
        "woken": {"capabilities": ["idle"], "priority": "high"},
        "no_match": {"capabilities": ["busy"]},
        "second": {"capabilities": ["idle"], "priority": "low"},
        "unclaimable": {"capabilities": ["unknown"]},
        "persons": {"owner": "user"},
        "paused": {"paused": True},
    }
    runs = {name: (await world.tasks.add(name, **fields)).id for name, fields in wanted.items()}
    report = await cycling.cycle()
    check(report)
    assert (report.pending, report.active, report.scanned) == (6, 1, 7)
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


async def test_a_session_that_expired_fits_nothing(world: World) -> None:
    cycling = Cycling(world)
    await cycling.there("one")
    world.clock.move(timedelta(minutes=15))
    run = await world.tasks.add()
    report = await cycling.cycle()
    assert report.runs["unclaimable"] == [run.id]


async def test_what_was_taken_back_is_matched_in_the_same_cycle(world: World) -> None:
    cycling = Cycling(world)
    held = await world.tasks.claimed("one")
    await cycling.there("two")
    world.clock.move(timedelta(minutes=5))
    report = await cycling.cycle()
    check(report)
    assert report.runs["recovered"] == report.runs["woken"] == [held.run.id]
    assert report.active == 0


async def test_the_third_lease_that_is_over_is_told_to_the_operator(world: World) -> None:
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
async def test_a_cycle_takes_back_so_many_and_the_next_the_rest(world: World) -> None:
    cycling = Cycling(world)
    count = lease_expiry.MAX_EXPIRED_PER_PASS + 3
    for number in range(count):
        await world.tasks.add(f"task {number}")
        await world.tasks.register(f"s{number}")
        await world.tasks.claim(f"s{number}")
    report = await cycling.cycle(timedelta(minutes=5))
    check(report)
    assert report.count("recovered") == lease_expiry.MAX_EXPIRED_PER_PASS
    last = (await kept(world)).last_cycle
    assert last is not None and len(last.runs["recovered"]) == MAX_IDS_PER_COUNTER
    report = await cycling.cycle(CYCLE)
    assert (report.count("recovered"), report.active) == (3, 0)


# --- nothing to do


async def test_nothing_is_written_where_there_is_nothing_to_do(world: World) -> None:
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
    assert (await kept(world)).cycles == 0


async def test_a_wake_under_way_is_counted_though_its_run_was_claimed(world: World) -> None:
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


async def test_a_ladder_that_was_never_legal_stops_the_cycle_and_changes_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    cycling = Cycling(world)
    await world.tasks.claimed()
    world.clock.move(timedelta(minutes=5))
    before = world.tasks.everything(), facts(world)
    monkeypatch.setenv("DAYBOOK_TASKS", '{"starved": 3}')
    scheduler = Scheduler(
        world.ledger,
        policy=model.load_policy,
        notifier=cycling.notifier,
        capabilities_of=cycling.capabilities,
    )
    with pytest.raises(InvalidInput, match="DAYBOOK_TASKS: starved: "):
        await scheduler.cycle()
    assert (world.tasks.everything(), facts(world)) == before
    # The next cycle reads the settings anew.
    monkeypatch.delenv("DAYBOOK_TASKS")
    assert (await scheduler.cycle()).count("recovered") == 1


async def test_a_ladder_that_is_legal_no_more_holds_on_and_that_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    cycling = Cycling(world)
    held, waiting = await world.tasks.claimed(), await world.tasks.add(capabilities=["gpu"])
    scheduler = Scheduler(
        world.ledger,
        policy=model.load_policy,
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
    assert "DAYBOOK_TASKS: starved: 3 is not more than" in error
    assert [each.error for each in (await kept(world)).errors] == [error]
    world.clock.move(timedelta(minutes=1))
    assert (await scheduler.cycle()).runs["recovered"] == [held.run.id]
    # Mended, it holds from the next cycle on.
    monkeypatch.setenv("DAYBOOK_TASKS", '{"starve_after": "6m"}')
    report = await scheduler.cycle()
    assert "DAYBOOK_TASKS" not in str(report.errors)
    assert (await world.tasks.run(waiting.id)).starved_cycles == 2


async def test_who_leads_late_knows_the_ladder_from_its_start(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    cycling = Cycling(world)
    scheduler = Scheduler(
        world.ledger,
        policy=model.load_policy,
        notifier=cycling.notifier,
        capabilities_of=cycling.capabilities,
    )
    await world.tasks.claimed()
    reports: list[CycleReport] = []

    async def turn(cycle: Cycle) -> None:
        monkeypatch.setenv("DAYBOOK_TASKS", '{"starved": 3}')
        world.clock.move(timedelta(minutes=5))
        reports.append(await cycle())
        scheduler.stop()

    await scheduler.run(turn)
    assert [each.count("recovered") for each in reports] == [1]
    assert "DAYBOOK_TASKS: starved" in reports[0].errors[0]


# --- statistics


async def test_what_cycles_did_adds_up_and_the_last_one_is_shown(world: World) -> None:
    cycling = Cycling(world)
    run = await world.tasks.add()
    await cycling.there()
    for _ in range(3):
        report = await cycling.cycle(timedelta(seconds=60))
        await cycling.end()
    found = await kept(world)
    assert found.cycles == 3
    assert found.totals["wakes_tried"] == 3
    assert found.totals["wakes_succeeded"] == 2  # the last one is counted by the next
    assert found.last_cycle == report.summary()
    assert report.runs["woken"] == [run.id]
    assert (found.rebuilds, found.recovery_errors, found.errors) == (0, 0, [])


async def test_statistics_that_cannot_be_read_are_begun_anew(world: World) -> None:
    async with world.ledger.write() as session:
        session.add(Fact(key=FACT_KEY, value='{"cycles": "many"}'))
    assert (await kept(world)).cycles == 0
    await world.tasks.add()
    await Cycling(world).cycle()
    assert (await kept(world)).cycles == 1


@pytest.mark.parametrize("world", ["sqlite"], indirect=True)
async def test_a_sweep_that_fails_is_counted_and_wakes_go_on(world: World) -> None:
    cycling = Cycling(world)
    held = await world.tasks.claimed("one")
    waiting = await world.tasks.add("waiting", owner="session:two")
    await cycling.there("two")
    # What no program of ours writes: SQLite takes it.
    world.database.query(f"UPDATE task_runs SET expiries = 'x' WHERE id = '{held.run.id}'")
    world.clock.move(timedelta(minutes=5))
    await cycling.there("two")
    report = await cycling.cycle()
    assert report.count("recovered") == 0
    assert report.runs["woken"] == [waiting.id]
    assert report.errors[0].startswith("lease expiry: ")
    found = await kept(world)
    assert found.recovery_errors == 1
    assert found.errors[0].error == report.errors[0]


async def test_a_paused_scheduler_is_counted_too(world: World) -> None:
    cycling = Cycling(world)
    runs = [(await world.tasks.add(f"task {n}")).id for n in range(3)]
    await cycling.there()
    await pause.pause(world.ledger)
    report = await cycling.cycle()
    check(report)
    assert sorted(report.runs["paused"]) == sorted(runs)
