"""One occurrence, many processes, one effect; and what is left of a process that was killed."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from daybook.ledger.engine import Ledger
from daybook.ledger.states import Outcome, Status
from daybook.runs import claim_requests as offers
from daybook.runs import claims
from daybook.runs.claim_requests import Finished, Granted, HeldElsewhere, NeedsReconcile
from daybook.testing import ManualClock
from daybook.timing import TIMING
from tests import side_by_side
from tests.databases import Database
from tests.unit.runs import claimers
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.dialect]

MOST = {"sqlite": 50, "postgresql": 25}
"""How many processes; a PostgreSQL server takes a hundred connections, and not from us alone."""
crowds = pytest.mark.parametrize("many", [12, pytest.param(50, marks=pytest.mark.slow)])


@pytest.fixture(scope="module", autouse=True)
def fork_server() -> Iterator[None]:
    """The process that all others are forked from: it has imported the ledger."""
    side_by_side.CONTEXT.set_forkserver_preload(["tests.unit.runs.claimers"])
    yield
    from multiprocessing import forkserver

    forkserver._forkserver._stop()  # type: ignore[attr-defined]


def _run_id(told: claimers.Told) -> str | None:
    assert not isinstance(told.answer, NeedsReconcile)
    return told.answer.run_id


async def _offer(world: World, name: str = "brief") -> offers.ClaimRequest:
    stored = await world.add(name)
    return world.offer(stored)


@crowds
async def test_many_processes_and_one_occurrence(world: World, many: int) -> None:
    many = min(many, MOST[world.database.kind])
    offer = await _offer(world)
    world.clock.set(offer.due)
    offers = [replace(offer, holder=f"p:{n}", flow_run_id=f"flow {n}") for n in range(many)]

    told = claimers.at_once(world.ledger.address, offers, world.clock)

    assert len({each.pid for each in told}) == many
    kinds = Counter(type(each.answer) for each in told)
    assert kinds[Granted] == 1
    assert kinds[HeldElsewhere] + kinds[Finished] == many - 1
    (granted,) = (each.answer for each in told if isinstance(each.answer, Granted))
    ended = [each.answer for each in told if isinstance(each.answer, Finished)]
    assert {each.status for each in ended} <= {Status.SUCCEEDED}
    assert {_run_id(each) for each in told} == {granted.run_id}
    (row,) = await world.rows()
    assert (row.status, row.fence, row.attempts) == ("succeeded", 1, 1)
    assert len(await world.attempts(row.id)) == 1
    assert (await world.job_row(str(offer.job_id))).run_count == 1


@crowds
async def test_many_processes_and_ten_jobs(world: World, many: int) -> None:
    jobs = [await _offer(world, f"job-{n}") for n in range(10)]
    world.clock.set(jobs[0].due)
    offers = [
        replace(jobs[n % 10], flow_run_id=f"flow {n}")
        for n in range(min(many, MOST[world.database.kind]))
    ]

    told = claimers.at_once(world.ledger.address, offers, world.clock)

    granted = [each.answer for each in told if isinstance(each.answer, Granted)]
    assert sorted(each.occurrence for each in granted) == sorted(job.occurrence for job in jobs)
    rows = await world.rows()
    assert [(row.status, row.attempts) for row in rows] == [("succeeded", 1)] * 10


@crowds
async def test_many_processes_make_one_ledger(
    database: Database, clock: ManualClock, many: int
) -> None:
    """They all find no file, or no table: one makes the schema, and all mean the same ledger."""
    offer = offers.ClaimRequest(
        offers.flow_key("f"), "agent-prompt", "direct", clock.now(), "here:1", flow_run_id="f"
    )

    told = claimers.at_once(database.address, [offer] * min(many, MOST[database.kind]), clock)

    assert sum(isinstance(each.answer, Granted) for each in told) == 1
    assert len({_run_id(each) for each in told}) == 1
    async with Ledger(database.address) as ledger:
        assert ledger.id


async def test_killed_between_claim_and_begin_it_waits_and_runs(world: World) -> None:
    offer = await _offer(world)
    world.clock.set(offer.due)
    with claimers.walked(world.ledger.address, offer, world.clock, "claimed") as (child, run_id):
        child.kill()
        child.join(60)
        assert child.exitcode == -signal.SIGKILL

    assert (await world.row(run_id)).status == "claimed"
    other = replace(offer, flow_run_id="another")
    await world.suspect()
    world.clock.move(TIMING.run_lease - timedelta(microseconds=1))
    assert isinstance(await world.claim(other), HeldElsewhere)
    world.clock.move(timedelta(microseconds=1))
    granted = await world.claim(other)

    assert isinstance(granted, Granted)
    assert (granted.run_id, granted.fence) == (run_id, 3)
    assert await world.attempts(run_id) == []


async def test_killed_between_begin_and_settle_it_is_unknown_and_not_repeated(world: World) -> None:
    offer = await _offer(world)
    world.clock.set(offer.due)
    with claimers.walked(world.ledger.address, offer, world.clock, "running") as (child, run_id):
        child.kill()
        child.join(60)

    assert (await world.row(run_id)).status == "running"
    await world.lose()
    answer = await world.claim(replace(offer, flow_run_id="another"))

    assert isinstance(answer, Finished)
    assert answer.status is Status.UNKNOWN
    (row,) = await world.rows()
    assert (row.status, row.attempts) == ("unknown", 1)
    assert (await world.job_row(str(offer.job_id))).last_status == "unknown"


async def test_killed_in_the_middle_of_settling_nothing_of_it_is_written(world: World) -> None:
    offer = await _offer(world)
    world.clock.set(offer.due)
    with claimers.walked(world.ledger.address, offer, world.clock, "settling") as (child, run_id):
        child.kill()
        child.join(60)

    row = await world.row(run_id)
    assert (row.status, row.fence) == ("running", 1)
    settled = await claims.finish(world.ledger, run_id, 1, Outcome(Status.SUCCEEDED))
    assert settled is Status.SUCCEEDED
