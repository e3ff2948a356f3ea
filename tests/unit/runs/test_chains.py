"""Chains: jobs that run after another job, once for each outcome that starts them."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col

from daybook.diagnosis import findings
from daybook.errors import InvalidInput, UnknownName
from daybook.jobs import store, summaries
from daybook.jobs.limits import AgentLimits
from daybook.jobs.store import StoredJob
from daybook.ledger.states import Status
from daybook.ledger.tables import AttemptRow, JobRow, RunRow
from daybook.runs import slots
from daybook.runs.claim_requests import Finished, Waiting
from tests.world import World

pytestmark = pytest.mark.anyio


async def chained(
    world: World, on: str = "succeeded", **fields: Any
) -> tuple[StoredJob, StoredJob]:
    """Return two jobs, `brief` and one that runs after it."""
    first = await world.jobs.add("brief", cron="0 * * * *")
    return first, await world.jobs.add("report", after="brief", on=on, **fields)


async def started(world: World, job: StoredJob) -> list[RunRow]:
    return [row for row in await world.runs.rows() if row.job_id == job.id]


@pytest.mark.parametrize("on", ["succeeded", "failed", "any"])
@pytest.mark.parametrize(
    ("status", "starts"),
    [
        (Status.SUCCEEDED, {"succeeded", "any"}),
        (Status.FAILED, {"failed", "any"}),
        (Status.TIMED_OUT, {"failed", "any"}),
        (Status.UNKNOWN, {"failed", "any"}),
        (Status.CANCELLED, set()),
    ],
)
async def test_an_outcome_starts_the_jobs_that_wait_for_it(
    world: World, on: str, status: Status, starts: set[str]
) -> None:
    first, second = await chained(world, on)
    await world.runs.finished(first, status)
    rows = await started(world, second)
    expected = [("waiting", "after", world.ledger.now())] if on in starts else []
    assert [(row.status, row.trigger, row.due) for row in rows] == expected


async def test_a_skipped_run_starts_no_job(world: World) -> None:
    first, second = await chained(world, "any")
    granted = await world.runs.claimed(first)
    await world.runs.finish(granted, Status.SKIPPED)
    assert await started(world, second) == []


async def test_an_unknown_outcome_that_is_corrected_starts_a_job_once(world: World) -> None:
    first, both = await chained(world, "any")
    success = await world.jobs.add("celebrate", after="brief")
    granted = await world.runs.running(first)

    await world.runs.finish(granted, Status.UNKNOWN)
    await world.runs.finish(granted, Status.SUCCEEDED)
    await world.runs.finish(granted, Status.SUCCEEDED)

    assert len(await started(world, both)) == 1
    assert len(await started(world, success)) == 1


async def test_a_late_outcome_starts_a_job_once_although_the_job_was_edited(world: World) -> None:
    first, second = await chained(world, "failed")
    granted = await world.runs.running(first)
    await world.runs.finish(granted, Status.UNKNOWN)
    await world.jobs.edit(second.id, on="succeeded")

    assert await world.runs.finish(granted, Status.SUCCEEDED) is Status.SUCCEEDED

    assert len(await started(world, second)) == 1


async def test_a_disabled_or_snoozed_job_is_not_started(world: World) -> None:
    first, second = await chained(world)
    await world.jobs.edit("report", enabled=False)
    await world.runs.finished(first, Status.SUCCEEDED)
    await world.jobs.edit("report", enabled=True)
    async with world.ledger.write() as session:
        row = await world.jobs.row(second.id)
        row.snoozed_until = world.at(hours=2)
        session.add(row)
    await world.runs.finished(first, Status.SUCCEEDED)
    assert await started(world, second) == []

    world.passes(hours=2)
    await world.runs.finished(first, Status.SUCCEEDED)
    assert len(await started(world, second)) == 1


@pytest.mark.parametrize("off", ["paused", "snoozed", "removed"])
async def test_a_job_that_was_switched_off_meanwhile_is_skipped(world: World, off: str) -> None:
    first, second = await chained(world)
    await world.runs.finished(first, Status.SUCCEEDED)
    [row] = await started(world, second)
    if off == "paused":
        await world.jobs.edit("report", enabled=False)
    elif off == "removed":
        await world.jobs.archive("report")
    else:
        async with world.ledger.write() as session:
            job = await session.get(JobRow, second.id)
            assert job is not None
            job.snoozed_until = world.at(hours=2)
            session.add(job)

    answer = await world.runs.claim(row)

    assert isinstance(answer, Finished)
    assert answer.status is Status.SKIPPED


async def test_a_chained_job_runs_at_most_as_often_as_its_policy_allows(world: World) -> None:
    first, second = await chained(world, max_runs=1)
    for _ in range(2):
        await world.runs.finished(first, Status.SUCCEEDED)
    one, other = await started(world, second)
    await world.runs.finished(one, Status.SUCCEEDED)
    answer = await world.runs.claim(other)
    assert isinstance(answer, Finished)
    assert answer.status is Status.SKIPPED


async def test_outcomes_during_a_run_of_the_chained_job_are_queued(world: World) -> None:
    first, second = await chained(world)
    for _ in range(2):
        await world.runs.finished(first, Status.SUCCEEDED)
    one, other = await started(world, second)
    granted = await world.runs.running(one)
    assert isinstance(await world.runs.claim(other), Waiting)
    await world.runs.finish(granted, Status.SUCCEEDED)
    await world.runs.finished(other, Status.SUCCEEDED)


async def test_user_jobs_that_are_switched_off_do_not_run_after_others(world: World) -> None:
    first, second = await chained(world)
    await world.runs.finished(first, Status.SUCCEEDED)
    [row] = await started(world, second)
    request = world.runs.claim_request(row, rules=AgentLimits(user_jobs=False))
    answer = await world.runs.claim(request)
    assert isinstance(answer, Finished)
    assert answer.status is Status.SKIPPED


async def test_a_correction_starts_no_job_again_whose_run_was_deleted(world: World) -> None:
    first, second = await chained(world, "any")
    granted = await world.runs.running(first)
    await world.runs.finish(granted, Status.UNKNOWN)
    [row] = await started(world, second)
    await world.runs.finished(row, Status.SUCCEEDED)
    async with world.ledger.write() as session:
        await session.execute(delete(AttemptRow).where(col(AttemptRow.run_id) == row.id))
        await session.execute(delete(RunRow).where(col(RunRow.id) == row.id))

    await world.runs.finish(granted, Status.SUCCEEDED)

    assert await started(world, second) == []


async def test_an_outcome_without_its_chained_runs_cannot_be_stored(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that dies between the two leaves neither, so the outcome is recorded again."""
    first, second = await chained(world)
    granted = await world.runs.running(first)

    async def dies(session: AsyncSession, *_: object) -> None:
        await session.flush()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(slots, "release_slot", dies)  # the last step of recording an outcome
        with pytest.raises(KeyboardInterrupt):
            await world.runs.finish(granted, Status.SUCCEEDED)
    assert (await world.runs.row(granted.run_id)).status == "running"
    assert await started(world, second) == []

    await world.runs.finish(granted, Status.SUCCEEDED)
    assert len(await started(world, second)) == 1


