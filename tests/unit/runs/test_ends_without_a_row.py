"""Ends in Prefect of runs that have no row: a due time, a custom run (`docs/promise.md` 13)."""

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
async def test_a_due_time_that_ended_there_has_its_outcome(
    world: World, state: Type, status: Status, reason: str, error: str | None
) -> None:
    stored = await world.add()
    offer = world.offer(stored)  # lies ahead
    edited = replace(offer, parameters={"prompt": "another"})

    assert await take(world, edited, state) is status

    (row,) = await world.rows()
    assert (row.status, row.reason, row.error) == (status, reason, error)
    assert (row.occurrence, row.due, row.trigger) == (offer.occurrence, offer.due, "schedule")
    assert (row.job_id, row.revision, row.flow_run_id) == (stored.id, 1, offer.flow_run_id)
    assert row.parameters == stored.job.parameters()
    assert row.unmirrored
    assert (await world.job_row(stored.id)).last_status == status
    assert await take(world, edited, state) is None
    world.clock.set(offer.due)
    answer = await world.claim(offer)
    assert isinstance(answer, Finished)
    assert answer.run_id == row.id


async def test_a_one_time_job_whose_run_was_cancelled_ahead_has_fired(world: World) -> None:
    at = (world.clock.now() + timedelta(hours=3)).replace(microsecond=0)
    stored = await world.add(at=at.isoformat())

    assert await take(world, world.offer(stored), "CANCELLED") is Status.CANCELLED

    assert (await world.job_row(stored.id)).disabled_reason == "fired, cancelled"


async def test_a_due_time_that_crashed_there_waits_for_another_run(world: World) -> None:
    stored = await world.add()
    offer = world.offer(stored)
    world.clock.set(offer.due + timedelta(seconds=3))

    assert await take(world, offer, "CRASHED") is Status.WAITING

    (row,) = await world.rows()
    assert (row.status, row.flow_run_id, row.until) == ("waiting", None, world.clock.now())
    assert row.reason == f"its Prefect run ended as Crashed: {SAID}"
    assert await take(world, offer, "CRASHED") is None
    assert isinstance(await world.claim(replace(offer, flow_run_id="f2")), Granted)


async def test_one_that_crashed_before_its_time_is_not_early(world: World) -> None:
    offer = world.offer(await world.add())

    assert await take(world, offer, "CRASHED") is Status.WAITING

    (row,) = await world.rows()
    assert row.until == offer.due
    answer = await world.claim(replace(offer, flow_run_id="f2"))
    assert isinstance(answer, Waiting)
    assert answer.until == offer.due


async def test_one_that_crashed_and_was_found_too_late_is_missed(world: World) -> None:
    offer = world.offer(await world.add())
    world.clock.set(offer.due + timedelta(hours=3))

    assert await take(world, offer, "CRASHED") is Status.MISSED

    (row,) = await world.rows()
    assert row.reason == "3 hours late, and a later due time has passed"


@pytest.mark.parametrize("state", TYPES)
async def test_what_is_not_due_has_no_outcome(world: World, state: Type) -> None:
    stored = await world.add()
    wrong = world.offer(stored).due + timedelta(minutes=1)
    offer = world.offer(stored, due=wrong)

    assert await take(world, offer, state) is None

    off = await world.edit(stored.id, enabled=False)
    world.clock.move(timedelta(seconds=1))
    due = world.offer(stored).due
    assert await take(world, world.offer(off, due=due), state) is None
    assert await world.rows() == []


@pytest.mark.parametrize(
    "changes", [{"offer": None}, {"state": "SKIPPED"}, {"job_id": None}, {"occurrence": "request"}]
)
async def test_of_what_nothing_is_known_no_row_is_made(
    world: World, changes: dict[str, Any]
) -> None:
    stored = await world.add()
    offer = world.offer(stored)
    made = end(offer, "COMPLETED")
    if "job_id" in changes:
        made = replace(made, offer=replace(offer, job_id=None))
    elif "occurrence" in changes:
        key = claim_requests.request_key(stored.id, "pruned")
        made = replace(made, offer=replace(offer, occurrence=key))
    else:
        made = replace(made, **changes)

    assert await prefect_ends.apply_end(world.ledger, made) is None

    assert await world.rows() == []


def _custom(world: World, offer: ClaimRequest, **changes: Any) -> ClaimRequest:
    custom = replace(
        offer,
        occurrence=claim_requests.flow_key(str(offer.flow_run_id)),
        trigger="manual",
        due=world.clock.now(),
        parameters=offer.parameters | {"prompt": "Another"},
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
async def test_a_custom_run_that_ended_there_has_its_outcome(
    world: World, state: Type, status: str
) -> None:
    stored = await world.add()
    offer = _custom(world, world.offer(stored))

    assert await take(world, offer, state) == status

    (row,) = await world.rows()
    assert (row.occurrence, row.trigger, row.job_id) == (offer.occurrence, "manual", stored.id)
    assert row.parameters["prompt"] == "Another"


async def test_a_custom_run_with_parameters_that_do_not_fit_is_not_made_again(world: World) -> None:
    offer = _custom(world, world.offer(await world.add()), refused="prompt: is blank")

    assert await take(world, offer, "CRASHED") is Status.FAILED

    (row,) = await world.rows()
    assert (row.reason, row.error) == ("parameters", "prompt: is blank")


async def test_a_removed_jobs_crashed_run_is_skipped(world: World) -> None:
    stored = await world.add()
    offer = world.offer(stored)
    world.clock.set(offer.due + timedelta(seconds=1))
    await world.archive(stored.id)

    assert await take(world, offer, "CRASHED") is Status.SKIPPED

    (row,) = await world.rows()
    assert row.reason == "the job was removed"
