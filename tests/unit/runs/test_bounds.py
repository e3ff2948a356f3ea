"""Claims of due times that a job's bounds exclude, and of a job whose `max_runs` are used up."""

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


async def test_a_job_with_bounds_runs_exactly_at_the_due_times_shown_before(world: World) -> None:
    """It is Thursday 15 January 2026, noon; Prefect starts a run every hour."""
    bounds: dict[str, Any] = {
        "start": "2026-01-15T14:00",
        "until": "2026-01-17T11:00",
        "exclude": ["2026-01-16"],
        "active_hours": "10:00-18:00",
    }
    stored = await world.jobs.add(cron="0 * * * *", timezone="UTC", **bounds)
    begin = world.clock.now()
    shown = list(between(stored.job.schedule, stored.job.policy, begin, begin + 48 * HOUR))

    for place in range(1, 49):
        claim_request = world.runs.claim_request(
            stored, due=begin.replace(microsecond=0) + place * HOUR
        )
        world.clock.set(claim_request.due)
        answer = await world.runs.claim(claim_request)
        if isinstance(answer, Granted):
            await claims.begin(world.ledger, answer.run_id, answer.fence)
            await world.runs.finish(answer, Status.SUCCEEDED)
        else:
            assert isinstance(answer, Finished)
            assert (answer.status, answer.run_id) == (Status.SKIPPED, None)
            assert answer.reason.startswith("not due: ")

    rows = await world.runs.rows()
    assert [row.due for row in rows] == shown
    assert [f"{row.due:%d %H}" for row in rows] == [
        *("15 14", "15 15", "15 16", "15 17", "17 10", "17 11")
    ]


async def test_a_due_time_edited_in_prefect_is_reconciled_before_its_bounds_exclude_it(
    world: World,
) -> None:
    stored = await world.jobs.add(cron="0 * * * *", timezone="UTC", active_hours="00:00-01:00")
    claim_request = world.runs.claim_request(stored)
    policy = stored.job.policy.model_copy(update={"active_hours": ""}).model_dump(mode="json")
    edited = replace(claim_request, parameters=stored.job.parameters() | {"policy": policy})
    world.clock.set(claim_request.due)

    assert await world.runs.claim(edited) == NeedsReconcile(stored.id)
    answer = await world.runs.claim(replace(edited, compared=True))
    assert isinstance(answer, Finished)
    assert answer.reason == "not due: 13:00 is outside the active hours"


async def test_a_late_run_is_claimed_if_the_bounds_exclude_all_later_due_times(
    world: World,
) -> None:
    """13:00 is the last due time of the day: at 14:30 no later one has passed, and it may run."""
    stored = await world.jobs.add(cron="0 * * * *", timezone="UTC", active_hours="09:00-14:00")
    claim_request = world.runs.claim_request(stored)
    world.clock.set(claim_request.due + 1.5 * HOUR)

    assert isinstance(await world.runs.claim(claim_request), Granted)


async def test_a_job_is_disabled_with_a_reason_after_its_last_allowed_run(world: World) -> None:
    stored = await world.jobs.add(every="10m", max_runs=2)
    for status in (Status.SUCCEEDED, Status.FAILED):
        assert (await world.jobs.get(stored.id)).job.enabled
        await world.runs.finished(stored, status)

    after = await world.jobs.get(stored.id)

    assert (after.job.enabled, after.row.disabled_reason) == (
        False,
        "max runs: the job has used all 2 of its runs",
    )
    more = await world.jobs.edit(stored.id, max_runs=3)
    assert not more.job.enabled  # the service decides whether to enable it again:
    assert store.enable_again(after, more.job).enabled
    assert not store.enable_again(after, after.job).enabled


async def test_active_runs_count_towards_max_runs(world: World) -> None:
    stored = await world.jobs.add(every="10s", session="new", overlap="allow", max_runs=3)
    answers = []
    for _ in range(5):
        claim_request = world.runs.claim_request(stored)
        world.clock.set(claim_request.due)
        answers.append(await world.runs.claim(claim_request))

    assert [type(each) for each in answers] == [Granted] * 3 + [Finished] * 2
    answer = answers[-1]
    assert isinstance(answer, Finished)
    assert answer.reason == "max runs: 3 are done or running"
    assert [row.status for row in await world.runs.rows()] == ["claimed"] * 3 + ["skipped"] * 2


async def test_a_queued_run_is_skipped_after_the_last_allowed_run(world: World) -> None:
    stored = await world.jobs.add(every="10s", session="new", overlap="queue_all", max_runs=2)
    running = await world.runs.running(stored)
    queued = []
    for _ in range(2):
        queued.append(world.runs.claim_request(stored))
        world.clock.set(queued[-1].due)
        answer = await world.runs.claim(queued[-1])
    assert isinstance(answer, Waiting)
    await world.runs.finish(running, Status.SUCCEEDED)
    await world.runs.finished(queued[0], Status.SUCCEEDED)

    given_answer = await world.runs.claim(queued[1])

    assert isinstance(given_answer, Finished)
    assert (
        given_answer.reason == "the job is disabled: max runs: the job has used all 2 of its runs"
    )


async def test_a_manual_run_is_claimed_after_max_runs_is_used_up(world: World) -> None:
    stored = await world.jobs.add(every="10m", max_runs=1)
    await world.runs.finished(stored, Status.SUCCEEDED)
    row = await claims.request(world.ledger, stored, "1", "manual")

    await world.runs.finished(row, Status.SUCCEEDED)

    assert (await world.jobs.row(stored.id)).run_count == 2
