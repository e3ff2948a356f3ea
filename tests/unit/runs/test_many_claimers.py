"""One occurrence, many real processes, one effect; and the ledger after a process was killed."""

from __future__ import annotations

import signal
from collections import Counter
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
from tests.databases import Database
from tests.unit.runs import claimers
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.dialect]

MOST = {"sqlite": 50, "postgresql": 25}
"""How many processes; a PostgreSQL server takes a hundred connections, and not from us alone."""
crowds = pytest.mark.parametrize("many", [6, pytest.param(50, marks=pytest.mark.slow)])


def _run_id(result: claimers.ProcessResult) -> str | None:
    assert not isinstance(result.answer, NeedsReconcile)
    return result.answer.run_id


async def _offer(world: World, name: str = "brief") -> offers.ClaimRequest:
    stored = await world.jobs.add(name)
    return world.runs.claim_request(stored)


@crowds
async def test_one_of_many_processes_that_claim_an_occurrence_runs_it(
    world: World, many: int
) -> None:
    many = min(many, MOST[world.database.kind])
    claim_request = await _offer(world)
    world.clock.set(claim_request.due)
    claim_requests = [
        replace(claim_request, holder=f"p:{n}", flow_run_id=f"flow {n}") for n in range(many)
    ]

    results = claimers.at_once(world.ledger.address, claim_requests, world.clock)

    assert len({each.pid for each in results}) == many
    kinds = Counter(type(each.answer) for each in results)
    assert kinds[Granted] == 1
    assert kinds[HeldElsewhere] + kinds[Finished] == many - 1
    (granted,) = (each.answer for each in results if isinstance(each.answer, Granted))
    ended = [each.answer for each in results if isinstance(each.answer, Finished)]
    assert {each.status for each in ended} <= {Status.SUCCEEDED}
    assert {_run_id(each) for each in results} == {granted.run_id}
    (row,) = await world.runs.rows()
    assert (row.status, row.fence, row.attempts) == ("succeeded", 1, 1)
    assert len(await world.runs.attempts(row.id)) == 1
    assert (await world.jobs.row(str(claim_request.job_id))).run_count == 1


@crowds
async def test_many_processes_that_claim_three_jobs_run_each_once(world: World, many: int) -> None:
    jobs = [await _offer(world, f"job-{n}") for n in range(3)]
    world.clock.set(jobs[0].due)
    claim_requests = [
        replace(jobs[n % 3], flow_run_id=f"flow {n}")
        for n in range(min(many, MOST[world.database.kind]))
    ]

    results = claimers.at_once(world.ledger.address, claim_requests, world.clock)

    granted = [each.answer for each in results if isinstance(each.answer, Granted)]
    assert sorted(each.occurrence for each in granted) == sorted(job.occurrence for job in jobs)
    rows = await world.runs.rows()
    assert [(row.status, row.attempts) for row in rows] == [("succeeded", 1)] * 3


@crowds
async def test_many_processes_create_one_ledger(
    database: Database, clock: ManualClock, many: int
) -> None:
    """No process finds a file or a table: one creates the schema, and all use one ledger."""
    claim_request = offers.ClaimRequest(
        offers.flow_key("f"), "agent-prompt", "direct", clock.now(), "here:1", flow_run_id="f"
    )

    results = claimers.at_once(
        database.address, [claim_request] * min(many, MOST[database.kind]), clock
    )

    assert sum(isinstance(each.answer, Granted) for each in results) == 1
    assert len({_run_id(each) for each in results}) == 1
    async with Ledger(database.address) as ledger:
        assert ledger.id


async def test_a_run_killed_between_claim_and_begin_is_claimed_again(world: World) -> None:
    claim_request = await _offer(world)
    world.clock.set(claim_request.due)
    with claimers.walked(world.ledger.address, claim_request, world.clock, "claimed") as (
        child,
        run_id,
    ):
        child.kill()
        child.join(60)
        assert child.exitcode == -signal.SIGKILL

    assert (await world.runs.row(run_id)).status == "claimed"
    other = replace(claim_request, flow_run_id="another")
    await world.runs.suspect()
    world.clock.move(TIMING.run_lease - timedelta(microseconds=1))
    assert isinstance(await world.runs.claim(other), HeldElsewhere)
    world.clock.move(timedelta(microseconds=1))
    granted = await world.runs.claim(other)

    assert isinstance(granted, Granted)
    assert (granted.run_id, granted.fence) == (run_id, 3)
    assert await world.runs.attempts(run_id) == []


async def test_a_run_killed_between_begin_and_finish_is_unknown_and_not_repeated(
    world: World,
) -> None:
    claim_request = await _offer(world)
    world.clock.set(claim_request.due)
    with claimers.walked(world.ledger.address, claim_request, world.clock, "running") as (
        child,
        run_id,
    ):
        child.kill()
        child.join(60)

    assert (await world.runs.row(run_id)).status == "running"
    await world.runs.lose()
    answer = await world.runs.claim(replace(claim_request, flow_run_id="another"))

    assert isinstance(answer, Finished)
    assert answer.status is Status.UNKNOWN
    (row,) = await world.runs.rows()
    assert (row.status, row.attempts) == ("unknown", 1)
    assert (await world.jobs.row(str(claim_request.job_id))).last_status == "unknown"


async def test_a_process_killed_while_it_records_its_outcome_writes_nothing(world: World) -> None:
    claim_request = await _offer(world)
    world.clock.set(claim_request.due)
    with claimers.walked(world.ledger.address, claim_request, world.clock, "finishing") as (
        child,
        run_id,
    ):
        child.kill()
        child.join(60)

    row = await world.runs.row(run_id)
    assert (row.status, row.fence) == ("running", 1)
    status = await claims.finish(world.ledger, run_id, 1, Outcome(Status.SUCCEEDED))
    assert status is Status.SUCCEEDED
