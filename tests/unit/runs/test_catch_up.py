"""Requirement 21: outcomes of due times that passed while no worker was running."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from daybook.ledger.states import Outcome, Status
from daybook.runs import audit, claims
from daybook.runs.claim_requests import ClaimRequest, Finished, Granted, Waiting
from daybook.runs.prefect_ends import EndInPrefect, apply_end
from tests.world import World

pytestmark = pytest.mark.anyio

HOUR = timedelta(hours=1)
DOWN = timedelta(hours=4, minutes=10)


async def _away(world: World, down: timedelta = DOWN, **fields: Any) -> list[ClaimRequest]:
    """Return the requests of an hourly job, oldest first, after ``down`` without a worker."""
    stored = await world.jobs.add(cron="0 * * * *", **fields)
    first = world.runs.claim_request(stored)
    back = world.clock.now() + down
    count = (back - first.due) // HOUR + 1
    claim_requests = [
        world.runs.claim_request(stored, due=first.due + place * HOUR) for place in range(count)
    ]
    world.clock.set(back)
    return claim_requests


async def _seen_through(world: World, claim_requests: list[ClaimRequest]) -> None:
    """Claim all of them repeatedly, and run each claimed one, until none is left."""
    left = list(claim_requests)
    while left:
        for claim_request in list(left):
            answer = await world.runs.claim(claim_request)
            if isinstance(answer, Granted):
                # Meanwhile the other due times are claimed too.
                for other in left:
                    if other is not claim_request:
                        assert not isinstance(await world.runs.claim(other), Granted)
                await world.runs.finish(await _begin(world, answer), Status.SUCCEEDED)
            if not isinstance(answer, Waiting):
                left.remove(claim_request)


async def _begin(world: World, granted: Granted) -> Granted:
    await claims.begin(world.ledger, granted.run_id, granted.fence)
    world.clock.move(timedelta(seconds=1))
    return granted


@pytest.mark.parametrize(
    ("catch_up", "became"),
    [
        ("none", ["missed"] * 4),
        ("latest", ["missed"] * 3 + ["succeeded"]),
        ("all", ["succeeded"] * 4),
    ],
)
async def test_due_times_of_four_hours_without_a_worker_follow_the_catch_up_policy(
    world: World, catch_up: str, became: list[str]
) -> None:
    await _seen_through(world, await _away(world, catch_up=catch_up))

    rows = await world.runs.rows()
    assert [row.status for row in rows for _ in range(row.count)] == became
    assert [row.status for row in rows].count("missed") == ("missed" in became)  # one row
    assert [row.trigger for row in rows if row.status == "succeeded"] == ["catch_up"] * (
        became.count("succeeded")
    )
    started = [row.started_at for row in rows if row.started_at is not None]
    assert started == sorted(started)  # oldest first
    assert all("late" in row.reason for row in rows if row.status == "missed")


@pytest.mark.parametrize("overlap", ["skip", "queue_one", "cancel_running", "allow"])
async def test_catch_up_all_runs_one_at_a_time_with_every_overlap_policy(
    world: World, overlap: str
) -> None:
    claim_requests = await _away(world, catch_up="all", overlap=overlap)

    answers = [await world.runs.claim(each) for each in claim_requests]

    assert [type(each) for each in answers] == [Granted, Waiting, Waiting, Waiting]
    assert not any(each.cancel for each in answers if isinstance(each, Waiting))
    assert [row.waits_for for row in await world.runs.rows()] == ["", *["overlap"] * 3]


@pytest.mark.slow
async def test_catch_up_all_covers_only_the_last_24_hours(world: World) -> None:
    claim_requests = await _away(world, timedelta(hours=26), catch_up="all")

    await _seen_through(world, claim_requests)

    became = [(row.status, row.count) for row in await world.runs.rows()]
    assert became == [("missed", 2)] + [("succeeded", 1)] * 24


async def test_a_waiting_catch_up_run_never_becomes_late(world: World) -> None:
    first, second, *_ = await _away(world, catch_up="all")
    running = await world.runs.running(first)
    assert isinstance(await world.runs.claim(second), Waiting)
    world.clock.move(timedelta(days=3))
    # The holder is alive: its outcome arrives.
    await world.runs.finish(running, Status.SUCCEEDED)

    assert isinstance(await world.runs.claim(second), Granted)


@pytest.mark.parametrize("catch_up", ["none", "latest", "all"])
async def test_a_due_time_claimed_a_minute_late_is_on_time(world: World, catch_up: str) -> None:
    stored = await world.jobs.add(cron="0 * * * *", catch_up=catch_up)
    claim_request = world.runs.claim_request(stored)
    world.clock.set(claim_request.due + timedelta(seconds=60))

    answer = await world.runs.claim(claim_request)

    assert isinstance(answer, Granted)
    assert answer.trigger == "schedule"


async def test_a_late_one_time_job_without_catch_up_is_missed_and_disabled(world: World) -> None:
    at = world.clock.now().replace(microsecond=0) + HOUR
    stored = await world.jobs.add(at=at.isoformat(), catch_up="none")
    world.clock.set(at + timedelta(seconds=61))

    answer = await world.runs.claim(world.runs.claim_request(stored, due=at))

    assert isinstance(answer, Finished)
    assert answer.status is Status.MISSED
    assert (await world.jobs.row(stored.id)).disabled_reason == "fired, missed"


@pytest.mark.parametrize(
    ("catch_up", "status"), [("none", "missed"), ("latest", "waiting"), ("all", "waiting")]
)
async def test_a_due_time_that_crashed_before_its_claim_follows_the_catch_up_policy(
    world: World, catch_up: str, status: str
) -> None:
    claim_request = world.runs.claim_request(
        await world.jobs.add(cron="0 * * * *", catch_up=catch_up)
    )
    world.clock.set(claim_request.due + timedelta(minutes=20))

    await apply_end(
        world.ledger,
        EndInPrefect(str(claim_request.flow_run_id), "CRASHED", "Crashed", "", claim_request),
    )

    assert [row.status for row in await world.runs.rows()] == [status]


async def test_a_catch_up_run_between_two_attempts_is_not_skipped_for_a_later_due_time(
    world: World,
) -> None:
    stored = await world.jobs.add(every="10m", catch_up="latest", retries=3)
    claim_request = world.runs.claim_request(stored)
    world.clock.set(claim_request.due + timedelta(minutes=2))
    await audit.advance(world.ledger, stored.id, world.clock.now())
    granted = await world.runs.running(claim_request)
    assert granted.trigger == "catch_up"
    failed, again = Outcome(Status.FAILED, error="busy"), world.at(minutes=30)
    await claims.retry(world.ledger, granted.run_id, granted.fence, failed, again)

    world.passes(minutes=10)
    await audit.advance(world.ledger, stored.id, world.clock.now())

    assert (await world.runs.row(granted.run_id)).status == "waiting"
