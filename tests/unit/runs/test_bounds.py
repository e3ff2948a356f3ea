"""What the book holds of due times that a job's bounds leave out, and of its last run."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from daybook.jobs import store
from daybook.jobs.upcoming import between
from daybook.ledger.states import Status
from daybook.runs import claims
from daybook.runs.claim_requests import Finished, Granted, NeedsReconcile, Waiting
from tests.world import World

pytestmark = pytest.mark.anyio

HOUR = timedelta(hours=1)


async def test_two_days_of_an_hourly_job_hold_what_next_had_shown(world: World) -> None:
    """It is Thursday 15 January 2026, noon; Prefect offers every hour."""
    bounds: dict[str, Any] = {
        "start": "2026-01-15T14:00",
        "until": "2026-01-17T11:00",
        "exclude": ["2026-01-16"],
        "active_hours": "10:00-18:00",
    }
    stored = await world.add(cron="0 * * * *", timezone="UTC", **bounds)
    begin = world.clock.now()
    shown = list(between(stored.job.schedule, stored.job.policy, begin, begin + 48 * HOUR))

    for place in range(1, 49):
        offer = world.offer(stored, due=begin.replace(microsecond=0) + place * HOUR)
        world.clock.set(offer.due)
        answer = await world.claim(offer)
        if isinstance(answer, Granted):
            await claims.begin(world.ledger, answer.run_id, answer.fence)
            await world.settle(answer, Status.SUCCEEDED)
        else:
            assert isinstance(answer, Finished)
            assert (answer.status, answer.run_id) == (Status.SKIPPED, None)
            assert answer.reason.startswith("not due: ")

    rows = await world.rows()
    assert [row.due for row in rows] == shown
    assert [f"{row.due:%d %H}" for row in rows] == [
        *("15 14", "15 15", "15 16", "15 17", "17 10", "17 11")
    ]


async def test_what_was_edited_in_prefect_is_looked_at_before_it_is_left_out(world: World) -> None:
    stored = await world.add(cron="0 * * * *", timezone="UTC", active_hours="00:00-01:00")
    offer = world.offer(stored)
    policy = stored.job.policy.model_copy(update={"active_hours": ""}).model_dump(mode="json")
    edited = replace(offer, parameters=stored.job.parameters() | {"policy": policy})
    world.clock.set(offer.due)

    assert await world.claim(edited) == NeedsReconcile(stored.id)
    answer = await world.claim(replace(edited, compared=True))
    assert isinstance(answer, Finished)
    assert answer.reason == "not due: 13:00 is outside the active hours"


async def test_a_late_one_is_the_latest_where_those_after_it_are_left_out(world: World) -> None:
    """13:00 is the last of the day: at 14:30 no later one has passed, and it is in its window."""
    stored = await world.add(cron="0 * * * *", timezone="UTC", active_hours="09:00-14:00")
    offer = world.offer(stored)
    world.clock.set(offer.due + 1.5 * HOUR)

    assert isinstance(await world.claim(offer), Granted)


async def test_after_its_last_run_a_job_is_off_and_says_why(world: World) -> None:
    stored = await world.add(every="10m", max_runs=2)
    for status in (Status.SUCCEEDED, Status.FAILED):
        assert (await world.job(stored.id)).job.enabled
        await world.settled(world.offer(stored), status)

    after = await world.job(stored.id)

    assert (after.job.enabled, after.row.disabled_reason) == (
        False,
        "max runs: the job has used all 2 of its runs",
    )
    more = await world.edit(stored.id, max_runs=3)
    assert not more.job.enabled  # that is the service's to decide:
    assert store.enable_again(after, more.job).enabled
    assert not store.enable_again(after, after.job).enabled


async def test_at_once_no_more_than_its_runs_are_at_work(world: World) -> None:
    stored = await world.add(every="10s", session="new", overlap="allow", max_runs=3)
    answers = []
    for _ in range(5):
        offer = world.offer(stored)
        world.clock.set(offer.due)
        answers.append(await world.claim(offer))

    assert [type(each) for each in answers] == [Granted] * 3 + [Finished] * 2
    told = answers[-1]
    assert isinstance(told, Finished)
    assert told.reason == "max runs: 3 are done or running"
    assert [row.status for row in await world.rows()] == ["claimed"] * 3 + ["skipped"] * 2


async def test_one_that_queued_is_skipped_when_the_last_run_was_had(world: World) -> None:
    stored = await world.add(every="10s", session="new", overlap="queue_all", max_runs=2)
    running = await world.begun(world.offer(stored))
    queued = []
    for _ in range(2):
        queued.append(world.offer(stored))
        world.clock.set(queued[-1].due)
        answer = await world.claim(queued[-1])
    assert isinstance(answer, Waiting)
    await world.settle(running, Status.SUCCEEDED)
    await world.settled(queued[0], Status.SUCCEEDED)

    told = await world.claim(queued[1])

    assert isinstance(told, Finished)
    assert told.reason == "the job is off: max runs: the job has used all 2 of its runs"


async def test_by_hand_a_job_runs_that_has_had_its_runs(world: World) -> None:
    stored = await world.add(every="10m", max_runs=1)
    await world.settled(world.offer(stored), Status.SUCCEEDED)
    row = await claims.request(world.ledger, stored, "1", "manual")

    await world.settled(world.offer_of(row), Status.SUCCEEDED)

    assert (await world.job_row(stored.id)).run_count == 2
