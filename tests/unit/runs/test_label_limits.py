"""The operator's limits on the runs of jobs with a label that are in progress at once."""

from __future__ import annotations

from datetime import timedelta

import pytest

from daybook.ledger.states import Outcome, Status
from daybook.runs import claim_requests, claims, leases, slots
from daybook.runs.claim_requests import ClaimRequest, Granted, Waiting
from tests.world import World

pytestmark = pytest.mark.anyio

LIMITS = {"gpu": 1}


async def _requests(world: World, *labels: str, most: int = 9) -> list[ClaimRequest]:
    """Return a request for a due time of a job of each label; the due times rise by a second."""
    jobs = [
        await world.jobs.add(f"job-{number}", every="1h", worker_label=label)
        for number, label in enumerate(labels)
    ]
    due = world.clock.now().replace(microsecond=0) - timedelta(seconds=len(jobs))
    return [
        world.runs.claim_request(
            job,
            occurrence=claim_requests.flow_key(job.row.name),
            trigger="manual",
            due=due + timedelta(seconds=number),
            max_per_label=LIMITS,
            most=most,
        )
        for number, job in enumerate(jobs)
    ]


async def _waits(world: World, request: ClaimRequest) -> Waiting:
    answer = await world.runs.claim(request)
    assert isinstance(answer, Waiting)
    return answer


async def test_a_full_label_makes_its_own_runs_wait_and_no_others(world: World) -> None:
    first, second, other, plain = await _requests(world, "gpu", "gpu", "big", "")
    await world.runs.running(first)
    answer = await _waits(world, second)
    assert answer.why == "1 of 1 runs with the label gpu are active"
    row = await world.runs.row(str(answer.run_id))
    assert (row.waits_for, row.reason) == ("label", answer.why)
    assert isinstance(await world.runs.claim(other), Granted)
    assert isinstance(await world.runs.claim(plain), Granted)


async def test_the_end_of_a_run_wakes_the_earliest_run_with_its_label(world: World) -> None:
    first, second, third, late = await _requests(world, "gpu", "gpu", "gpu", "gpu")
    held = await world.runs.running(first)
    answers = [await _waits(world, each) for each in (second, third)]
    delays = [(each.until - world.ledger.now()).total_seconds() for each in answers]
    assert delays == [30, 60]  # seldom, because the end of the run wakes them
    await world.runs.finish(held, Status.FAILED)

    async with world.ledger.write() as session:
        (woken,) = await slots.wake_next(session, world.ledger.now(), 9, {})
    assert woken.id == answers[0].run_id
    assert (await _waits(world, late)).why == (
        "0 of 1 runs with the label gpu are active, and 1 due earlier are waiting"
    )
    assert isinstance(await world.runs.claim(second), Granted)


async def test_a_run_that_does_not_claim_keeps_no_other_from_its_label(world: World) -> None:
    first, lost, late = await _requests(world, "gpu", "gpu", "gpu")
    held = await world.runs.running(first)
    for each in (lost, late):
        await _waits(world, each)
    await world.runs.finish(held, Status.SUCCEEDED)
    world.clock.move(timedelta(seconds=61))
    assert isinstance(await world.runs.claim(late), Granted)


async def test_a_lost_worker_loses_no_slot_of_its_label(world: World) -> None:
    first, second = await _requests(world, "gpu", "gpu")
    held = await world.runs.running(first)
    await _waits(world, second)
    await world.runs.lose()
    await leases.expire_all(world.ledger)
    assert (await world.runs.row(held.run_id)).state is Status.UNKNOWN
    assert isinstance(await world.runs.claim(second), Granted)


async def test_a_woken_run_waits_for_a_slot_of_the_fleet(world: World) -> None:
    first, plain, second = await _requests(world, "gpu", "", "gpu", most=2)
    held = await world.runs.running(first)
    await _waits(world, second)
    await world.runs.running(plain)
    job = await world.jobs.add("extra", every="1h")
    extra = world.runs.claim_request(
        job, occurrence="flow:x", trigger="manual", due=world.clock.now(), most=2
    )
    await world.runs.finish(held, Status.SUCCEEDED)
    assert "due earlier are waiting" in (await _waits(world, extra)).why
    assert isinstance(await world.runs.claim(second), Granted)
    assert (await _waits(world, extra)).why == "2 of 2 runs are active"


async def test_only_a_run_with_a_place_leaves_it_to_the_next_one(world: World) -> None:
    first, *others = await _requests(world, *["gpu"] * 4)
    held = await world.runs.running(first)
    second, third, fourth = [str((await _waits(world, each)).run_id) for each in others]

    async def reasons() -> list[str]:
        return [(await world.runs.row(each)).waits_for for each in (second, third)]

    await claims.cancel(world.ledger, fourth)
    assert await reasons() == ["label", "label"]
    await world.runs.finish(held, Status.SUCCEEDED)
    assert await reasons() == ["slot", "label"]
    await claims.cancel(world.ledger, second)
    assert (await world.runs.row(third)).waits_for == "slot"


async def test_a_run_that_waits_for_its_retry_leaves_its_place(world: World) -> None:
    first, second = await _requests(world, "gpu", "gpu")
    held = await world.runs.running(first)
    waiting = str((await _waits(world, second)).run_id)
    failed = Outcome(Status.FAILED, error="boom")
    until = world.clock.now() + timedelta(minutes=5)
    await claims.retry(world.ledger, held.run_id, held.fence, failed, until)
    assert (await world.runs.row(waiting)).waits_for == "slot"
    assert isinstance(await world.runs.claim(second), Granted)


async def test_a_claim_that_is_lost_leaves_its_place(world: World) -> None:
    first, second = await _requests(world, "gpu", "gpu")
    assert isinstance(await world.runs.claim(first), Granted)
    waiting = str((await _waits(world, second)).run_id)
    await world.runs.lose()
    await leases.expire_all(world.ledger)
    assert (await world.runs.row(waiting)).waits_for == "slot"
