"""Adjacent missed due times are one row, whoever judges them (`docs/promise.md` 10)."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from random import Random

import pytest

from daybook.jobs import store
from daybook.jobs.store import StoredJob
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Status
from daybook.prefect import unmirrored
from daybook.runs import audit, overdue, prefect_ends
from daybook.runs.claim_requests import ClaimRequest, Finished, Granted
from tests.unit.runs.ending import end
from tests.world import World

pytestmark = pytest.mark.anyio

MINUTE = timedelta(minutes=1)
DOWN = 8
"""How many due times pass while nothing runs."""


async def _away(world: World, catch_up: str = "none") -> tuple[StoredJob, list[ClaimRequest]]:
    """A job of every minute, and what Prefect has queued of the time that nothing ran.

    All of it is too late: the last due time is two minutes ago.
    """
    stored = await world.add(cron="* * * * *", catch_up=catch_up)
    first = world.offer(stored)
    offers = [world.offer(stored, due=first.due + place * MINUTE) for place in range(DOWN)]
    world.clock.set(offers[-1].due + 2 * MINUTE - timedelta(seconds=1))
    return stored, offers


async def _ranges(world: World) -> list[tuple[str, datetime, datetime | None, int]]:
    return [(row.status, row.due, row.due_to, row.count) for row in await world.rows()]


async def _missed(world: World, offer: ClaimRequest) -> Finished:
    answer = await world.claim(offer)
    assert isinstance(answer, Finished)
    assert answer.status is Status.MISSED
    return answer


@pytest.mark.parametrize("claimed", range(DOWN + 1))
async def test_claims_and_audit_make_one_row(world: World, claimed: int) -> None:
    stored, offers = await _away(world)
    whole = ("missed", offers[0].due, offers[-1].due, DOWN)

    for offer in offers[:claimed]:
        await _missed(world, offer)
    await audit.advance(world.ledger, stored.id, world.clock.now())
    assert await _ranges(world) == [whole]
    for offer in offers:  # the first ones again, as after a kill before Prefect was told
        await _missed(world, offer)

    assert await _ranges(world) == [whole]
    assert (await world.job_row(stored.id)).last_run_at == offers[-1].due


@pytest.mark.parametrize("seed", range(12))
async def test_in_whatever_order_each_due_time_has_one_outcome(world: World, seed: int) -> None:
    random = Random(seed)
    stored, offers = await _away(world, random.choice(["none", "latest"]))
    acts = [*random.choices(range(DOWN), k=2 * DOWN), None]
    random.shuffle(acts)

    for act in acts:
        if act is None:
            await audit.advance(world.ledger, stored.id, offers[random.randrange(DOWN)].due)
        else:
            await _missed(world, offers[act])
    await audit.advance(world.ledger, stored.id, world.clock.now())
    for offer in offers:
        await _missed(world, offer)

    covered = [row.due + place * MINUTE for row in await world.rows() for place in range(row.count)]
    assert sorted(covered) == [offer.due for offer in offers]
    assert len(covered) == len(set(covered))


async def test_another_outcome_or_revision_between_ends_the_row(world: World) -> None:
    stored = await world.add(cron="* * * * *", catch_up="none")
    first = world.offer(stored)
    dues = [first.due + place * MINUTE for place in range(6)]
    await world.settled(replace(first, occurrence=first.occurrence), Status.SUCCEEDED)
    world.clock.set(dues[3] + timedelta(seconds=30))
    edited = await world.edit(stored.id, prompt="Another")
    world.clock.set(dues[5] + 2 * MINUTE - timedelta(seconds=1))

    for due in dues[1:]:
        await _missed(
            world, world.offer(edited if due > dues[3] else stored, due=due, compared=True)
        )

    assert await _ranges(world) == [
        ("succeeded", dues[0], None, 1),
        ("missed", dues[1], dues[3], 3),
        ("missed", dues[4], dues[5], 2),
    ]


async def test_the_last_reason_is_said_of_all(world: World) -> None:
    stored, offers = await _away(world)
    for offer in offers[:3]:
        await _missed(world, offer)
    (row,) = await world.rows()
    assert row.reason == "late, and the job catches up on none"

    await audit.advance(world.ledger, stored.id, world.clock.now())

    (row,) = await world.rows()
    assert row.reason == "no worker ran it in time, and the job catches up on none"


@pytest.mark.parametrize("place", [0, 3, DOWN - 1])
async def test_each_of_its_prefect_runs_can_be_retried(world: World, place: int) -> None:
    _, offers = await _away(world)
    for offer in offers:
        await _missed(world, replace(offer, started=False))
    (missed,) = await world.rows()

    retried = replace(offers[place], started=False, retries=(0,))
    answer = await world.claim(retried)

    assert isinstance(answer, Granted)
    row = await world.row(answer.run_id)
    assert (row.occurrence, row.retry_of) == (f"flow:{offers[place].flow_run_id}:1", missed.id)
    assert (await world.row(missed.id)).count == DOWN
    assert isinstance(await world.claim(offers[place - 1]), Finished)  # no one's wish


async def test_what_is_ended_in_prefect_of_a_judged_due_time_is_no_outcome(world: World) -> None:
    _, offers = await _away(world)
    for offer in offers[:3]:
        await _missed(world, offer)

    for state in ("CANCELLED", "FAILED", "CRASHED", "COMPLETED"):
        assert await prefect_ends.apply_end(world.ledger, end(offers[2], state)) is None

    assert len(await world.rows()) == 1


async def test_what_claims_have_judged_is_not_overdue(world: World) -> None:
    _, offers = await _away(world)

    async def overdue_since() -> list[datetime]:
        async with world.ledger.read() as session:
            every = await store.all_jobs(session)
            return [each.due for each in await overdue.find(session, every, [], world.clock.now())]

    assert await overdue_since() == [offers[0].due]
    for offer in offers[:3]:
        await _missed(world, offer)
    assert await overdue_since() == [offers[3].due]


# --- its Prefect run


async def _marked(ledger: Ledger, before: datetime) -> list[str | None]:
    async with ledger.read() as session:
        return [row.flow_run_id for row in await unmirrored.unmirrored_rows(session, before)]


async def test_what_the_audit_judged_is_to_be_shown_as_soon_as_there_is_a_deployment(
    world: World,
) -> None:
    stored, _ = await _away(world)
    await audit.advance(world.ledger, stored.id, world.clock.now())
    just_before = world.clock.now() - MINUTE
    assert await _marked(world.ledger, just_before) == []

    async with world.ledger.write() as session:
        job = await store.get(session, stored.id)
        assert job is not None
        job.row.deployment_id = "there"
        session.add(job.row)

    assert await _marked(world.ledger, just_before) == [None]


async def test_the_prefect_run_of_a_due_time_is_that_of_the_audits_row(world: World) -> None:
    stored, offers = await _away(world)
    await audit.advance(world.ledger, stored.id, world.clock.now())

    first = await _missed(world, offers[4])
    other = await _missed(world, offers[0])

    assert first.flow_run_id == other.flow_run_id == offers[4].flow_run_id
    (row,) = await world.rows()
    assert (row.flow_run_id, row.unmirrored) == (offers[4].flow_run_id, True)
    # One that the mirror made at the same time does not take its place.
    kept = await unmirrored.record_flow_run(world.ledger, row.id, "made")
    assert kept is not None
    assert kept.flow_run_id == offers[4].flow_run_id


async def test_a_range_that_grows_while_prefect_is_told_is_still_to_be_told(world: World) -> None:
    _, offers = await _away(world)
    first = await _missed(world, offers[0])
    second = await _missed(world, offers[1])
    assert first.run_id is not None
    assert second.run_id == first.run_id

    await unmirrored.clear_mark(world.ledger, first.run_id)  # of the first due time alone

    assert await _marked(world.ledger, world.clock.now()) == [offers[0].flow_run_id]


async def test_nothing_is_shown_of_a_removed_job(world: World) -> None:
    stored, _ = await _away(world)
    await world.archive(stored.id)

    await audit.advance(world.ledger, stored.id, world.clock.now())

    (row,) = await world.rows()
    assert (row.status, row.count, row.unmirrored) == ("skipped", DOWN, False)
