"""Outcomes: what they write to the run, its attempt and the job (requirements 18, 20)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from daybook.errors import IllegalTransition, NotFound
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import JobRow
from daybook.runs import claims
from daybook.runs.claim_requests import Waiting
from daybook.runs.outcomes import MAX_OUTPUT_CHARACTERS
from tests.world import World

pytestmark = pytest.mark.anyio


def _fields(job: JobRow) -> dict[str, Any]:
    names = ("last_status", "last_error", "run_count", "consecutive_failures")
    return {name: getattr(job, name) for name in names}


@pytest.mark.floor("A", "LastError is cleared by the next success")
@pytest.mark.floor("A", "A job keeps its last run, status and error")
@pytest.mark.floor("C", "last_run, last_error and run_count of a job")
async def test_each_outcome_updates_the_fields_of_the_job(world: World) -> None:
    stored = await world.jobs.add(every="10m")
    results: list[tuple[object, ...]] = []
    outcomes = [
        (Status.SUCCEEDED, {}),
        (Status.FAILED, {"error": "no"}),
        (Status.TIMED_OUT, {"reason": "too long"}),
        (Status.CANCELLED, {"reason": "by hand"}),
        (Status.UNKNOWN, {"reason": "gone"}),
        (Status.SUCCEEDED, {}),
    ]
    for status, fields in outcomes:
        granted = await world.runs.finished(stored, status, **fields)
        job = await world.jobs.row(stored.id)
        assert (job.last_run_id, job.last_run_at) == (granted.run_id, granted.due)
        results.append(tuple(_fields(job).values()))

    assert results == [
        ("succeeded", None, 1, 0),
        ("failed", "no", 2, 1),
        ("timed_out", "too long", 3, 2),
        ("cancelled", "too long", 4, 2),
        ("unknown", "gone", 5, 3),
        ("succeeded", None, 6, 0),
    ]


async def test_lone_surrogates_in_an_outcome_are_replaced(world: World) -> None:
    stored = await world.jobs.add()
    ran = await world.runs.finished(
        stored,
        Status.SUCCEEDED,
        output="a\ud83db",
        result={"k\udc00": ["\ud83d", 1, None, "😀"]},
        reason="\ud800",
    )

    row = await world.runs.row(ran.run_id)
    assert (row.output, row.reason) == ("a\ufffdb", "\ufffd")
    assert row.result == {"k\ufffd": ["\ufffd", 1, None, "😀"]}


async def test_a_missed_due_time_does_not_count_as_a_run(world: World) -> None:
    stored = await world.jobs.add(every="1m")
    claim_request = world.runs.claim_request(stored)
    world.clock.set(claim_request.due + timedelta(minutes=5))
    await world.runs.claim(claim_request)

    assert _fields(await world.jobs.row(stored.id)) == {
        "last_status": "missed",
        "last_error": None,
        "run_count": 0,
        "consecutive_failures": 0,
    }


async def test_a_failure_before_the_effect_counts_as_a_failure_but_not_as_a_run(
    world: World,
) -> None:
    stored = await world.jobs.add()
    granted = await world.runs.claimed(stored)

    await world.runs.finish(granted, Status.FAILED, error="parameters do not fit")

    job = await world.jobs.row(stored.id)
    assert (job.run_count, job.consecutive_failures) == (0, 1)
    assert job.last_error == "parameters do not fit"


@pytest.mark.parametrize(
    ("late", "failures", "error"),
    [
        (Status.SUCCEEDED, 0, None),
        (Status.FAILED, 2, "after all"),
        (Status.TIMED_OUT, 2, "after all"),
        (Status.CANCELLED, 1, "the first"),
    ],
)
async def test_a_late_outcome_corrects_the_fields_of_the_job(
    world: World, late: Status, failures: int, error: str | None
) -> None:
    stored = await world.jobs.add(every="10m")
    await world.runs.finished(stored, Status.FAILED, error="the first")
    lost = await world.runs.finished(stored, Status.UNKNOWN, reason="gone")
    assert (await world.jobs.row(stored.id)).consecutive_failures == 2
    world.clock.move(timedelta(seconds=1))

    await world.runs.finish(lost, late, error="after all" if late is not Status.SUCCEEDED else None)

    assert _fields(await world.jobs.row(stored.id)) == {
        "last_status": late,
        "last_error": error,
        "run_count": 2,
        "consecutive_failures": failures,
    }


async def test_a_late_failure_is_counted_from_the_last_success_on(world: World) -> None:
    stored = await world.jobs.add(every="10m")
    for status in (Status.FAILED, Status.SUCCEEDED):
        await world.runs.finished(stored, status, error="before")
    lost = await world.runs.finished(stored, Status.UNKNOWN, reason="gone")
    world.clock.move(timedelta(seconds=1))

    await world.runs.finish(lost, Status.TIMED_OUT, error="too long")

    assert _fields(await world.jobs.row(stored.id)) == {
        "last_status": "timed_out",
        "last_error": "too long",
        "run_count": 3,
        "consecutive_failures": 1,
    }


async def test_a_late_outcome_keeps_the_last_run_and_status_of_the_job(world: World) -> None:
    stored = await world.jobs.add(every="10m")
    lost = await world.runs.finished(stored, Status.UNKNOWN, reason="gone")
    later = await world.runs.finished(stored, Status.FAILED, error="no")
    before = _fields(await world.jobs.row(stored.id))
    assert before["consecutive_failures"] == 2

    await world.runs.finish(lost, Status.CANCELLED)

    job = await world.jobs.row(stored.id)
    assert (job.last_run_id, job.last_run_at) == (later.run_id, later.due)
    assert _fields(job) == before | {"consecutive_failures": 1}


async def test_a_late_outcome_corrects_the_disabled_reason_of_a_one_time_job(world: World) -> None:
    at = world.clock.now().replace(microsecond=0) + timedelta(minutes=5)
    stored = await world.jobs.add(at=at.isoformat())
    granted = await world.runs.finished(stored, Status.UNKNOWN)
    assert (await world.jobs.row(stored.id)).disabled_reason == "fired, unknown"

    await world.runs.finish(granted, Status.SUCCEEDED)

    assert (await world.jobs.row(stored.id)).disabled_reason == "fired, succeeded"


async def test_an_outcome_keeps_the_disabled_reason_of_a_removed_job(world: World) -> None:
    at = world.clock.now().replace(microsecond=0) + timedelta(minutes=5)
    stored = await world.jobs.add(at=at.isoformat())
    granted = await world.runs.running(stored)
    await world.jobs.archive(stored.id)

    await world.runs.finish(granted, Status.SUCCEEDED)

    assert (await world.jobs.row(stored.id)).disabled_reason == "removed"


async def test_removing_a_job_skips_its_waiting_runs(world: World) -> None:
    stored = await world.jobs.add()
    other = await world.runs.running(await world.jobs.add("other"))
    first = await world.runs.claim(world.runs.claim_request(stored, due=other.due, most=1))
    assert isinstance(first, Waiting)
    lost = await world.runs.running(stored)  # it has begun, and waits for its second attempt
    until = world.clock.now() + timedelta(hours=2)
    broke = Outcome(Status.FAILED, error="no")
    await claims.retry(world.ledger, lost.run_id, lost.fence, broke, until)

    await world.jobs.archive(stored.id)

    for run_id in (first.run_id, lost.run_id):
        row = await world.runs.row(str(run_id))
        assert (row.status, row.reason) == ("skipped", "the job was removed")
        assert (row.until, row.waits_for, row.lease_until) == (None, "", None)
        assert (row.finished_at, row.unmirrored) == (world.clock.now(), True)
    job = await world.jobs.row(stored.id)
    assert (job.last_run_id, job.last_status, job.run_count) == (lost.run_id, "skipped", 1)
    assert (job.last_run_at, job.disabled_reason) == (lost.due, "removed")
    assert job.archived_at == world.clock.now()


@pytest.mark.floor("C", "response: a run has the agent's answer")
async def test_all_fields_of_an_outcome_are_stored(world: World) -> None:
    granted = await world.runs.finished(
        await world.jobs.add(),
        Status.SUCCEEDED,
        output="Three things.",
        result={"things": 3},
        agent="claude",
        model="large",
        usage={"tokens": 12},
    )

    row = await world.runs.row(granted.run_id)
    assert (row.output, row.result, row.error) == ("Three things.", {"things": 3}, None)
    assert (row.agent, row.model, row.usage) == ("claude", "large", {"tokens": 12})
    assert (row.until, row.lease_until, row.finished_at) == (None, None, world.clock.now())


@pytest.mark.floor("C", "A long response is cut and marked")
@pytest.mark.parametrize(
    ("length", "stored_length", "mark"),
    [
        (MAX_OUTPUT_CHARACTERS, MAX_OUTPUT_CHARACTERS, ""),
        (
            MAX_OUTPUT_CHARACTERS + 1,
            MAX_OUTPUT_CHARACTERS,
            "\n… (1 more characters, in the run's artifact)",
        ),
        (
            MAX_OUTPUT_CHARACTERS + 1500,
            MAX_OUTPUT_CHARACTERS,
            "\n… (1,500 more characters, in the run's artifact)",
        ),
    ],
)
async def test_a_long_answer_is_cut_and_marked(
    world: World, length: int, stored_length: int, mark: str
) -> None:
    answer = "😀" * length
    granted = await world.runs.finished(await world.jobs.add(), Status.SUCCEEDED, output=answer)

    assert (await world.runs.row(granted.run_id)).output == "😀" * stored_length + mark


async def test_a_long_answer_in_the_evidence_is_cut_too(world: World) -> None:
    granted = await world.runs.finished(await world.jobs.add(), Status.CANCELLED)
    with pytest.raises(IllegalTransition):
        await world.runs.finish(granted, Status.SUCCEEDED, output="x" * 10 * MAX_OUTPUT_CHARACTERS)

    (known,) = (await world.runs.row(granted.run_id)).evidence
    assert len(known["output"]) < MAX_OUTPUT_CHARACTERS + 100


async def test_a_claim_lost_before_the_effect_does_not_count_as_an_attempt(world: World) -> None:
    claim_request = world.runs.claim_request(await world.jobs.add())
    granted = await world.runs.claimed(claim_request)
    await world.runs.lose()
    again = await world.runs.running(replace(claim_request, flow_run_id="another"))
    await world.runs.finish(again, Status.SUCCEEDED)

    assert again.run_id == granted.run_id
    (attempt,) = await world.runs.attempts(granted.run_id)
    assert (attempt.number, attempt.fence, attempt.status) == (1, 3, "succeeded")


async def test_a_live_state_is_refused_as_an_outcome(world: World) -> None:
    granted = await world.runs.running(await world.jobs.add())
    for status in (Status.WAITING, Status.CLAIMED, Status.RUNNING):
        with pytest.raises(IllegalTransition):
            await world.runs.finish(granted, status)
    assert (await world.runs.row(granted.run_id)).status == "running"


async def test_begin_of_a_nonexistent_run_is_not_found(world: World) -> None:
    with pytest.raises(NotFound, match='run "nobody" not found'):
        await claims.begin(world.ledger, "nobody", 1)
