"""Adjacent missed due times share a row, whether claim or audit wrote it (`docs/promise.md` 10)."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from random import Random

import pytest
from sqlmodel import select

from daybook.jobs import store
from daybook.jobs.store import StoredJob
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Status
from daybook.ledger.tables import RunRow
from daybook.prefect import unmirrored
from daybook.runs import (
    audit,
    claim_requests,
    missed_ranges,
    overdue,
    prefect_ends,
    retention,
    rows,
)
from daybook.runs.claim_requests import ClaimRequest, Finished, Granted
from daybook.runs.retention import RetentionLimits
from tests.unit.runs.ending import end
from tests.world import World

pytestmark = pytest.mark.anyio

MINUTE = timedelta(minutes=1)
DOWN = 8
"""How many due times pass while nothing runs."""


async def _away(world: World, catch_up: str = "none") -> tuple[StoredJob, list[ClaimRequest]]:
    """Add a job that is due every minute; return it and its requests after time without a worker.

    All of them are too late: the last due time is two minutes ago.
    """
    stored = await world.jobs.add(cron="* * * * *", catch_up=catch_up)
    first = world.runs.claim_request(stored)
    claim_requests = [
        world.runs.claim_request(stored, due=first.due + place * MINUTE) for place in range(DOWN)
    ]
    world.clock.set(claim_requests[-1].due + 2 * MINUTE - timedelta(seconds=1))
    return stored, claim_requests


async def _ranges(world: World) -> list[tuple[str, datetime, datetime | None, int]]:
    return [(row.status, row.due, row.due_to, row.count) for row in await world.runs.rows()]


async def _missed(world: World, claim_request: ClaimRequest) -> Finished:
    answer = await world.runs.claim(claim_request)
    assert isinstance(answer, Finished)
    assert answer.status is Status.MISSED
    return answer


@pytest.mark.parametrize("claimed", range(DOWN + 1))
async def test_claims_and_the_audit_share_one_row_of_missed_due_times(
    world: World, claimed: int
) -> None:
    stored, claim_requests = await _away(world)
    whole = ("missed", claim_requests[0].due, claim_requests[-1].due, DOWN)

    for claim_request in claim_requests[:claimed]:
        await _missed(world, claim_request)
    await audit.advance(world.ledger, stored.id, world.clock.now())
    assert await _ranges(world) == [whole]
    for (
        claim_request
    ) in claim_requests:  # the first ones again, as after a kill before Prefect was updated
        await _missed(world, claim_request)

    assert await _ranges(world) == [whole]
    assert (await world.jobs.row(stored.id)).last_run_at == claim_requests[-1].due


@pytest.mark.parametrize("seed", range(12))
async def test_claims_and_audits_in_any_order_give_each_due_time_one_outcome(
    world: World, seed: int
) -> None:
    random = Random(seed)
    stored, claim_requests = await _away(world, random.choice(["none", "latest"]))
    acts = [*random.choices(range(DOWN), k=2 * DOWN), None]
    random.shuffle(acts)

    for act in acts:
        if act is None:
            await audit.advance(world.ledger, stored.id, claim_requests[random.randrange(DOWN)].due)
        else:
            await _missed(world, claim_requests[act])
    await audit.advance(world.ledger, stored.id, world.clock.now())
    for claim_request in claim_requests:
        await _missed(world, claim_request)

    covered = [
        row.due + place * MINUTE for row in await world.runs.rows() for place in range(row.count)
    ]
    assert sorted(covered) == [claim_request.due for claim_request in claim_requests]
    assert len(covered) == len(set(covered))


async def test_another_outcome_or_revision_starts_a_new_missed_row(world: World) -> None:
    stored = await world.jobs.add(cron="* * * * *", catch_up="none")
    first = world.runs.claim_request(stored)
    dues = [first.due + place * MINUTE for place in range(6)]
    await world.runs.finished(replace(first, occurrence=first.occurrence), Status.SUCCEEDED)
    world.clock.set(dues[3] + timedelta(seconds=30))
    edited = await world.jobs.edit(stored.id, prompt="Another")
    world.clock.set(dues[5] + 2 * MINUTE - timedelta(seconds=1))

    for due in dues[1:]:
        await _missed(
            world,
            world.runs.claim_request(edited if due > dues[3] else stored, due=due, compared=True),
        )

    assert await _ranges(world) == [
        ("succeeded", dues[0], None, 1),
        ("missed", dues[1], dues[3], 3),
        ("missed", dues[4], dues[5], 2),
    ]


async def test_a_missed_row_has_the_reason_of_its_last_due_time(world: World) -> None:
    stored, claim_requests = await _away(world)
    for claim_request in claim_requests[:3]:
        await _missed(world, claim_request)
    (row,) = await world.runs.rows()
    assert row.reason == "late, and the job does not catch up"

    await audit.advance(world.ledger, stored.id, world.clock.now())

    (row,) = await world.runs.rows()
    assert row.reason == "no worker ran it in time, and the job does not catch up"


async def test_retention_keeps_a_range_that_a_claim_extended_beyond_the_watermark(
    world: World,
) -> None:
    stored, claim_requests = await _away(world)
    await audit.advance(world.ledger, stored.id, claim_requests[3].due)
    for claim_request in claim_requests[4:]:
        await _missed(world, claim_request)
    for _ in range(2):
        await world.runs.finished(await world.runs.request(stored), Status.SUCCEEDED)
    async with world.ledger.write() as session:
        for row in (await session.execute(select(RunRow))).scalars():
            row.unmirrored, row.queued_at = False, row.queued_at - timedelta(days=30)

    await retention.prune_runs(world.ledger, stored.id, RetentionLimits(None, 1))
    await audit.advance(world.ledger, stored.id, world.clock.now())

    whole = ("missed", claim_requests[0].due, claim_requests[-1].due, DOWN)
    assert [each for each in await _ranges(world) if each[0] == "missed"] == [whole]


@pytest.mark.parametrize("place", [0, 3, DOWN - 1])
async def test_each_prefect_run_of_a_missed_row_can_be_retried(world: World, place: int) -> None:
    _, claim_requests = await _away(world)
    for claim_request in claim_requests:
        await _missed(world, replace(claim_request, started=False))
    (missed,) = await world.runs.rows()

    retried = replace(claim_requests[place], started=False, retries=(0,))
    answer = await world.runs.claim(retried)

    assert isinstance(answer, Granted)
    row = await world.runs.row(answer.run_id)
    assert (row.occurrence, row.retry_of) == (
        f"flow:{claim_requests[place].flow_run_id}:1",
        missed.id,
    )
    assert (await world.runs.row(missed.id)).count == DOWN
    assert isinstance(
        await world.runs.claim(claim_requests[place - 1]), Finished
    )  # no Retry was requested


async def test_an_end_in_prefect_of_a_missed_due_time_is_ignored(world: World) -> None:
    _, claim_requests = await _away(world)
    for claim_request in claim_requests[:3]:
        await _missed(world, claim_request)

    for state in ("CANCELLED", "FAILED", "CRASHED", "COMPLETED"):
        assert await prefect_ends.apply_end(world.ledger, end(claim_requests[2], state)) is None

    assert len(await world.runs.rows()) == 1


async def test_a_due_time_that_a_claim_recorded_as_missed_is_not_overdue(world: World) -> None:
    _, claim_requests = await _away(world)

    async def overdue_since() -> list[datetime]:
        async with world.ledger.read() as session:
            late = await overdue.find_all(session, overdue.DueTimeCache(), world.clock.now())
            return [each.due for each in late if each.run is None]

    assert await overdue_since() == [claim_requests[0].due]
    for claim_request in claim_requests[:3]:
        await _missed(world, claim_request)
    assert await overdue_since() == [claim_requests[3].due]


# --- the Prefect run of a missed row


async def _marked(ledger: Ledger, before: datetime) -> list[str | None]:
    async with ledger.read() as session:
        return [row.flow_run_id for row in await unmirrored.unmirrored_rows(session, before)]


async def test_a_row_of_the_audit_is_mirrored_once_its_job_has_a_deployment(world: World) -> None:
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


async def test_the_first_prefect_run_that_claims_is_linked_to_the_audits_row(world: World) -> None:
    stored, claim_requests = await _away(world)
    await audit.advance(world.ledger, stored.id, world.clock.now())

    first = await _missed(world, claim_requests[4])
    other = await _missed(world, claim_requests[0])

    assert first.flow_run_id == other.flow_run_id == claim_requests[4].flow_run_id
    assert (first.is_new, other.is_new) == (True, False)
    (row,) = await world.runs.rows()
    assert (row.flow_run_id, row.unmirrored) == (claim_requests[4].flow_run_id, True)
    # A Prefect run that the mirror created at the same time does not replace it.
    is_recorded = await unmirrored.record_flow_run(world.ledger, row.id, "made")
    assert is_recorded is not None
    assert is_recorded.flow_run_id == claim_requests[4].flow_run_id


async def test_a_missed_row_that_grows_while_it_is_mirrored_stays_unmirrored(world: World) -> None:
    _, claim_requests = await _away(world)
    first = await _missed(world, claim_requests[0])
    second = await _missed(world, claim_requests[1])
    assert first.run_id is not None
    assert second.run_id == first.run_id
    assert first.is_new and second.is_new
    assert not (await _missed(world, claim_requests[1])).is_new

    # for the first due time alone
    await unmirrored.clear_mark(world.ledger, first.run_id, Status.MISSED)

    assert await _marked(world.ledger, world.clock.now()) == [claim_requests[0].flow_run_id]


async def test_a_row_of_a_removed_job_is_not_mirrored(world: World) -> None:
    stored, _ = await _away(world)
    await world.jobs.archive(stored.id)

    await audit.advance(world.ledger, stored.id, world.clock.now())

    (row,) = await world.runs.rows()
    assert (row.status, row.count, row.unmirrored) == ("skipped", DOWN, False)


@pytest.mark.parametrize(
    ("status", "reason", "flow_run_id", "extends"),
    [
        (Status.SKIPPED, "snoozed", None, True),
        (Status.SKIPPED, "excluded", None, False),
        (Status.SKIPPED, "snoozed", "a-prefect-run", False),
        (Status.SKIPPED, "excluded", "a-prefect-run", False),
        (Status.MISSED, "another reason", "a-prefect-run", True),
        (Status.MISSED, "restored from a backup of yesterday", "a-prefect-run", False),
    ],
)
async def test_a_skipped_row_grows_only_for_the_same_reason_and_without_a_prefect_run(
    world: World, status: Status, reason: str, flow_run_id: str | None, extends: bool
) -> None:
    stored = await world.jobs.add(cron="* * * * *")
    due = world.runs.claim_request(stored).due
    async with world.ledger.write() as session:
        key = claim_requests.due_key(stored.id, due)
        row = rows.of_job(stored, key, "schedule", due, world.ledger.now())
        row.status, row.reason, row.flow_run_id = status, "snoozed", flow_run_id
        session.add(row)
    async with world.ledger.read() as session:
        found = await missed_ranges.range_before(session, stored, due + MINUTE, status, reason)
    assert (found is not None) is extends