async def test_a_prompt_gets_the_answer_of_the_run_that_it_follows(world: World) -> None:
    first, _ = await chained(world, prompt="Shorten: {{output:brief}}", on="any")
    await world.runs.finished(first, Status.SUCCEEDED, output="one")
    await world.runs.finished(first, Status.FAILED, error="it broke")
    rows = [row for row in await world.runs.rows() if row.trigger == "after"]

    outputs = []
    for row in rows:
        granted = await world.runs.claimed(row)
        outputs.append(granted.outputs)
        await world.runs.finish(granted, Status.SKIPPED)
    assert outputs == [{"brief": "one"}, {"brief": "it broke"}]


async def test_a_prompt_gets_the_last_answer_of_a_job_that_it_does_not_follow(
    world: World,
) -> None:
    first = await world.jobs.add("brief", cron="0 * * * *")
    second = await world.jobs.add("report", prompt="Shorten: {{ output:brief }}", cron="30 * * * *")
    before = await world.runs.claimed(second)
    await world.runs.finish(before, Status.SKIPPED)
    await world.runs.finished(first, Status.SUCCEEDED, output="one")
    await world.runs.finished(first, Status.FAILED, error="it broke")
    after = await world.runs.claimed(second)
    await world.runs.finish(after, Status.SKIPPED)
    await world.jobs.archive("brief")
    without = await world.runs.claimed(second)
    assert [each.outputs for each in (before, after, without)] == [
        {"brief": ""},
        {"brief": "one"},
        {"brief": None},
    ]


