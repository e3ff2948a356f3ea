"""Clocks that jump: a suspended machine, and a clock that is set forward or back by an hour."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta

import pytest

from daybook.jobs.store import StoredJob
from daybook.keeper import leader_lease
from daybook.keeper.leader_lease import LEADERSHIP_NAME
from daybook.ledger.states import Status
from daybook.ledger.tables import RunRow
from daybook.runs import audit, claims, leases
from daybook.runs.claim_requests import Granted, Waiting
from daybook.timing import TIMING
from tests.world import World

pytestmark = pytest.mark.anyio

MINUTE = timedelta(minutes=1)
STEP = timedelta(minutes=20)
HOUR = timedelta(hours=1)


class Machine:
    """A worker and an auditor of one job that is due each 20 minutes, which Prefect has queued."""

    def __init__(self, world: World, stored: StoredJob) -> None:
        self._world, self._stored = world, stored
        first = world.runs.claim_request(stored).due
        self.due_times = [first + number * STEP for number in range(60)]
        self.effects = 0
        self.offer_all()

    def offer_all(self) -> None:
        """Offer each due time to the worker, as Prefect does, also those that have an outcome."""
        self._queued = list(self.due_times)

    async def work(self, minutes: int) -> None:
        for _ in range(minutes):
            self._world.clock.move(MINUTE)
            for due in [each for each in self._queued if each <= self._world.clock.now()]:
                request = self._world.runs.claim_request(self._stored, due=due)
                answer = await self._world.runs.claim(request)
                if isinstance(answer, Granted):
                    self.effects += 1
                    await claims.begin(self._world.ledger, answer.run_id, answer.fence)
                    await self._world.runs.finish(answer, Status.SUCCEEDED)
                if not isinstance(answer, Waiting):
                    self._queued.remove(due)
            await audit.advance(self._world.ledger, self._stored.id, self._world.clock.now())

    async def outcomes(self) -> Counter[datetime]:
        """Return how many outcomes each due time has."""
        rows = await self._world.runs.rows()
        return Counter(each for row in rows for each in covered(row))


def covered(row: RunRow) -> list[datetime]:
    assert row.due is not None
    return [row.due + number * STEP for number in range(row.count)]


@pytest.mark.parametrize("jump", [8 * HOUR, HOUR], ids=["suspended", "set forward"])
@pytest.mark.parametrize("catch_up", ["none", "latest", "all"])
async def test_a_jump_forward_is_an_outage(world: World, jump: timedelta, catch_up: str) -> None:
    machine = Machine(world, await world.jobs.add(cron="*/20 * * * *", catch_up=catch_up))
    await machine.work(25)
    before = world.clock.now()
    after = world.clock.move(jump)
    await machine.work(90)

    passed = [each for each in machine.due_times if each <= world.clock.now()]
    slept = [each for each in passed if before < each <= after]
    assert len(slept) == jump // STEP
    assert await machine.outcomes() == Counter(passed)
    caught_up = {"none": 0, "latest": 1, "all": len(slept)}[catch_up]
    assert machine.effects == len(passed) - len(slept) + caught_up


async def test_a_clock_that_is_set_back_repeats_nothing(world: World) -> None:
    machine = Machine(world, await world.jobs.add(cron="*/20 * * * *", catch_up="all"))
    await machine.work(90)
    latest = world.clock.now()
    world.clock.move(-HOUR)
    machine.offer_all()
    await machine.work(120)

    passed = [each for each in machine.due_times if each <= world.clock.now()]
    assert world.clock.now() == latest + HOUR
    assert await machine.outcomes() == Counter(passed)
    assert machine.effects == len(passed)


async def test_a_clock_that_is_set_back_hides_no_dead_worker(world: World) -> None:
    stored = await world.jobs.add(cron="*/20 * * * *")
    granted = await world.runs.running(stored)
    world.clock.move(-HOUR)
    assert await leases.expire_all(world.ledger) == []  # a living worker would renew now
    assert await leases.renew(world.ledger, granted.run_id, granted.fence)
    world.clock.move(TIMING.run_lease / 2)
    assert await leases.expire_all(world.ledger) == []
    assert (await world.runs.row()).suspected_at is None

    world.clock.move(-HOUR)  # and now the worker is dead
    await leases.expire_all(world.ledger)
    world.clock.move(TIMING.run_lease)
    (lost,) = await leases.expire_all(world.ledger)
    assert lost.status == "unknown"


async def test_a_mark_from_before_the_clock_was_set_back_counts_from_then(world: World) -> None:
    await world.runs.running(await world.jobs.add(cron="*/20 * * * *"))
    await world.runs.suspect()
    world.clock.move(-HOUR)
    assert await leases.expire_all(world.ledger) == []
    world.clock.move(TIMING.run_lease)
    (lost,) = await leases.expire_all(world.ledger)
    assert lost.status == "unknown"


async def test_a_clock_that_is_set_back_leaves_no_hour_without_a_leader(world: World) -> None:
    fence = await leader_lease.acquire(world.ledger, LEADERSHIP_NAME, "a")
    assert fence is not None
    world.clock.move(-HOUR)
    assert await leader_lease.renew(world.ledger, LEADERSHIP_NAME, fence)  # it lives
    assert await leader_lease.acquire(world.ledger, LEADERSHIP_NAME, "b") is None
    world.clock.move(-HOUR)  # it has died
    assert await leader_lease.acquire(world.ledger, LEADERSHIP_NAME, "b") == fence + 1
    assert not await leader_lease.check(world.ledger, LEADERSHIP_NAME, fence)
