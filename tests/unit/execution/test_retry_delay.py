"""The time of the next attempt, if the called service asks to wait."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from daybook.execution import retry_delay
from daybook.execution.retry_delay import RequestedDelay
from daybook.ledger.states import Outcome, Status
from daybook.policies.policy import policy_from_parameters
from daybook.runs import claims
from daybook.runs.claim_requests import Finished
from tests.world import World

pytestmark = pytest.mark.anyio

HOUR = 3_600.0


async def test_a_requested_delay_ends_before_the_next_due_time_the_deadline_and_an_hour(
    world: World,
) -> None:
    rows: list[tuple[dict[str, Any], float | None, float | None, str]] = [
        # the job, Retry-After, the delay in seconds (None: no further attempt), the limit
        ({"every": "10m"}, None, 30, ""),
        ({"every": "10m"}, 0, 30, ""),
        ({"every": "10m"}, -5, 30, ""),
        ({"every": "10m"}, 29.5, 30, ""),
        ({"every": "10m"}, 33.5, 33.5, ""),
        ({"every": "10m"}, 600, 600, ""),
        ({"every": "10m"}, 601, None, "after the next due time of the job"),
        ({"every": "1d"}, HOUR, HOUR, ""),
        ({"every": "1d"}, HOUR + 1, None, "more than 1h"),
        ({"every": "1d"}, float("inf"), None, "more than 1h"),
        ({"every": "1d", "deadline": "20m"}, 1_200, 1_200, ""),
        ({"every": "1d", "deadline": "20m"}, 1_201, None, "after the deadline of the run"),
    ]
    for number, (job, retry_after, seconds, limit) in enumerate(rows):
        stored = await world.jobs.add(f"job-{number}", retries=3, retry_delay="30s", **job)
        granted = await world.runs.running(stored)
        policy = policy_from_parameters(granted.parameters)
        asked = RequestedDelay.of("the provider", retry_after)
        now = granted.queued_at
        decided = retry_delay.decide(granted, policy, 1, asked, now)
        if seconds is None:
            assert (decided.until, decided.why.endswith(limit)) == (None, True), job
            continue
        assert decided.until is not None
        delay = decided.until - now
        if seconds == 30:  # the run's own delay, with jitter
            assert timedelta(seconds=30) <= delay <= timedelta(seconds=33), job
        else:
            assert delay == timedelta(seconds=seconds), job
            assert decided.why.startswith("the provider asked to wait until "), job


async def test_the_end_of_a_requested_delay_is_in_the_zone_of_the_job(world: World) -> None:
    stored = await world.jobs.add(every="1d", retries=3, timezone="Asia/Kolkata")
    granted = await world.runs.running(stored)
    asked = RequestedDelay.of("the provider", 600)
    now = datetime(2026, 11, 20, 13, tzinfo=UTC)
    decided = retry_delay.decide(granted, policy_from_parameters(granted.parameters), 1, asked, now)
    assert decided.why == "the provider asked to wait until 2026-11-20 18:40:00 +05:30"


async def test_a_short_requested_delay_may_pass_the_next_due_time(world: World) -> None:
    stored = await world.jobs.add(every="10m", retries=3)
    granted = await world.runs.running(stored)
    policy = policy_from_parameters(granted.parameters)
    now = granted.due + timedelta(minutes=10) - timedelta(seconds=2)
    for seconds, is_allowed in ((5, True), (60, True), (61, False)):
        asked = RequestedDelay.of("the provider", seconds)
        decided = retry_delay.decide(granted, policy, 1, asked, now)
        assert (decided.until is not None) == is_allowed, seconds


async def test_a_due_time_that_is_skipped_names_the_service_that_asked_the_run_to_wait(
    world: World,
) -> None:
    stored = await world.jobs.add("brief", every="10m", overlap="skip", retries=3)
    granted = await world.runs.running(stored)
    until = granted.due + timedelta(minutes=30)
    why = "the provider asked to wait until 2026-11-20 13:30:00 UTC"
    busy = Outcome(Status.FAILED, why, error="429: busy")
    await claims.retry(world.ledger, granted.run_id, granted.fence, busy, until)
    request = world.runs.claim_request(stored)
    world.clock.set(request.due)

    skipped = await world.runs.claim(request)

    assert isinstance(skipped, Finished)
    assert skipped.status is Status.SKIPPED
    assert skipped.reason.endswith(f"was waiting to retry (attempt 1 failed, and {why}: 429: busy)")
