"""A restored ledger: nothing that may have happened since the backup happens again."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlmodel import select

from daybook.delivery import outbox
from daybook.errors import FenceRefused, NothingClaimable
from daybook.execution import outcome_spool
from daybook.execution.outcome_spool import SpooledOutcome
from daybook.features.backups import uncertain
from daybook.features.backups.uncertain import Recorded
from daybook.features.tasks import queue
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import OutboxRow
from daybook.runs import audit, claims, prefect_ends
from daybook.runs.claim_requests import ClaimRequest, Finished, Granted, flow_key
from daybook.runs.prefect_ends import EndInPrefect
from daybook.runs.restored import Restore
from tests.world import World, copies

pytestmark = pytest.mark.anyio

HOURLY = "0 * * * *"
REASON = "restored from a backup of 2026-01-15 12:00:00 UTC"


async def _restore(world: World, **later: float) -> Recorded:
    """Restore a backup of now after some time; by default, that is three hours."""
    backup = world.clock.now()
    world.passes(**(later or {"hours": 3}))
    async with world.ledger.write() as session:
        return await uncertain.record(session, Restore(backup=backup, at=world.clock.now()))


async def _messages(world: World) -> list[OutboxRow]:
    async with world.ledger.read() as session:
        return list((await session.execute(select(OutboxRow))).scalars())


async def test_due_times_up_to_the_restore_are_missed_and_later_ones_run(world: World) -> None:
    stored = await world.jobs.add(cron=HOURLY, catch_up="all")
    recorded = await _restore(world)

    assert recorded == Recorded(missed=3)
    (row,) = await world.runs.rows()
    assert (row.status, row.reason, row.count) == ("missed", REASON, 3)
    assert (await world.jobs.row(stored.id)).audited_until == world.clock.now()
    # Prefect still has the runs of these due times.
    for hours in range(3):
        due = row.due + timedelta(hours=hours)
        answer = await world.runs.claim(world.runs.claim_request(stored, due=due))
        assert isinstance(answer, Finished)
        assert answer.status is Status.MISSED
    assert isinstance(await world.runs.claimed(stored), Granted)


async def test_due_times_that_are_missed_after_a_restore_leave_its_reason(world: World) -> None:
    stored = await world.jobs.add(cron=HOURLY, catch_up="none")
    await _restore(world)
    world.passes(hours=2, minutes=2)

    await audit.advance(world.ledger, stored.id, world.clock.now())

    found = [(row.count, row.reason) for row in reversed(await world.runs.rows())]
    (restored, later) = sorted(found, key=lambda each: each[1] != REASON)
    assert restored == (3, REASON)
    assert (later[0], REASON in later[1]) == (2, False)


async def test_a_due_time_of_a_second_ago_is_missed_too(world: World) -> None:
    # On time for a minute: a process of the old ledger may have claimed it in this second.
    stored = await world.jobs.add()
    due = world.runs.claim_request(stored).due
    await _restore(world, seconds=(due - world.clock.now()).total_seconds() + 1)
    answer = await world.runs.claim(world.runs.claim_request(stored, due=due))
    assert isinstance(answer, Finished)
    assert answer.status is Status.MISSED
    assert (await audit.advance(world.ledger, stored.id, world.clock.now())) is not None
    assert [row.status for row in await world.runs.rows()] == ["missed"]


async def test_a_one_time_job_does_not_run_again(world: World) -> None:
    at = world.at(hours=1).replace(microsecond=0)
    stored = await world.jobs.add(at=at.isoformat())
    await _restore(world)
    assert [row.status for row in await world.runs.rows()] == ["missed"]
    assert not (await world.jobs.get(stored.id)).job.enabled


async def test_claimed_and_running_runs_are_unknown_and_cannot_be_finished(world: World) -> None:
    running = await world.runs.running(await world.jobs.add("one", every="1h", on_lost="rerun"))
    claimed = await world.runs.claimed(await world.jobs.add("two", every="1h"))
    recorded = await _restore(world, seconds=1)

    assert recorded.unknown == 2
    for granted in (running, claimed):
        row = await world.runs.row(granted.run_id)
        assert (row.status, row.reason) == ("unknown", f"restored from a backup of {_at(world)}")
        with pytest.raises(FenceRefused):
            await claims.finish(
                world.ledger, granted.run_id, granted.fence, Outcome(Status.SUCCEEDED)
            )
    (attempt,) = await world.runs.attempts(running.run_id)
    assert attempt.status == "unknown"


def _at(world: World) -> str:
    return f"{world.clock.now() - timedelta(seconds=1):%Y-%m-%d %H:%M:%S} UTC"


async def test_a_waiting_run_is_missed_and_one_between_two_attempts_is_unknown(
    world: World,
) -> None:
    stored = await world.jobs.add()
    waiting = await world.runs.request(stored)
    granted = await world.runs.running(await world.runs.request(stored))
    await claims.retry(
        world.ledger, granted.run_id, granted.fence, Outcome(Status.FAILED), world.at(minutes=5)
    )
    later = await world.runs.request(stored, due=world.at(hours=48), until=world.at(hours=48))
    recorded = await _restore(world, minutes=1)

    assert (recorded.missed, recorded.unknown) == (1, 1)
    assert (await world.runs.row(waiting)).status == "missed"
    assert (await world.runs.row(granted.run_id)).status == "unknown"
    assert (await world.runs.row(later)).status == "waiting"


@pytest.mark.parametrize("attempts", [0, 1])
async def test_a_process_that_claimed_a_run_after_the_backup_cannot_record_its_outcome(
    world: World, attempts: int
) -> None:
    run = await world.runs.request(await world.jobs.add())
    for _ in range(attempts):
        first = await world.runs.running(run)
        failed = Outcome(Status.FAILED)
        await claims.retry(world.ledger, first.run_id, first.fence, failed, world.clock.now())
    backup = await copies.copy(world)
    later = await world.runs.running(run)
    await backup.restore()
    await _restore(world, minutes=1)

    # Its process is still alive; another one has spooled the outcome.
    succeeded = Outcome(Status.SUCCEEDED)
    with pytest.raises(FenceRefused):
        await claims.finish(world.ledger, later.run_id, later.fence, succeeded)
    outcome_spool.put(SpooledOutcome(world.ledger.id, later.run_id, later.fence, succeeded))
    assert (await outcome_spool.drain(world.ledger)).refused == 1
    assert (await world.runs.row(later.run_id)).status == ("unknown" if attempts else "missed")


async def test_ended_runs_stay_as_they_are(world: World) -> None:
    granted = await world.runs.finished(await world.jobs.add(), Status.SUCCEEDED)
    before = (await world.runs.row(granted.run_id)).model_dump()
    await _restore(world, minutes=1)
    assert (await world.runs.row(granted.run_id)).model_dump() == before


async def test_an_unknown_of_the_restore_starts_no_other_job(world: World) -> None:
    first = await world.jobs.add("first")
    await world.jobs.add("second", after="first", on="any")
    await world.runs.running(first)
    recorded = await _restore(world, seconds=1)
    assert (recorded.missed, recorded.unknown) == (1, 1)
    assert [row.status for row in await world.runs.rows()] == ["unknown", "missed"]


async def test_messages_that_may_have_been_sent_are_failed_and_those_in_the_home_are_not(
    world: World,
) -> None:
    url = "https://example.org/hook"
    granted = await world.runs.finished(
        await world.jobs.add("one", cron=HOURLY, on_complete=url), Status.SUCCEEDED
    )
    running = await world.runs.running(await world.jobs.add("two", cron=HOURLY, on_fail=url))
    async with world.ledger.write() as session:
        await outbox.enqueue_message(
            session,
            key="one",
            purpose=outbox.ALERT,
            event="failed",
            channel=outbox.FILE,
            subject="s",
            body="b",
            now=world.clock.now(),
        )
    recorded = await _restore(world, seconds=1)

    assert recorded.messages == 2  # that of the unknown run too
    rows = await _messages(world)
    assert {row.status for row in rows if row.address == url} == {"failed"}
    assert all("it may have been delivered" in str(r.error) for r in rows if r.address == url)
    in_home = {row.address: row.status for row in rows if outbox.is_builtin_queue(row.queue)}
    assert in_home == {"file": "pending", "inbox": "delivered"}
    for each in (granted, running):
        assert (await world.runs.row(each.run_id)).delivery == "failed"


async def test_tasks_wait_for_the_operator(world: World) -> None:
    claimed = await world.tasks.claimed("one")
    queued = await world.tasks.add("sweep")
    recorded = await _restore(world)
    assert recorded.paused == {"tasks": 2}

    await world.tasks.sweep()
    await world.tasks.register("two")
    with pytest.raises(NothingClaimable):
        await world.tasks.claim("two")
    await queue.resume(world.ledger, queued.id)
    assert (await world.tasks.claim("two")).run.id == queued.id
    assert [each.event for each in await world.tasks.events(claimed.run.id)].count("paused") == 1


def _custom(world: World, flow_run_id: str, **changes: object) -> ClaimRequest:
    request = ClaimRequest(
        occurrence=flow_key(flow_run_id),
        kind="agent-prompt",
        trigger="manual",
        due=world.clock.now().replace(microsecond=0),
        holder="here:1",
        parameters={"prompt": "x"},
        flow_run_id=flow_run_id,
    )
    return replace(request, **changes)  # type: ignore[arg-type]


async def test_a_run_of_prefect_whose_row_may_be_lost_is_missed(world: World) -> None:
    stored = await world.jobs.add(every="1h")
    old = _custom(world, "started between backup and restore", job_id=stored.id)
    await _restore(world, minutes=5)
    request = f"request:{stored.id}:lost"
    for lost in (
        old,
        # Prefect expects the run that Daybook made for a lost row later.
        _custom(world, "later", occurrence=request, due=world.at(minutes=5)),
    ):
        world.clock.set(max(world.clock.now(), lost.due))
        answer = await world.runs.claim(lost)
        assert isinstance(answer, Finished)
        assert (answer.status, answer.reason) == (Status.MISSED, REASON)
    # Whatever happens again, it has its row.
    assert isinstance(await world.runs.claim(old), Finished)
    # A run that was started after the restore runs.
    assert isinstance(await world.runs.claim(_custom(world, "new")), Granted)


async def test_a_person_can_retry_a_run_that_the_restore_missed(world: World) -> None:
    old = _custom(world, "old")
    await _restore(world, minutes=5)
    assert isinstance(await world.runs.claim(old), Finished)
    again = replace(old, flow_starts=2, retries=(1,))
    assert isinstance(await world.runs.claim(again), Granted)


async def test_a_crash_that_prefect_reports_of_a_lost_run_does_not_make_it_wait(
    world: World,
) -> None:
    stored = await world.jobs.add(every="1h")
    old = _custom(world, "old", job_id=stored.id)
    await _restore(world, minutes=5)
    end = EndInPrefect("old", "CRASHED", "Crashed", "killed", old)
    assert await prefect_ends.apply_end(world.ledger, end) is None
    assert await world.runs.rows() == []


async def test_a_future_run_that_was_cancelled_in_prefect_after_the_backup_stays_cancelled(
    world: World,
) -> None:
    stored = await world.jobs.add(cron=HOURLY)
    backup = world.clock.now()
    await prefect_ends.advance(world.ledger, backup)
    await _restore(world, minutes=5)
    async with world.ledger.read() as session:
        # The keeper reads what ended in Prefect from the backup on.
        assert await prefect_ends.read_until(session) == backup
    request = world.runs.claim_request(stored, flow_run_id="next")
    assert request.due > world.clock.now()
    end = EndInPrefect("next", "CANCELLED", "Cancelled", "", request)
    assert await prefect_ends.apply_end(world.ledger, end) is Status.CANCELLED


async def test_a_later_restore_records_what_became_due_meanwhile(world: World) -> None:
    await world.jobs.add()
    backup = world.clock.now()
    for hours in (1, 2):
        world.passes(hours=hours)
        async with world.ledger.write() as session:
            recorded = await uncertain.record(session, Restore(backup=backup, at=world.clock.now()))
        assert recorded == Recorded(missed=hours)
    assert [row.count for row in await world.runs.rows()] == [3]


async def test_without_a_restore_nothing_is_lost(world: World) -> None:
    assert isinstance(await world.runs.claim(_custom(world, "old")), Granted)