async def test_a_chain_follows_the_new_name_of_its_job(world: World) -> None:
    _, second = await chained(world, prompt="Shorten: {{ output:brief }}, {{output:report}}")
    await world.jobs.edit("brief", name="morning")
    await world.jobs.edit("report", name="short")
    job = (await world.jobs.get("short")).job
    assert job.schedule.to_json()["job"] == "morning"
    assert job.action.prompt == "Shorten: {{output:morning}}, {{output:short}}"  # type: ignore[union-attr]
    await world.runs.finished(await world.jobs.get("morning"), Status.SUCCEEDED)
    assert len(await started(world, second)) == 1


async def test_a_cycle_is_refused(world: World) -> None:
    await chained(world)
    await world.jobs.add("third", after="report")
    with pytest.raises(InvalidInput) as refused:
        await world.jobs.edit("brief", after="third")
    assert refused.value.field == "after"
    assert "brief → third → report → brief" in refused.value.problem
    with pytest.raises(InvalidInput, match="brief → brief"):
        await world.jobs.edit("brief", after="brief")
    # A new name at the same time does not hide the cycle.
    with pytest.raises(InvalidInput, match="cycle"):
        await world.jobs.edit("brief", name="morning", after="third")
    assert (await world.jobs.get("brief")).job.schedule.kind == "cron"


async def test_a_job_can_only_name_jobs_of_its_own_namespace(world: World) -> None:
    await world.jobs.add("brief", owner="agent:helper", cron="0 * * * *")
    with pytest.raises(UnknownName) as refused:
        await world.jobs.add("report", after="brief")
    assert refused.value.field == "after"
    with pytest.raises(UnknownName) as refused:
        await world.jobs.add("report", prompt="Shorten: {{output:brief}}", cron="0 * * * *")
    assert refused.value.field == "prompt"
    mine = await world.jobs.add("report", owner="agent:helper", after="brief")
    user = await world.jobs.add("brief", cron="0 * * * *")
    await world.runs.finished(user, Status.SUCCEEDED)
    assert await started(world, mine) == []


async def test_status_warns_about_a_chain_whose_job_is_gone(world: World) -> None:
    await chained(world, prompt="Shorten: {{output:brief}}")
    await world.jobs.add("brief", owner="agent:helper", cron="0 * * * *")
    await world.jobs.add("report", owner="agent:helper", after="brief")
    await world.jobs.archive((await world.jobs.get("brief")).id)

    async with world.ledger.read() as session:
        found = findings.broken_chains(
            await summaries.read(session), await store.used_outputs(session)
        )
    assert [each.message for each in found] == [
        "report runs after brief, which does not exist",
        "report uses the answer of brief, which does not exist",
    ]

    await world.jobs.edit("report", enabled=False)
    async with world.ledger.read() as session:
        outputs = await store.used_outputs(session)
        assert findings.broken_chains(await summaries.read(session), outputs) == []


async def test_the_last_run_of_a_removed_job_does_not_start_the_jobs_after_its_namesake(
    world: World,
) -> None:
    first, second = await chained(world)
    granted = await world.runs.running(await world.runs.request(first))
    await world.jobs.archive("brief")
    await world.jobs.add("brief", slug="brief-2", cron="0 * * * *")
    await world.runs.finish(granted, Status.SUCCEEDED)
    assert await started(world, second) == []
