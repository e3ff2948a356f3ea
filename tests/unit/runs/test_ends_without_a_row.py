"""Ends in Prefect of runs without a row: due times and custom runs (`docs/promise.md` 13)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from daybook.ledger.states import Status
from daybook.runs import claim_requests, prefect_ends
from daybook.runs.claim_requests import ClaimRequest, Finished, Granted, Waiting
from tests.unit.runs.ending import BY_HAND, SAID, TYPES, Type, end, take
from tests.world import World

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("state", "status", "reason", "error"),
    [
        ("CANCELLED", Status.CANCELLED, "cancelled in Prefect", None),
        ("FAILED", Status.FAILED, "", SAID),
        ("COMPLETED", Status.SKIPPED, BY_HAND, None),
    ],
)
async def test_a_due_time_ended_in_prefect_before_its_claim_gets_that_outcome(
    world: World, state: Type, status: Status, reason: str, error: str | None
) -> None:
    stored = await world.jobs.add()
    claim_request = world.runs.claim_request(stored)  # it is in the future
    edited = replace(claim_request, parameters={"prompt": "another"})

    assert await take(world, edited, state) is status

    (row,) = await world.runs.rows()
    assert (row.status, row.reason, row.error) == (status, reason, error)
    assert (row.occurrence, row.due, row.trigger) == (
        claim_request.occurrence,
        claim_request.due,
        "schedule",
    )
    assert (row.job_id, row.revision, row.flow_run_id) == (stored.id, 1, claim_request.flow_run_id)
    assert row.parameters == stored.job.parameters()
    assert row.unmirrored
    assert (await world.jobs.row(stored.id)).last_status == status
    assert await take(world, edited, state) is None
    world.clock.set(claim_request.due)
    answer = await world.runs.claim(claim_request)
    assert isinstance(answer, Finished)
    assert answer.run_id == row.id


async def test_a_one_time_job_whose_future_run_is_cancelled_in_prefect_has_fired(
    world: World,
) -> None:
    at = (world.clock.now() + timedelta(hours=3)).replace(microsecond=0)
    stored = await world.jobs.add(at=at.isoformat())

    assert await take(world, world.runs.claim_request(stored), "CANCELLED") is Status.CANCELLED

    assert (await world.jobs.row(stored.id)).disabled_reason == "fired, cancelled"


async def test_a_due_time_that_crashed_in_prefect_waits_for_another_prefect_run(
    world: World,
) -> None:
    stored = await world.jobs.add()
    claim_request = world.runs.claim_request(stored)
    world.clock.set(claim_request.due + timedelta(seconds=3))

    assert await take(world, claim_request, "CRASHED") is Status.WAITING

    (row,) = await world.runs.rows()
    assert (row.status, row.flow_run_id, row.until) == ("waiting", None, world.clock.now())
    assert row.reason == f"its Prefect run ended as Crashed: {SAID}"
    assert await take(world, claim_request, "CRASHED") is None
    assert isinstance(await world.runs.claim(replace(claim_request, flow_run_id="f2")), Granted)


async def test_a_due_time_that_crashed_early_in_prefect_waits_until_it_is_due(world: World) -> None:
    claim_request = world.runs.claim_request(await world.jobs.add())

    assert await take(world, claim_request, "CRASHED") is Status.WAITING

    (row,) = await world.runs.rows()
    assert row.until == claim_request.due
    answer = await world.runs.claim(replace(claim_request, flow_run_id="f2"))
    assert isinstance(answer, Waiting)
    assert answer.until == claim_request.due


async def test_a_due_time_whose_crash_in_prefect_is_found_too_late_is_missed(world: World) -> None:
    claim_request = world.runs.claim_request(await world.jobs.add())
    world.clock.set(claim_request.due + timedelta(hours=3))

    assert await take(world, claim_request, "CRASHED") is Status.MISSED

    (row,) = await world.runs.rows()
    late = "3 hours late, and a later due time has passed"
    assert row.reason == f"{late}; its Prefect run ended as Crashed: it broke"


@pytest.mark.parametrize("state", TYPES)
async def test_an_end_in_prefect_of_an_instant_that_is_not_due_creates_no_row(
    world: World, state: Type
) -> None:
    stored = await world.jobs.add()
    wrong = world.runs.claim_request(stored).due + timedelta(minutes=1)
    claim_request = world.runs.claim_request(stored, due=wrong)

    assert await take(world, claim_request, state) is None

    off = await world.jobs.edit(stored.id, enabled=False)
    world.clock.move(timedelta(seconds=1))
    due = world.runs.claim_request(stored).due
    assert await take(world, world.runs.claim_request(off, due=due), state) is None
    assert await world.runs.rows() == []


@pytest.mark.parametrize(
    "changes",
    [{"request": None}, {"state": "SKIPPED"}, {"job_id": None}, {"occurrence": "request"}],
)
async def test_an_end_in_prefect_that_belongs_to_no_occurrence_creates_no_row(
    world: World, changes: dict[str, Any]
) -> None:
    stored = await world.jobs.add()
    claim_request = world.runs.claim_request(stored)
    made = end(claim_request, "COMPLETED")
    if "job_id" in changes:
        made = replace(made, request=replace(claim_request, job_id=None))
    elif "occurrence" in changes:
        key = claim_requests.request_key(stored.id, "pruned")
        made = replace(made, request=replace(claim_request, occurrence=key))
    else:
        made = replace(made, **changes)

    assert await prefect_ends.apply_end(world.ledger, made) is None

    assert await world.runs.rows() == []


def _custom(world: World, claim_request: ClaimRequest, **changes: Any) -> ClaimRequest:
    custom = replace(
        claim_request,
        occurrence=claim_requests.flow_key(str(claim_request.flow_run_id)),
        trigger="manual",
        due=world.clock.now(),
        parameters=claim_request.parameters | {"prompt": "Another"},
    )
    return replace(custom, **changes)


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("CANCELLED", "cancelled"),
        ("COMPLETED", "skipped"),
        ("FAILED", "failed"),
        ("CRASHED", "waiting"),
    ],
)
async def test_a_custom_run_ended_in_prefect_before_its_claim_gets_an_outcome(
    world: World, state: Type, status: str
) -> None:
    stored = await world.jobs.add()
    claim_request = _custom(world, world.runs.claim_request(stored))

    assert await take(world, claim_request, state) == status

    (row,) = await world.runs.rows()
    assert (row.occurrence, row.trigger, row.job_id) == (
        claim_request.occurrence,
        "manual",
        stored.id,
    )
    assert row.parameters["prompt"] == "Another"


async def test_a_crashed_custom_run_with_invalid_parameters_fails(world: World) -> None:
    claim_request = _custom(
        world, world.runs.claim_request(await world.jobs.add()), refused="prompt: is blank"
    )

    assert await take(world, claim_request, "CRASHED") is Status.FAILED

    (row,) = await world.runs.rows()
    assert (row.reason, row.error) == ("parameters", "prompt: is blank")


async def test_a_due_time_of_a_removed_job_that_crashed_in_prefect_is_skipped(world: World) -> None:
    stored = await world.jobs.add()
    claim_request = world.runs.claim_request(stored)
    world.clock.set(claim_request.due + timedelta(seconds=1))
    await world.jobs.archive(stored.id)

    assert await take(world, claim_request, "CRASHED") is Status.SKIPPED

    (row,) = await world.runs.rows()
    assert row.reason == "the job was removed"
