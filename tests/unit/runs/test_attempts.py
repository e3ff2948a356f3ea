"""Attempts: how each ended stays as it was written, what each took is added up."""

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
    row = (await world.row(run_id)).model_dump()
    return [row, *(each.model_dump() for each in await world.attempts(run_id))]


# --- what they took


async def test_a_run_took_what_all_its_attempts_took(world: World) -> None:
    offer = world.offer(await world.add())
    first = await world.begun(offer)
    await _retried(world, first, TIMED_OUT)
    assert (await world.row(first.run_id)).usage == ONE

    world.clock.move(DELAY)
    await _retried(world, await world.begun(offer))
    assert (await world.row(first.run_id)).usage == ONE
    world.clock.move(DELAY)
    await world.settled(offer, Status.SUCCEEDED, usage=TWO)

    row, *attempts = await _all(world, first.run_id)
    assert [each["usage"] for each in attempts] == [ONE, None, TWO]
    assert row["usage"] == {
        "requests": 3,
        "input_tokens": 30,
        "output_tokens": 15,
        "cost_usd": 0.75,
    }


async def test_a_late_outcome_adds_what_it_took(world: World) -> None:
    offer = world.offer(await world.add())
    await _retried(world, await world.begun(offer), TIMED_OUT)
    world.clock.move(DELAY)
    lost = await world.settled(offer, Status.UNKNOWN)
    assert (await world.row(lost.run_id)).usage == ONE

    await world.settle(lost, Status.SUCCEEDED, usage=ONE)

    assert (await world.row(lost.run_id)).usage == TWO


async def test_what_a_refused_writer_had_paid_for_is_in_its_evidence(world: World) -> None:
    granted = await world.settled(world.offer(await world.add()), Status.CANCELLED)

    with pytest.raises(IllegalTransition):
        await world.settle(granted, Status.SUCCEEDED, usage=ONE)

    (known,) = (await world.row(granted.run_id)).evidence
    assert known["usage"] == ONE


@pytest.mark.parametrize(
    ("parts", "total"),
    [
        ([], None),
        ([None, None], None),
        ([None, ONE], ONE),
        ([ONE, {"requests": 1, "cost_usd": None}, ONE], TWO | {"requests": 3, "cost_usd": None}),
        ([ONE, ONE | {"cache_read_tokens": 3}], TWO | {"cache_read_tokens": 3}),
        # An agent of another's making may tell anything.
        ([{"tier": "fast"}, {"tier": "slow"}, ONE], ONE | {"tier": "slow"}),
    ],
)
def test_the_sum(parts: list[dict[str, Any] | None], total: dict[str, Any] | None) -> None:
    assert usage.total(parts) == total


# --- how they ended


async def test_a_run_that_cannot_begin_again_leaves_its_last_attempt_as_it_ended(
    world: World,
) -> None:
    offer = world.offer(await world.add())
    await _retried(world, await world.begun(offer), TIMED_OUT)
    world.clock.move(DELAY)
    again = await world.granted(offer)
    before = await world.attempts(again.run_id)

    await world.settle(again, Status.FAILED, error='unknown agent "x"')

    assert await world.attempts(again.run_id) == before
    assert [each.status for each in before] == ["timed_out"]
    row = await world.row(again.run_id)
    assert (row.status, row.error, row.usage) == ("failed", 'unknown agent "x"', ONE)


async def test_of_a_lost_attempt_that_is_to_be_run_again_the_end_stays_unknown(
    world: World,
) -> None:
    granted = await world.begun(world.offer(await world.add(every="1h", on_lost="rerun")))
    await claims.holder_died(world.ledger, granted.run_id, granted.fence, "killed")
    before = await world.attempts(granted.run_id)

    cancelled = await claims.cancel(world.ledger, granted.run_id)

    assert cancelled.status == "cancelled"
    assert await world.attempts(granted.run_id) == before
    assert [each.status for each in before] == ["unknown"]


async def test_an_attempt_that_has_ended_is_not_closed_again(world: World) -> None:
    ended = await world.settled(world.offer(await world.add()), Status.SUCCEEDED, usage=ONE)
    before = await _all(world, ended.run_id)
    world.clock.move(DELAY)

    async with world.ledger.write() as session:
        row = await session.get(RunRow, ended.run_id)
        assert row is not None
        await outcomes.close_attempt(session, row, LIMITED, world.clock.now())

    assert await _all(world, ended.run_id) == before


async def test_what_is_only_said_twice_is_kept_once(world: World) -> None:
    said = {"reason": "no answer within 4 s", "error": "no answer within 4 s"}
    ended = await world.settled(world.offer(await world.add()), Status.TIMED_OUT, **said)

    row = await world.row(ended.run_id)
    assert (row.reason, row.error) == ("", "no answer within 4 s")


# --- another attempt is to follow


async def _begun(world: World) -> tuple[ClaimRequest, Granted]:
    offer = world.offer(await world.add())
    return offer, await world.begun(offer)


async def test_judged_unknown_meanwhile_it_ends_as_its_attempt_did(world: World) -> None:
    _, granted = await _begun(world)
    await world.settle(granted, Status.UNKNOWN, reason="the lease was lost")

    assert await _retried(world, granted, TIMED_OUT) is Status.TIMED_OUT

    row, attempt = await _all(world, granted.run_id)
    assert (row["status"], row["error"]) == ("timed_out", TIMED_OUT.error)
    assert (row["until"], row["usage"], row["evidence"]) == (None, ONE, [])
    assert (attempt["status"], attempt["usage"]) == ("timed_out", ONE)
    assert await _retried(world, granted, TIMED_OUT) is Status.TIMED_OUT


@pytest.mark.parametrize("since", ["waiting", "claimed", "running", "succeeded", "cancelled"])
async def test_written_again_after_an_answer_that_was_lost_it_changes_nothing(
    world: World, since: str
) -> None:
    offer, granted = await _begun(world)
    assert await _retried(world, granted) is Status.WAITING
    if since == "cancelled":
        await claims.cancel(world.ledger, granted.run_id)
    elif since != "waiting":
        world.clock.move(DELAY)
        again = await world.granted(offer)
        if since != "claimed":
            await claims.begin(world.ledger, again.run_id, again.fence)
        if since == "succeeded":
            await world.settle(again, Status.SUCCEEDED)
    before = await _all(world, granted.run_id)

    assert await _retried(world, granted) is Status(since)

    assert await _all(world, granted.run_id) == before


async def test_who_lost_its_claim_is_refused_and_what_it_knew_is_kept(world: World) -> None:
    _, granted = await _begun(world)
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
async def test_what_has_another_outcome_keeps_it(world: World, status: Status) -> None:
    _, granted = await _begun(world)
    await world.settle(granted, status, error="another")

    with pytest.raises(IllegalTransition):
        await _retried(world, granted)

    row, attempt = await _all(world, granted.run_id)
    assert row["status"] == attempt["status"] == status
    assert [known["error"] for known in row["evidence"]] == ["429"]


async def test_what_was_not_begun_has_no_attempt_to_end(world: World) -> None:
    granted = await world.granted(world.offer(await world.add()))

    with pytest.raises(IllegalTransition, match="claimed"):
        await _retried(world, granted)

    assert (await world.row(granted.run_id)).status == "claimed"
