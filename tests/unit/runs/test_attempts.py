"""Attempts: each keeps its recorded outcome, and the run adds up their usage."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from daybook.errors import FenceRefused, IllegalTransition
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import RunRow
from daybook.runs import claims, outcomes, usage
from daybook.runs.claim_requests import ClaimRequest, Granted
from tests.world import World

pytestmark = pytest.mark.anyio

ONE = {"requests": 1, "input_tokens": 10, "output_tokens": 5, "cost_usd": 0.25}
TWO = {"requests": 2, "input_tokens": 20, "output_tokens": 10, "cost_usd": 0.5}
LIMITED = Outcome(Status.FAILED, error="429")
TIMED_OUT = Outcome(Status.TIMED_OUT, error="no answer within 1 s", usage=ONE)
DELAY = timedelta(seconds=7)


async def _retried(world: World, granted: Granted, outcome: Outcome = LIMITED) -> Status:
    until = world.clock.now() + DELAY
    return await claims.retry(world.ledger, granted.run_id, granted.fence, outcome, until)


async def _all(world: World, run_id: str) -> list[Any]:
    row = (await world.runs.row(run_id)).model_dump()
    return [row, *(each.model_dump() for each in await world.runs.attempts(run_id))]


# --- usage


async def test_the_usage_of_a_run_is_the_sum_over_its_attempts(world: World) -> None:
    claim_request = world.runs.claim_request(await world.jobs.add())
    first = await world.runs.running(claim_request)
    await _retried(world, first, TIMED_OUT)
    assert (await world.runs.row(first.run_id)).usage == ONE

    world.clock.move(DELAY)
    await _retried(world, await world.runs.running(claim_request))
    assert (await world.runs.row(first.run_id)).usage == ONE
    world.clock.move(DELAY)
    await world.runs.finished(claim_request, Status.SUCCEEDED, usage=TWO)

    row, *attempts = await _all(world, first.run_id)
    assert [each["usage"] for each in attempts] == [ONE, None, TWO]
    assert row["usage"] == {
        "requests": 3,
        "input_tokens": 30,
        "output_tokens": 15,
        "cost_usd": 0.75,
    }


async def test_a_late_outcome_adds_its_usage_to_the_run(world: World) -> None:
    claim_request = world.runs.claim_request(await world.jobs.add())
    await _retried(world, await world.runs.running(claim_request), TIMED_OUT)
    world.clock.move(DELAY)
    lost = await world.runs.finished(claim_request, Status.UNKNOWN)
    assert (await world.runs.row(lost.run_id)).usage == ONE

    await world.runs.finish(lost, Status.SUCCEEDED, usage=ONE)

    assert (await world.runs.row(lost.run_id)).usage == TWO


async def test_a_refused_outcome_keeps_its_usage_in_the_evidence(world: World) -> None:
    granted = await world.runs.finished(await world.jobs.add(), Status.CANCELLED)

    with pytest.raises(IllegalTransition):
        await world.runs.finish(granted, Status.SUCCEEDED, usage=ONE)

    (known,) = (await world.runs.row(granted.run_id)).evidence
    assert known["usage"] == ONE


@pytest.mark.parametrize(
    ("parts", "total"),
    [
        ([], None),
        ([None, None], None),
        ([None, ONE], ONE),
        ([ONE, {"requests": 1, "cost_usd": None}, ONE], TWO | {"requests": 3, "cost_usd": None}),
        ([ONE, ONE | {"cache_read_tokens": 3}], TWO | {"cache_read_tokens": 3}),
        # A custom agent may report any field.
        ([{"tier": "fast"}, {"tier": "slow"}, ONE], ONE | {"tier": "slow"}),
    ],
)
def test_total_adds_up_the_usage_of_several_attempts(
    parts: list[dict[str, Any] | None], total: dict[str, Any] | None
) -> None:
    assert usage.total(parts) == total


# --- outcomes of attempts


async def test_a_failure_before_the_next_attempt_leaves_the_last_attempt_unchanged(
    world: World,
) -> None:
    claim_request = world.runs.claim_request(await world.jobs.add())
    await _retried(world, await world.runs.running(claim_request), TIMED_OUT)
    world.clock.move(DELAY)
    again = await world.runs.claimed(claim_request)
    before = await world.runs.attempts(again.run_id)

    await world.runs.finish(again, Status.FAILED, error='unknown agent "x"')

    assert await world.runs.attempts(again.run_id) == before
    assert [each.status for each in before] == ["timed_out"]
    row = await world.runs.row(again.run_id)
    assert (row.status, row.error, row.usage) == ("failed", 'unknown agent "x"', ONE)


async def test_cancelling_a_rerun_leaves_its_lost_attempt_unknown(world: World) -> None:
    granted = await world.runs.running(await world.jobs.add(every="1h", on_lost="rerun"))
    await claims.holder_died(world.ledger, granted.run_id, granted.fence, "killed")
    before = await world.runs.attempts(granted.run_id)

    cancelled = await claims.cancel(world.ledger, granted.run_id)

    assert cancelled.status == "cancelled"
    assert await world.runs.attempts(granted.run_id) == before
    assert [each.status for each in before] == ["unknown"]


async def test_close_attempt_does_not_change_an_ended_attempt(world: World) -> None:
    ended = await world.runs.finished(await world.jobs.add(), Status.SUCCEEDED, usage=ONE)
    before = await _all(world, ended.run_id)
    world.clock.move(DELAY)

    async with world.ledger.write() as session:
        row = await session.get(RunRow, ended.run_id)
        assert row is not None
        await outcomes.close_attempt(session, row, LIMITED, world.clock.now())

    assert await _all(world, ended.run_id) == before


async def test_a_reason_equal_to_the_error_is_not_stored_twice(world: World) -> None:
    expected = {"reason": "no answer within 4 s", "error": "no answer within 4 s"}
    ended = await world.runs.finished(await world.jobs.add(), Status.TIMED_OUT, **expected)

    row = await world.runs.row(ended.run_id)
    assert (row.reason, row.error) == ("", "no answer within 4 s")


# --- retry: record an attempt that another one follows


async def _running(world: World) -> tuple[ClaimRequest, Granted]:
    claim_request = world.runs.claim_request(await world.jobs.add())
    return claim_request, await world.runs.running(claim_request)


async def test_a_retry_of_an_unknown_run_records_the_outcome_of_its_attempt(world: World) -> None:
    _, granted = await _running(world)
    await world.runs.finish(granted, Status.UNKNOWN, reason="the lease was lost")

    assert await _retried(world, granted, TIMED_OUT) is Status.TIMED_OUT

    row, attempt = await _all(world, granted.run_id)
    assert (row["status"], row["error"]) == ("timed_out", TIMED_OUT.error)
    assert (row["until"], row["usage"], row["evidence"]) == (None, ONE, [])
    assert (attempt["status"], attempt["usage"]) == ("timed_out", ONE)
    assert await _retried(world, granted, TIMED_OUT) is Status.TIMED_OUT


@pytest.mark.parametrize("since", ["waiting", "claimed", "running", "succeeded", "cancelled"])
async def test_a_retry_that_is_written_again_changes_nothing(world: World, since: str) -> None:
    claim_request, granted = await _running(world)
    assert await _retried(world, granted) is Status.WAITING
    if since == "cancelled":
        await claims.cancel(world.ledger, granted.run_id)
    elif since != "waiting":
        world.clock.move(DELAY)
        again = await world.runs.claimed(claim_request)
        if since != "claimed":
            await claims.begin(world.ledger, again.run_id, again.fence)
        if since == "succeeded":
            await world.runs.finish(again, Status.SUCCEEDED)
    before = await _all(world, granted.run_id)

    assert await _retried(world, granted) is Status(since)

    assert await _all(world, granted.run_id) == before


async def test_a_retry_with_an_old_fencing_token_is_refused_and_kept_as_evidence(
    world: World,
) -> None:
    _, granted = await _running(world)
    await _retried(world, granted)

    with pytest.raises(FenceRefused):
        await _retried(world, granted, TIMED_OUT)

    row, attempt = await _all(world, granted.run_id)
    assert (row["status"], row["fence"]) == ("waiting", granted.fence + 1)
    (known,) = row["evidence"]
    assert (known["fence"], known["status"]) == (granted.fence, "timed_out")
    assert (known["error"], known["usage"]) == (TIMED_OUT.error, ONE)
    assert (attempt["status"], attempt["error"]) == ("failed", "429")


@pytest.mark.parametrize("status", [Status.CANCELLED, Status.SUCCEEDED, Status.FAILED])
async def test_a_retry_of_a_run_with_another_outcome_is_refused_and_kept_as_evidence(
    world: World, status: Status
) -> None:
    _, granted = await _running(world)
    await world.runs.finish(granted, status, error="another")

    with pytest.raises(IllegalTransition):
        await _retried(world, granted)

    row, attempt = await _all(world, granted.run_id)
    assert row["status"] == attempt["status"] == status
    assert [known["error"] for known in row["evidence"]] == ["429"]


async def test_a_retry_of_a_run_that_has_not_begun_is_refused(world: World) -> None:
    granted = await world.runs.claimed(await world.jobs.add())

    with pytest.raises(IllegalTransition, match="claimed"):
        await _retried(world, granted)

    assert (await world.runs.row(granted.run_id)).status == "claimed"
