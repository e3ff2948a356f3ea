"""A Prefect run that starts again: a Retry, or only a restart (`docs/promise.md`, "Words")."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import delete
from sqlmodel import col, select

from daybook.ledger.states import Status
from daybook.ledger.tables import AttemptRow, RunRow
from daybook.runs import claim_requests, claims
from daybook.runs.claim_requests import Finished, Granted, HeldElsewhere, Waiting
from daybook.timing import TIMING
from tests.world import World

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "status", [Status.SUCCEEDED, Status.FAILED, Status.TIMED_OUT, Status.CANCELLED, Status.UNKNOWN]
)
async def test_a_retry_is_a_run_of_its_own(world: World, status: Status) -> None:
    stored = await world.jobs.add()
    claim_request = world.runs.claim_request(stored, flow_run_id="f")
    first = await world.runs.finished(claim_request, status)
    world.clock.move(timedelta(seconds=5))

    again = await world.runs.claim(replace(claim_request, flow_starts=2, retries=(1,)))

    assert isinstance(again, Granted)
    assert (again.occurrence, again.trigger) == ("flow:f:1", "retry")
    assert again.due == world.clock.now()
    row = await world.runs.row(again.run_id)
    assert (row.retry_of, row.job_id, row.fence) == (first.run_id, stored.id, 1)
    assert again.parameters == first.parameters
    assert (await world.runs.row(first.run_id)).status == status


async def test_retries_are_counted_and_chained(world: World) -> None:
    claim_request = world.runs.claim_request(await world.jobs.add(), flow_run_id="f")
    last = await world.runs.finished(claim_request, Status.FAILED)
    for start in (2, 3, 4):
        again = replace(claim_request, flow_starts=start, retries=tuple(range(1, start)))
        world.clock.move(-timedelta(seconds=1))  # a clock that goes back does not matter
        granted = await world.runs.claim(again)
        assert isinstance(granted, Granted)
        assert granted.occurrence == f"flow:f:{start - 1}"
        assert (await world.runs.row(granted.run_id)).retry_of == last.run_id
        await claims.begin(world.ledger, granted.run_id, granted.fence)
        await world.runs.finish(granted, Status.FAILED)
        last = granted

    same_start = await world.runs.claim(replace(claim_request, flow_starts=4, retries=(1, 2, 3)))
    assert isinstance(same_start, Finished)
    assert same_start.run_id == last.run_id


async def test_a_run_can_be_retried_after_its_first_retry_was_pruned(world: World) -> None:
    claim_request = world.runs.claim_request(await world.jobs.add(), flow_run_id="f")
    await world.runs.finished(claim_request, Status.FAILED)
    for start in (2, 3):
        again = replace(claim_request, flow_starts=start, retries=tuple(range(1, start)))
        await world.runs.finished(again, Status.FAILED)
    async with world.ledger.write() as session:
        first = select(RunRow.id).where(col(RunRow.occurrence) == "flow:f:1")
        run_id = (await session.execute(first)).scalar_one()
        await session.execute(delete(AttemptRow).where(col(AttemptRow.run_id) == run_id))
        await session.execute(delete(RunRow).where(col(RunRow.id) == run_id))

    answer = await world.runs.claim(replace(claim_request, flow_starts=4, retries=(1, 2, 3)))

    assert isinstance(answer, Granted)
    assert answer.occurrence == "flow:f:3"


async def test_a_skipped_run_can_be_retried(world: World) -> None:
    stored = await world.jobs.add(every="10m")
    running = await world.runs.running(stored)
    row = await claims.request(world.ledger, stored, "1", "manual")
    claim_request = world.runs.claim_request(row)
    assert isinstance(await world.runs.claim(claim_request), Finished)
    await world.runs.finish(running, Status.SUCCEEDED)

    again = await world.runs.claim(replace(claim_request, flow_starts=2, retries=(1,)))

    assert isinstance(again, Granted)
    assert (await world.runs.row(again.run_id)).retry_of == row.id


async def test_a_retry_that_overlaps_is_skipped_like_any_run(world: World) -> None:
    stored = await world.jobs.add(every="10m")
    claim_request = world.runs.claim_request(stored, flow_run_id="f")
    await world.runs.finished(claim_request, Status.FAILED)
    await world.runs.running(stored)

    again = await world.runs.claim(replace(claim_request, flow_starts=2, retries=(1,)))

    assert isinstance(again, Finished)
    assert again.status is Status.SKIPPED
    assert again.reason.startswith("overlap")


async def test_two_workers_that_claim_one_retry_create_one_run(world: World) -> None:
    stored = await world.jobs.add(every="10m")
    claim_request = world.runs.claim_request(stored, flow_run_id="f")
    await world.runs.finished(claim_request, Status.FAILED)
    running = await world.runs.running(stored)
    again = replace(claim_request, flow_starts=2, retries=(1,), started=False)

    first = await world.runs.claim(again)
    assert isinstance(first, Finished)  # it overlaps
    await world.runs.finish(running, Status.SUCCEEDED)
    second = await world.runs.claim(replace(again, holder="there:2"))

    assert isinstance(second, Finished)
    assert (second.status, second.run_id) == (Status.SKIPPED, first.run_id)
    once_more = await world.runs.claim(replace(again, retries=(1, 1)))
    assert isinstance(once_more, Granted)
    assert once_more.occurrence == "flow:f:2"


async def test_a_restart_without_a_retry_repeats_nothing(world: World) -> None:
    # For example SIGTERM with Prefect's behaviour "reschedule", a restarted pod, a run set back.
    claim_request = world.runs.claim_request(await world.jobs.add(), flow_run_id="f")
    first = await world.runs.finished(claim_request, Status.UNKNOWN, reason="stopped")

    again = await world.runs.claim(replace(claim_request, flow_starts=2))

    assert again == Finished(Status.UNKNOWN, "stopped", first.run_id, "f")


async def test_an_earlier_retry_does_not_turn_a_later_restart_into_a_retry(world: World) -> None:
    claim_request = world.runs.claim_request(await world.jobs.add(), flow_run_id="f")
    await world.runs.finished(claim_request, Status.FAILED)
    retried = await world.runs.finished(
        replace(claim_request, flow_starts=2, retries=(1,)), Status.UNKNOWN
    )

    third = await world.runs.claim(replace(claim_request, flow_starts=3, retries=(1,)))

    assert isinstance(third, Finished)
    assert (third.status, third.run_id) == (Status.UNKNOWN, retried.run_id)


@pytest.mark.parametrize("started", [False, True])
async def test_a_retry_waits_until_the_holder_of_the_run_is_declared_lost(
    world: World, started: bool
) -> None:
    claim_request = world.runs.claim_request(await world.jobs.add(), flow_run_id="f")
    await (world.runs.running(claim_request) if started else world.runs.claimed(claim_request))
    lease_end = world.clock.now() + TIMING.run_lease
    world.clock.move(timedelta(seconds=5))
    again = replace(claim_request, flow_starts=2, retries=(1,), holder="there:2")

    assert await world.runs.claim(again) == Waiting(lease_end, "here:1 may still be running")
    world.clock.set(lease_end)
    until = lease_end + TIMING.run_lease
    assert await world.runs.claim(again) == Waiting(until, "here:1 may still be running")
    world.clock.set(until - timedelta(microseconds=1))
    assert isinstance(await world.runs.claim(again), Waiting)
    world.clock.set(until)
    answer = await world.runs.claim(again)

    assert isinstance(answer, Granted)
    rows = [(row.occurrence, row.status, row.fence) for row in await world.runs.rows()]
    if started:
        assert rows == [(claim_request.occurrence, "unknown", 1), ("flow:f:1", "claimed", 1)]
    else:
        assert rows == [(claim_request.occurrence, "claimed", 3)]


async def test_a_second_claim_of_the_same_start_names_the_holder(world: World) -> None:
    claim_request = world.runs.claim_request(await world.jobs.add(), flow_run_id="f")
    granted = await world.runs.claimed(claim_request)

    assert await world.runs.claim(claim_request) == HeldElsewhere(granted.run_id, "here:1", "f")


async def test_a_claim_with_another_key_finds_the_live_row_of_its_prefect_run(world: World) -> None:
    # The row waits; the same Prefect run claims it again with another key.
    stored = await world.jobs.add()
    claim_request = world.runs.claim_request(stored, flow_run_id="f")
    granted = await world.runs.claimed(claim_request)
    until = world.clock.now() + TIMING.run_lease
    await claims.postpone(world.ledger, granted.run_id, granted.fence, until, "busy")
    again = replace(
        claim_request, occurrence=claim_requests.flow_key("f"), trigger="manual", flow_starts=2
    )

    waiting = Waiting(until, "busy", granted.run_id, fence=granted.fence + 1)
    assert await world.runs.claim(again) == waiting
    world.clock.set(until)
    answer = await world.runs.claim(again)

    assert isinstance(answer, Granted)
    assert (answer.run_id, answer.trigger, answer.fence) == (granted.run_id, "schedule", 3)
