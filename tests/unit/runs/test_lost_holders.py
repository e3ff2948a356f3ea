"""A lost holder: its process died, or its lease ran out (`docs/promise.md` 3, 5)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from daybook.errors import FenceRefused, NotFound
from daybook.ledger.states import Status
from daybook.ledger.tables import RunRow
from daybook.policies.policy import JITTER_FRACTION
from daybook.runs import claims, leases, outcomes
from daybook.runs.claim_requests import ClaimRequest, Finished, Granted, Waiting
from daybook.timing import TIMING
from tests.world import World

pytestmark = pytest.mark.anyio

MICROSECOND = timedelta(microseconds=1)
WHY = "its process was killed by SIGKILL"
TAIL = "Killed\nlast words"
RERUN = {"every": "1h", "on_lost": "rerun", "retry_delay": "10s"}


async def _died(world: World, granted: Granted) -> Status:
    return await claims.holder_died(world.ledger, granted.run_id, granted.fence, WHY, error=TAIL)


async def _again(world: World, claim_request: ClaimRequest, run_id: str) -> Granted:
    """Begin the next attempt, at the time that the row waits for."""
    until = (await world.runs.row(run_id)).until
    assert until is not None
    world.clock.set(max(until, world.clock.now()))
    return await world.runs.running(claim_request)


# --- holder_died


async def test_a_run_whose_process_dies_before_the_effect_waits_and_may_start_at_once(
    world: World,
) -> None:
    claim_request = world.runs.claim_request(await world.jobs.add())
    granted = await world.runs.claimed(claim_request)

    assert await _died(world, granted) is Status.WAITING

    row = await world.runs.row(granted.run_id)
    assert (row.status, row.until, row.reason) == ("waiting", world.clock.now(), WHY)
    assert (row.fence, row.holder, row.lease_until, row.attempts) == (2, "", None, 0)
    assert isinstance(await world.runs.claim(claim_request), Granted)


async def test_a_run_whose_process_dies_at_each_start_waits_longer_each_time(world: World) -> None:
    claim_request = world.runs.claim_request(await world.jobs.add())
    waits = []
    for _ in range(12):
        granted = await world.runs.claimed(claim_request)
        await _died(world, granted)
        until = (await world.runs.row(granted.run_id)).until
        assert until is not None
        waits.append((until - world.clock.now()).total_seconds())
        if waits[-1]:
            assert isinstance(await world.runs.claim(claim_request), Waiting)
        world.clock.set(until)

    assert waits == [0, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]


async def test_a_run_whose_process_dies_after_begin_is_unknown_with_its_error(world: World) -> None:
    stored = await world.jobs.add()
    granted = await world.runs.running(stored)

    assert await _died(world, granted) is Status.UNKNOWN

    row = await world.runs.row(granted.run_id)
    assert (row.status, row.reason, row.error) == ("unknown", WHY, TAIL)
    assert (row.fence, row.finished_at) == (granted.fence, world.clock.now())
    assert row.unmirrored
    (attempt,) = await world.runs.attempts(granted.run_id)
    assert (attempt.status, attempt.error) == ("unknown", TAIL)
    assert (await world.jobs.row(stored.id)).last_error == TAIL
    # A late outcome overwrites it.
    assert await world.runs.finish(granted, Status.SUCCEEDED, output="yes") is Status.SUCCEEDED


async def test_a_process_that_dies_after_its_outcome_changes_nothing(world: World) -> None:
    granted = await world.runs.finished(await world.jobs.add(), Status.SUCCEEDED, output="yes")
    before = await world.runs.row(granted.run_id)
    world.clock.move(timedelta(seconds=1))

    assert await _died(world, granted) is Status.SUCCEEDED
    assert await claims.holder_died(world.ledger, granted.run_id, 7, WHY) is Status.SUCCEEDED

    assert await world.runs.row(granted.run_id) == before


async def test_holder_died_with_an_old_fencing_token_is_refused_and_kept_as_evidence(
    world: World,
) -> None:
    claim_request = world.runs.claim_request(await world.jobs.add())
    old = await world.runs.claimed(claim_request)
    await _died(world, old)
    new = await world.runs.running(claim_request)

    with pytest.raises(FenceRefused) as refused:
        await _died(world, old)

    assert (refused.value.fence, refused.value.current) == (1, 3)
    row = await world.runs.row(new.run_id)
    assert row.status == "running"
    known = {"fence": 1, "status": "unknown", "reason": WHY, "error": TAIL, "output": None}
    assert row.evidence == [known | {"at": world.clock.now().isoformat()}]


async def test_holder_died_is_refused_for_a_postponed_run(world: World) -> None:
    granted = await world.runs.claimed(await world.jobs.add())
    until = world.clock.now() + timedelta(minutes=1)
    await claims.postpone(world.ledger, granted.run_id, granted.fence, until, "busy")

    with pytest.raises(FenceRefused):
        await _died(world, granted)

    row = await world.runs.row(granted.run_id)
    assert (row.status, row.until, row.reason) == ("waiting", until, "busy")


async def test_holder_died_for_a_nonexistent_run_is_not_found(world: World) -> None:
    with pytest.raises(NotFound):
        await claims.holder_died(world.ledger, "nobody", 1, WHY)


# --- on_lost: rerun


async def test_a_lost_run_of_a_job_with_on_lost_rerun_runs_again(world: World) -> None:
    stored = await world.jobs.add(**RERUN)
    claim_request = world.runs.claim_request(stored)
    granted = await world.runs.running(claim_request)

    assert await _died(world, granted) is Status.WAITING

    row = await world.runs.row(granted.run_id)
    assert (row.reason, row.finished_at) == (f"{WHY}; it will run again", None)
    assert row.fence == granted.fence + 1
    assert row.until is not None
    wait = (row.until - world.clock.now()).total_seconds()
    assert 10 <= wait <= 10 * (1 + JITTER_FRACTION)
    (attempt,) = await world.runs.attempts(granted.run_id)
    assert (attempt.status, attempt.error) == ("unknown", TAIL)
    assert (await world.jobs.row(stored.id)).run_count == 0  # no run has ended yet
    # An outcome of the lost attempt is not accepted for the next one.
    with pytest.raises(FenceRefused):
        await world.runs.finish(granted, Status.FAILED)
    again = await _again(world, claim_request, granted.run_id)
    assert await world.runs.finish(again, Status.SUCCEEDED) is Status.SUCCEEDED
    assert [each.status for each in await world.runs.attempts(granted.run_id)] == [
        "unknown",
        "succeeded",
    ]


@pytest.mark.parametrize(("retries", "attempts"), [(0, 2), (1, 2), (2, 3), (3, 4)])
async def test_a_lost_run_runs_again_once_per_retry_and_at_least_once(
    world: World, retries: int, attempts: int
) -> None:
    claim_request = world.runs.claim_request(await world.jobs.add(**RERUN, retries=retries))
    granted = await world.runs.running(claim_request)
    for number in range(1, attempts):
        assert await _died(world, granted) is Status.WAITING, number
        granted = await _again(world, claim_request, granted.run_id)

    assert await _died(world, granted) is Status.UNKNOWN

    assert [each.status for each in await world.runs.attempts(granted.run_id)] == [
        "unknown"
    ] * attempts
    assert isinstance(await world.runs.claim(claim_request), Finished)


async def test_a_run_with_a_lost_lease_runs_again_too(world: World) -> None:
    claim_request = world.runs.claim_request(await world.jobs.add(**RERUN))
    granted = await world.runs.running(claim_request)
    await world.runs.lose()

    (row,) = await leases.expire_all(world.ledger)

    assert (row.id, row.status) == (granted.run_id, "waiting")
    why = "here:1 lost its lease during the run; it will run again"
    assert row.reason == why
    with pytest.raises(FenceRefused):
        await world.runs.finish(granted, Status.SUCCEEDED)


# --- expire_all


async def test_expire_all_suspects_first_and_declares_lost_one_lease_later(world: World) -> None:
    one, two = [world.runs.claim_request(await world.jobs.add(name)) for name in ("one", "two")]
    held = [await world.runs.claimed(one), await world.runs.running(two)]
    world.clock.move(TIMING.run_lease - MICROSECOND)
    assert await leases.expire_all(world.ledger) == []
    assert [(await world.runs.row(each.run_id)).suspected_at for each in held] == [None, None]
    world.clock.move(MICROSECOND)

    assert await leases.expire_all(world.ledger) == []  # suspected

    suspected = world.clock.now()
    assert [(await world.runs.row(each.run_id)).suspected_at for each in held] == [suspected] * 2
    world.clock.move(TIMING.run_lease - MICROSECOND)
    assert await leases.expire_all(world.ledger) == []
    world.clock.move(MICROSECOND)
    changed = await leases.expire_all(world.ledger)
    assert {each.id: each.status for each in changed} == {
        held[0].run_id: "waiting",
        held[1].run_id: "unknown",
    }
    assert await leases.expire_all(world.ledger) == []


async def test_a_run_that_cannot_be_checked_does_not_block_the_others(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken, well = [await world.runs.running(await world.jobs.add(each)) for each in ("one", "two")]
    late = await world.jobs.add("three", every="1h", deadline="10m")
    waiting = await claims.request(world.ledger, late, "one", "manual")
    await world.runs.suspect()
    world.clock.move(timedelta(minutes=20))
    record = outcomes.record

    async def refusing(session: AsyncSession, row: RunRow, *args: Any) -> None:
        if row.id == broken.run_id:
            raise ValueError("an invalid value")
        await record(session, row, *args)

    monkeypatch.setattr(outcomes, "record", refusing)

    changed = await leases.expire_all(world.ledger)

    assert {row.id: row.status for row in changed} == {
        well.run_id: "unknown",
        waiting.id: "timed_out",
    }
    assert (await world.runs.row(broken.run_id)).status == "running"
    assert f"cannot check the lease and deadline of run {broken.run_id}" in caplog.text


async def test_a_holder_that_renews_after_it_was_suspected_keeps_its_run(world: World) -> None:
    granted = await world.runs.running(await world.jobs.add())
    world.clock.move(timedelta(hours=5))
    assert await leases.expire_all(world.ledger) == []
    assert await leases.renew(world.ledger, granted.run_id, granted.fence)
    world.clock.move(TIMING.run_lease - MICROSECOND)

    assert await leases.expire_all(world.ledger) == []
    assert await world.runs.finish(granted, Status.SUCCEEDED) is Status.SUCCEEDED


async def test_expire_all_without_expired_leases_takes_no_lock(world: World) -> None:
    await world.runs.finished(await world.jobs.add("one"), Status.SUCCEEDED)
    await world.runs.running(await world.jobs.add("two"))
    async with world.ledger.write():  # no other transaction could write now
        assert await leases.expire_all(world.ledger) == []


async def test_expire_all_expires_no_more_runs_than_its_limit(world: World) -> None:
    for number in range(3):
        await world.runs.running(await world.jobs.add(f"job-{number}", every="1h"))
    await world.runs.lose()

    first = await leases.expire_all(world.ledger, limit=2)
    second = await leases.expire_all(world.ledger, limit=2)

    assert (len(first), len(second)) == (2, 1)
    assert {row.status for row in await world.runs.rows()} == {"unknown"}


# --- renew_all


async def test_renew_all_renews_only_the_live_runs_of_one_holder(world: World) -> None:
    jobs = [await world.jobs.add(f"job-{number}", every="1h") for number in range(5)]
    claimed = await world.runs.claimed(world.runs.claim_request(jobs[0], flow_run_id="claimed"))
    running = await world.runs.running(world.runs.claim_request(jobs[1], flow_run_id="running"))
    ended = await world.runs.finished(
        world.runs.claim_request(jobs[2], flow_run_id="ended"), Status.SUCCEEDED
    )
    lost = await world.runs.claimed(world.runs.claim_request(jobs[3], flow_run_id="lost"))
    await claims.postpone(world.ledger, lost.run_id, lost.fence, world.clock.now(), "later")
    others = await world.runs.claimed(
        world.runs.claim_request(jobs[4], flow_run_id="others", holder="there:2")
    )
    before = await world.runs.row(others.run_id)
    async with world.ledger.write() as session:
        row = await session.get(type(before), running.run_id)
        assert row is not None
        row.suspected_at = world.clock.now()
        session.add(row)
    world.clock.move(timedelta(seconds=20))

    run_ids = {
        "claimed": claimed.run_id,
        "running": running.run_id,
        "ended": ended.run_id,
        "lost": lost.run_id,
        "others": others.run_id,
        "nobody's": "nobody",
    }
    answer = await leases.renew_all(world.ledger, "here:1", run_ids)

    assert answer == {
        "claimed": Status.CLAIMED,
        "running": Status.RUNNING,
        "ended": Status.SUCCEEDED,
        "lost": Status.WAITING,
        "others": None,
        "nobody's": None,
    }
    until = world.clock.now() + TIMING.run_lease
    for held in (claimed, running):
        row = await world.runs.row(held.run_id)
        assert (row.lease_until, row.suspected_at) == (until, None)
    assert await world.runs.row(others.run_id) == before


async def test_renew_all_tells_two_claims_of_one_holder_apart(world: World) -> None:
    # Prefect ended the first flow run, so the keeper created another one, which the same worker
    # claimed. It has to stop the process of the first one.
    stored = await world.jobs.add(every="1h")
    claim_request = world.runs.claim_request(stored, flow_run_id="first")
    first = await world.runs.claimed(claim_request)
    await claims.postpone(world.ledger, first.run_id, first.fence, world.clock.now(), "crashed")
    second = await world.runs.running(replace(claim_request, flow_run_id="second"))
    assert second.run_id == first.run_id

    run_ids = {"first": first.run_id, "second": second.run_id}
    answer = await leases.renew_all(world.ledger, "here:1", run_ids)

    assert answer == {"first": None, "second": Status.RUNNING}


async def test_renew_all_without_runs_takes_no_lock(world: World) -> None:
    async with world.ledger.write():
        assert await leases.renew_all(world.ledger, "here:1", {}) == {}
