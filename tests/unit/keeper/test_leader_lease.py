"""The lease of the leader: acquire, renew, release, expire (promise 16: one keeper leads)."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from daybook.keeper import leader_lease
from daybook.timing import TIMING
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.dialect]

MICROSECOND = timedelta(microseconds=1)
NAME = "keeper"


def test_another_keeper_leads_twenty_seconds_after_the_leaders_death() -> None:
    assert TIMING.leader_lease + TIMING.leader_check <= timedelta(seconds=20)


async def test_the_first_process_leads_and_the_second_gets_no_lease(world: World) -> None:
    first = await leader_lease.acquire(world.ledger, NAME, "here:1")

    assert first == 1
    assert await leader_lease.acquire(world.ledger, NAME, "there:2") is None
    assert await leader_lease.check(world.ledger, NAME, first)
    leader, now = await leader_lease.read(world.ledger, NAME), world.clock.now()
    assert leader == leader_lease.Leader("here:1", now + TIMING.leader_lease, {}, now)


async def test_of_many_concurrent_processes_one_leads(world: World) -> None:
    asked = (leader_lease.acquire(world.ledger, NAME, f"here:{n}") for n in range(12))

    found = await asyncio.gather(*asked)

    assert sorted(fence for fence in found if fence is not None) == [1]


async def test_leaders_lead_since_the_last_gap_of_more_than_a_lease(world: World) -> None:
    began = world.clock.now()
    await leader_lease.acquire(world.ledger, NAME, "here:1")
    world.clock.move(timedelta(seconds=10))
    await leader_lease.renew(world.ledger, NAME, 1, {"passes": {}})
    leader = await leader_lease.read(world.ledger, NAME)
    assert leader is not None
    assert leader.since == began

    world.clock.move(TIMING.leader_lease)
    await leader_lease.acquire(world.ledger, NAME, "there:2")  # after no gap
    leader = await leader_lease.read(world.ledger, NAME)
    assert leader is not None
    assert (leader.holder, leader.since) == ("there:2", began)

    world.clock.move(2 * TIMING.leader_lease + MICROSECOND)
    await leader_lease.acquire(world.ledger, NAME, "there:3")
    leader = await leader_lease.read(world.ledger, NAME)
    assert leader is not None
    assert leader.since == world.clock.now()


async def test_leases_with_different_names_are_independent(world: World) -> None:
    assert await leader_lease.acquire(world.ledger, NAME, "here:1") == 1
    assert await leader_lease.acquire(world.ledger, "other", "there:2") == 1


async def test_a_lease_is_free_exactly_when_it_expires(world: World) -> None:
    await leader_lease.acquire(world.ledger, NAME, "here:1")
    world.clock.move(TIMING.leader_lease - MICROSECOND)
    assert await leader_lease.check(world.ledger, NAME, 1)
    assert await leader_lease.acquire(world.ledger, NAME, "there:2") is None

    world.clock.move(MICROSECOND)
    assert not await leader_lease.check(world.ledger, NAME, 1)
    assert await leader_lease.acquire(world.ledger, NAME, "there:2") == 2


async def test_a_renewed_lease_lasts_from_the_time_of_its_renewal(world: World) -> None:
    await leader_lease.acquire(world.ledger, NAME, "here:1")
    began = world.clock.now()
    world.clock.move(TIMING.leader_lease - MICROSECOND)

    assert await leader_lease.renew(world.ledger, NAME, 1, {"passes": {}})

    leader, now = await leader_lease.read(world.ledger, NAME), world.clock.now()
    assert leader == leader_lease.Leader("here:1", now + TIMING.leader_lease, {"passes": {}}, began)
    world.clock.move(TIMING.leader_lease - MICROSECOND)
    assert await leader_lease.check(world.ledger, NAME, 1)


async def test_a_renewal_without_a_note_keeps_the_last_one(world: World) -> None:
    await leader_lease.acquire(world.ledger, NAME, "here:1")
    await leader_lease.renew(world.ledger, NAME, 1, {"sent": 1})
    await leader_lease.renew(world.ledger, NAME, 1)

    leader = await leader_lease.read(world.ledger, NAME)
    assert leader is not None
    assert leader.note == {"sent": 1}


async def test_an_expired_leader_without_a_successor_can_renew_its_lease(world: World) -> None:
    await leader_lease.acquire(world.ledger, NAME, "here:1")
    world.clock.move(timedelta(hours=5))

    assert not await leader_lease.check(world.ledger, NAME, 1)
    assert await leader_lease.renew(world.ledger, NAME, 1)
    assert await leader_lease.check(world.ledger, NAME, 1)


async def test_a_leader_with_a_successor_can_neither_renew_nor_release(world: World) -> None:
    began = world.clock.now()
    await leader_lease.acquire(world.ledger, NAME, "here:1")
    world.clock.move(TIMING.leader_lease)
    await leader_lease.acquire(world.ledger, NAME, "there:2")

    assert not await leader_lease.renew(world.ledger, NAME, 1, {"sent": "by the old one"})
    await leader_lease.release(world.ledger, NAME, 1)

    leader = await leader_lease.read(world.ledger, NAME)
    until = world.clock.now() + TIMING.leader_lease
    assert leader == leader_lease.Leader("there:2", until, {}, began)


async def test_a_released_lease_can_be_acquired_at_once(world: World) -> None:
    await leader_lease.acquire(world.ledger, NAME, "here:1")

    await leader_lease.release(world.ledger, NAME, 1)

    assert not await leader_lease.check(world.ledger, NAME, 1)
    assert not await leader_lease.renew(world.ledger, NAME, 1)
    leader = await leader_lease.read(world.ledger, NAME)
    assert leader is not None
    assert not leader.leads(world.clock.now())
    assert await leader_lease.acquire(world.ledger, NAME, "there:2") == 2


async def test_a_leader_can_acquire_its_own_lease_again(world: World) -> None:
    await leader_lease.acquire(world.ledger, NAME, "here:1")

    assert await leader_lease.acquire(world.ledger, NAME, "here:1") == 2
    assert not await leader_lease.check(world.ledger, NAME, 1)


async def test_a_lease_that_was_never_acquired_has_no_leader(world: World) -> None:
    assert await leader_lease.read(world.ledger, NAME) is None
    assert not await leader_lease.check(world.ledger, NAME, 1)
    assert not await leader_lease.renew(world.ledger, NAME, 1)
    await leader_lease.release(world.ledger, NAME, 1)
