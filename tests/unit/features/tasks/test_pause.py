"""Pause, drain, resume and stop of the task scheduler."""

from __future__ import annotations

from datetime import timedelta

import pytest

from daybook import owners
from daybook.errors import InvalidInput, NothingClaimable
from daybook.features.tasks import claims, pause
from daybook.features.tasks.pause import FACT_KEY, PauseState
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import Fact
from tests.unit.features.tasks.cycling import CYCLE, STARVED, Cycling
from tests.world import World
from tests.world.tasks import AGENT

pytestmark = pytest.mark.anyio


async def read(ledger: Ledger) -> PauseState:
    async with ledger.read() as session:
        return await pause.read(session)


async def test_the_scheduler_is_not_paused_at_first(world: World) -> None:
    assert await read(world.ledger) == PauseState()


@pytest.mark.floor("D", "PauseStore: a pause is durable, with its reason")
async def test_a_pause_is_stored_with_its_reason_and_actor(world: World) -> None:
    with owners.acting_as(AGENT):
        await pause.pause(world.ledger, "moving house")
    async with Ledger(world.ledger.address, world.clock) as ledger:
        assert await read(ledger) == PauseState(
            paused=True, reason="moving house", at=world.ledger.now(), actor="agent:maria"
        )


async def test_a_second_pause_keeps_the_time_of_the_first(world: World) -> None:
    since = (await pause.pause(world.ledger, "one")).at
    world.clock.move(timedelta(hours=1))
    assert await pause.pause(world.ledger, "two") == PauseState(
        paused=True, reason="two", at=since, actor="user"
    )
    world.clock.move(timedelta(hours=1))
    resumed = await pause.resume(world.ledger)
    assert (resumed.paused, resumed.at) == (False, world.ledger.now())
    world.clock.move(timedelta(hours=1))
    assert await pause.resume(world.ledger) == resumed
    assert await read(world.ledger) == resumed


async def test_a_pause_with_a_reason_of_two_lines_is_refused(world: World) -> None:
    with pytest.raises(InvalidInput) as caught:
        await pause.pause(world.ledger, "one\ntwo")
    assert caught.value.field == "reason"
    assert not (await read(world.ledger)).paused


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


@pytest.mark.floor("D", "A pause flag that cannot be read counts as paused")
@pytest.mark.parametrize("stored", UNREADABLE)
async def test_an_unreadable_pause_state_counts_as_paused(world: World, stored: str) -> None:
    cycling = Cycling(world)
    run = await world.tasks.add()
    await cycling.there()
    async with world.ledger.write() as session:
        session.add(Fact(key=FACT_KEY, value=stored))
    found = await read(world.ledger)
    assert (found.paused, found.at) == (True, None)
    assert "cannot be read" in found.reason
    report = await cycling.cycle()
    assert (report.runs["paused"], report.wakes_tried) == ([run.id], 0)
    with pytest.raises(NothingClaimable, match="paused"):
        await world.tasks.claim()

    await pause.resume(world.ledger)
    assert (await cycling.cycle()).runs["woken"] == [run.id]


@pytest.mark.floor("D", "Paused: no wakes, no claims, the sweep continues")
async def test_a_paused_scheduler_expires_leases_but_allows_no_wakes_and_claims(
    world: World,
) -> None:
    cycling = Cycling(world)
    held = await world.tasks.claimed("one")
    waiting = await world.tasks.add("waiting")
    await cycling.there("two")
    await pause.pause(world.ledger, "stop")

    assert held.run.lease_until is not None
    world.clock.set(held.run.lease_until - timedelta(seconds=1))
    extended = await claims.heartbeat(world.ledger, held.run.id, held.token)
    assert extended.lease_until == world.ledger.now() + timedelta(minutes=5)
    world.clock.move(timedelta(minutes=5))
    report = await cycling.cycle()
    assert report.runs["recovered"] == [held.run.id]
    assert sorted(report.runs["paused"]) == sorted([held.run.id, waiting.id])
    assert await cycling.wakes() == []
    with pytest.raises(NothingClaimable, match="paused"):
        await world.tasks.claim("two")


@pytest.mark.floor("D", "Paused: no run starves")
async def test_no_run_starves_while_the_scheduler_is_paused(world: World) -> None:
    cycling = Cycling(world, capable={"default": frozenset()})
    await cycling.worker()
    run = await world.tasks.add()
    await pause.pause(world.ledger)
    world.clock.move(STARVED)
    for _ in range(12):
        await cycling.cycle(CYCLE)
    row = await world.tasks.run(run.id)
    assert (row.starved_cycles, row.tiers, cycling.notified, cycling.asked) == (0, [], [], 0)
    assert await cycling.requests() == []


async def test_a_paused_scheduler_is_drained_when_no_run_is_claimed(world: World) -> None:
    async def drained() -> bool:
        async with world.ledger.read() as session:
            return not await pause.claimed_run_ids(session, world.ledger.now())

    await pause.pause(world.ledger)
    assert await drained()
    await pause.resume(world.ledger)
    one = await world.tasks.claimed("one")
    await pause.pause(world.ledger)
    assert not await drained()
    async with world.ledger.read() as session:
        assert await pause.claimed_run_ids(session, world.ledger.now()) == [one.run.id]
    await claims.complete(world.ledger, one.run.id, one.token)
    assert await drained()


async def test_an_expired_lease_does_not_delay_the_drain(world: World) -> None:
    held = await world.tasks.claimed("one", "30s")
    async with world.ledger.read() as session:
        at = world.ledger.now() + timedelta(seconds=30)
        assert await pause.claimed_run_ids(session, at - timedelta(microseconds=1)) == [held.run.id]
        assert await pause.claimed_run_ids(session, at) == []
    assert (await world.tasks.run(held.run.id)).session_id
