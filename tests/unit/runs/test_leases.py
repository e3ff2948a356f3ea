"""Fencing tokens and leases, and the effect of a lost lease (`docs/promise.md` 3, 5, 6)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from daybook.errors import FenceRefused, IllegalTransition
from daybook.keeper import leadership
from daybook.ledger.states import Outcome, Status
from daybook.ledger.views import Run
from daybook.runs import claims, leases
from daybook.runs.claim_requests import Finished, Granted, Waiting
from daybook.timing import TIMING
from tests.world import World

pytestmark = pytest.mark.anyio

MICROSECOND = timedelta(microseconds=1)


def test_lease_and_renewal_durations_are_those_of_promise_5() -> None:
    assert timedelta(seconds=60) == TIMING.run_lease
    assert timedelta(seconds=20) == TIMING.run_lease_renewal


@pytest.mark.dialect
async def test_a_renewed_lease_counts_from_the_renewal(world: World) -> None:
    granted = await world.runs.running(await world.jobs.add())
    world.clock.move(timedelta(seconds=59))

    assert await leases.renew(world.ledger, granted.run_id, granted.fence)

    assert (
        await world.runs.row(granted.run_id)
    ).lease_until == world.clock.now() + TIMING.run_lease


async def test_a_lease_is_declared_lost_one_lease_after_it_was_suspected(world: World) -> None:
    stored = await world.jobs.add(every="10m")
    granted = await world.runs.running(stored)
    await world.runs.suspect()
    world.clock.move(TIMING.run_lease - MICROSECOND)
    async with world.ledger.write() as session:
        assert await leases.expire_job(session, stored.id, world.clock.now()) == 0
    world.clock.move(MICROSECOND)
    async with world.ledger.write() as session:
        assert await leases.expire_job(session, stored.id, world.clock.now()) == 1
    assert (await world.runs.row(granted.run_id)).status == "unknown"


async def test_a_run_on_a_machine_that_slept_is_not_declared_lost(world: World) -> None:
    # Nothing checked the lease for hours: the next claim must not declare it lost.
    stored = await world.jobs.add(every="10m")
    granted = await world.runs.running(stored)
    world.clock.move(timedelta(hours=5))

    claim_request = world.runs.claim_request(stored, due=world.clock.now())
    answer = await world.runs.claim(claim_request)

    assert isinstance(answer, Waiting)
    assert answer.why.startswith("overlap: it is not known yet")
    assert await leases.renew(world.ledger, granted.run_id, granted.fence)
    answer = await world.runs.claim(claim_request)
    assert isinstance(answer, Finished)
    assert answer.reason.startswith("overlap: ")
    world.clock.move(TIMING.run_lease - MICROSECOND)
    async with world.ledger.write() as session:
        assert await leases.expire_job(session, stored.id, world.clock.now()) == 0
    assert await world.runs.finish(granted, Status.SUCCEEDED) is Status.SUCCEEDED


@pytest.mark.dialect
@pytest.mark.parametrize("fence", [0, 2])
async def test_only_the_current_fencing_token_renews_a_lease(world: World, fence: int) -> None:
    granted = await world.runs.running(await world.jobs.add())
    before = await world.runs.row(granted.run_id)
    world.clock.move(timedelta(seconds=1))

    assert not await leases.renew(world.ledger, granted.run_id, fence)
    assert (await world.runs.row(granted.run_id)).lease_until == before.lease_until


async def test_the_lease_of_a_finished_or_nonexistent_run_is_not_renewed(world: World) -> None:
    granted = await world.runs.finished(await world.jobs.add(), Status.SUCCEEDED)

    assert not await leases.renew(world.ledger, granted.run_id, granted.fence)
    assert not await leases.renew(world.ledger, "nobody", 1)


async def test_a_run_lost_before_its_effect_waits_with_a_higher_fencing_token(world: World) -> None:
    stored = await world.jobs.add()
    claim_request = world.runs.claim_request(stored)
    granted = await world.runs.claimed(claim_request)
    await world.runs.lose()

    async with world.ledger.write() as session:
        assert await leases.expire_job(session, stored.id, world.clock.now()) == 1

    row = await world.runs.row(granted.run_id)
    assert (row.status, row.fence, row.holder, row.lease_until) == ("waiting", 2, "", None)
    assert row.until == world.clock.now()
    assert row.reason == "the lease was lost before the effect"
    with pytest.raises(FenceRefused):
        await claims.begin(world.ledger, granted.run_id, granted.fence)
    assert await world.runs.attempts(granted.run_id) == []
    assert not await leases.renew(world.ledger, granted.run_id, granted.fence)


async def test_a_run_lost_after_begin_is_unknown_and_never_repeated(world: World) -> None:
    claim_request = world.runs.claim_request(await world.jobs.add())
    granted = await world.runs.running(claim_request)
    await world.runs.lose()

    answer = await world.runs.claim(replace(claim_request, flow_run_id="another", holder="there:2"))

    assert isinstance(answer, Finished)
    assert answer.status is Status.UNKNOWN
    row = await world.runs.row(granted.run_id)
    assert (row.status, row.fence, row.finished_at) == ("unknown", 1, world.clock.now())
    assert row.reason == "here:1 lost its lease during the run"
    (attempt,) = await world.runs.attempts(granted.run_id)
    assert (attempt.status, attempt.finished_at) == ("unknown", world.clock.now())


@pytest.mark.parametrize(
    "status", [Status.SUCCEEDED, Status.FAILED, Status.TIMED_OUT, Status.CANCELLED]
)
async def test_the_last_fencing_token_may_record_a_late_outcome(
    world: World, status: Status
) -> None:
    claim_request = world.runs.claim_request(await world.jobs.add())
    granted = await world.runs.running(claim_request)
    await world.runs.lose()
    await world.runs.claim(replace(claim_request, flow_run_id="another"))
    world.clock.move(timedelta(hours=1))

    assert await world.runs.finish(granted, status, output="at last") is status

    row = await world.runs.row(granted.run_id)
    assert (row.status, row.output, row.finished_at) == (status, "at last", world.clock.now())
    assert row.reason == ""
    (attempt,) = await world.runs.attempts(granted.run_id)
    assert attempt.status == status


async def test_an_outcome_with_a_lower_fencing_token_is_refused_and_kept_as_evidence(
    world: World,
) -> None:
    claim_request = world.runs.claim_request(await world.jobs.add())
    old = await world.runs.claimed(claim_request)
    await world.runs.lose()
    new = await world.runs.claim(replace(claim_request, flow_run_id="another", holder="there:2"))
    assert isinstance(new, Granted)
    await claims.begin(world.ledger, new.run_id, new.fence)

    with pytest.raises(FenceRefused) as refused:
        await world.runs.finish(old, Status.FAILED, output="half", error="cut off", reason="r")

    assert (refused.value.fence, refused.value.current) == (1, 3)
    row = await world.runs.row(old.run_id)
    assert (row.status, row.output) == ("running", None)
    known = {"fence": 1, "status": "failed", "reason": "r", "error": "cut off", "output": "half"}
    assert row.evidence == [known | {"at": world.clock.now().isoformat()}]


async def test_an_outcome_with_a_higher_fencing_token_is_refused(world: World) -> None:
    granted = await world.runs.running(await world.jobs.add())

    with pytest.raises(FenceRefused):
        await claims.finish(
            world.ledger, granted.run_id, granted.fence + 1, Outcome(Status.SUCCEEDED)
        )


async def test_an_outcome_that_is_recorded_twice_counts_once(world: World) -> None:
    stored = await world.jobs.add()
    granted = await world.runs.finished(stored, Status.SUCCEEDED, output="yes")
    before = await world.runs.row(granted.run_id)
    world.clock.move(timedelta(minutes=1))

    assert await world.runs.finish(granted, Status.SUCCEEDED, output="other") is Status.SUCCEEDED

    assert await world.runs.row(granted.run_id) == before
    assert (await world.jobs.row(stored.id)).run_count == 1


async def test_a_second_different_outcome_is_refused_and_kept_as_evidence(world: World) -> None:
    granted = await world.runs.finished(await world.jobs.add(), Status.CANCELLED)

    with pytest.raises(IllegalTransition, match="from cancelled to succeeded"):
        await world.runs.finish(granted, Status.SUCCEEDED, output="done all the same")

    row = await world.runs.row(granted.run_id)
    assert row.status == "cancelled"
    assert row.evidence[0]["output"] == "done all the same"


async def test_a_second_begin_is_refused(world: World) -> None:
    granted = await world.runs.running(await world.jobs.add())

    with pytest.raises(IllegalTransition):
        await claims.begin(world.ledger, granted.run_id, granted.fence)

    assert len(await world.runs.attempts(granted.run_id)) == 1


async def test_begin_extends_the_lease_and_records_the_start(world: World) -> None:
    granted = await world.runs.claimed(await world.jobs.add())
    world.clock.move(timedelta(seconds=30))

    assert await claims.begin(world.ledger, granted.run_id, granted.fence) == 1

    row = await world.runs.row(granted.run_id)
    assert row.started_at == world.clock.now()
    assert row.lease_until == world.clock.now() + TIMING.run_lease


async def test_a_postponed_run_waits_and_refuses_writes_of_its_former_holder(world: World) -> None:
    granted = await world.runs.claimed(await world.jobs.add())
    until = world.clock.now() + timedelta(minutes=3)

    await claims.postpone(world.ledger, granted.run_id, granted.fence, until, "the session is busy")

    row = await world.runs.row(granted.run_id)
    assert (row.status, row.until, row.reason) == ("waiting", until, "the session is busy")
    with pytest.raises(FenceRefused):
        await claims.postpone(world.ledger, granted.run_id, granted.fence, until, "again")
    with pytest.raises(FenceRefused):
        await claims.begin(world.ledger, granted.run_id, granted.fence)


@pytest.mark.dialect
async def test_expire_job_expires_only_the_leases_of_that_job(world: World) -> None:
    one, two = await world.jobs.add("one"), await world.jobs.add("two")
    await world.runs.running(one)
    other = await world.runs.running(world.runs.claim_request(two, due=world.clock.now()))
    await world.runs.lose()

    async with world.ledger.write() as session:
        assert await leases.expire_job(session, one.id, world.clock.now()) == 1

    assert (await world.runs.row(other.run_id)).status == "running"


async def test_a_worker_that_was_started_again_does_not_have_the_leases_of_its_name(
    world: World,
) -> None:
    granted = await world.runs.running(await world.jobs.add())
    row = await world.runs.row(granted.run_id)
    earlier, later = (leadership.new_holder("a-worker") for _ in range(2))
    async with world.ledger.write() as session:
        row.holder, row.flow_run_id = earlier, "its flow run"
        session.add(row)
    run_ids = {"its flow run": granted.run_id}

    assert await leases.renew_all(world.ledger, later, run_ids) == {"its flow run": None}
    renewed = await leases.renew_all(world.ledger, earlier, run_ids)
    assert renewed == {"its flow run": Status.RUNNING}
    assert Run.of(await world.runs.row(granted.run_id), None).worker == "a-worker"
