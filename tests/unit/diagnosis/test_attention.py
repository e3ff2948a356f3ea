"""What needs a person, as Today shows it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from daybook.diagnosis import attention, findings
from daybook.finding import Finding, FindingAction
from daybook.ledger.states import Status
from daybook.ledger.tables import JobRow
from daybook.prefect import links
from daybook.runs import history
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("shared_ledger")]
UTC = ZoneInfo("UTC")


async def change(world: World, job_id: str, **fields: Any) -> None:
    async with world.ledger.write() as session:
        row = await session.get_one(JobRow, job_id)
        row.sqlmodel_update(fields)
        session.add(row)


async def needs(world: World) -> list[tuple[str, str]]:
    """Return kind and title of what needs a person; the changes of new jobs are synced."""
    for job_id in (await world.jobs.ids()).values():
        await change(world, job_id, sync_pending=False)
    return [(each.kind, each.title) for each in await firsts()]


async def firsts() -> list[Finding]:
    """Return the most urgent finding of each incident."""
    return [each.first for each in await attention.read(UTC)]


async def test_a_healthy_ledger_needs_nobody(world: World) -> None:
    job = await world.jobs.add("fine")
    await world.runs.finished(job, Status.SUCCEEDED)
    assert await needs(world) == []


async def test_the_third_empty_answer_in_a_row_is_a_need_and_a_finding(world: World) -> None:
    job = await world.jobs.add("quiet", prompt="x", cron="0 * * * *")
    for count, output in enumerate(("", "", "a word", "", "", ""), start=1):
        await world.runs.finished(job, Status.SUCCEEDED, output=output)
        world.clock.set(world.clock.now() + timedelta(hours=1))
        async with world.ledger.read() as session:
            found = findings.without_answers(await history.without_answers(session))
        assert len(found) == (count == 6), count
    assert await needs(world) == [("empty", "The last 3 answers of quiet are empty")]
    assert [each.message for each in found] == ["The last 3 answers of quiet are empty"]


async def test_failures_missed_due_times_and_paused_jobs_are_listed_with_a_fix(
    world: World,
) -> None:
    failing = await world.jobs.add("my failing job", prompt="x", cron="0 * * * *")
    await world.runs.finished(failing, Status.FAILED, error="out\nof luck")
    missing = await world.jobs.add("missing")
    row = await world.runs.request(missing)
    now = world.ledger.now()
    await world.runs.set_row(row, status="missed", finished_at=now, count=3, until=None)
    await world.jobs.add("resting")
    await world.jobs.edit("resting", enabled=False, reason="paused: holiday")
    await world.jobs.add("done")
    await world.jobs.edit("done", enabled=False, reason="fired at its due time")
    found = await needs(world)
    assert found == [
        ("failing", "my failing job failed once"),
        ("missed", "missing missed 3 due times"),
        ("paused", "resting is paused"),
    ]
    first = (await firsts())[0]
    assert (first.why, first.fix) == ("out of luck", "daybook show 'my failing job'")
    assert first.action is FindingAction.RUN
    assert first.job_id == failing.id


async def test_the_fix_for_an_agents_job_does_not_act_on_the_operators_job_of_its_name(
    world: World,
) -> None:
    await world.jobs.add("wipe", prompt="x", on_demand=True)
    decoy = await world.jobs.add("wipe", prompt="x", cron="0 * * * *", owner="agent:eve")
    option = await world.jobs.add("--help", prompt="x", cron="0 * * * *")
    for job in (decoy, option):
        await world.runs.finished(job, Status.FAILED, error="see the fix")
    fixes = {each.job_id: each.fix for each in await firsts() if each.job_id}
    assert fixes == {each.id: f"daybook show {each.id[:12]}" for each in (decoy, option)}


async def test_of_several_missed_due_times_the_newest_is_shown(world: World) -> None:
    job, now = await world.jobs.add("missing"), world.ledger.now()
    newest = ""
    for number, reason in enumerate(("z: the oldest", "m", "a: the newest")):
        row = await world.runs.request(job)
        at = now + timedelta(seconds=number)
        await world.runs.set_row(row, status="missed", finished_at=at, reason=reason, until=None)
        newest = row.id
    (need,) = [each for each in await firsts() if each.kind == "missed"]
    assert (need.title, need.why) == ("missing missed 3 due times", "a: the newest")
    assert need.run_id == newest


async def test_a_due_time_that_was_missed_before_a_success_needs_nobody(world: World) -> None:
    late = await world.jobs.add("late", prompt="x", cron="0 * * * *")
    lost = await world.jobs.add("lost", prompt="x", cron="0 * * * *")
    for job, status in ((late, "missed"), (lost, "unknown")):
        row = await world.runs.request(job)
        await world.runs.set_row(row, status=status, finished_at=world.ledger.now(), until=None)
    assert {kind for kind, _ in await needs(world)} == {"missed", "unknown"}
    world.passes(minutes=1)
    for job in (late, lost):
        await world.runs.finished(job, Status.SUCCEEDED, output="done")
    assert [kind for kind, _ in await needs(world)] == ["unknown"]  # it may have had an effect


async def test_conflicts_pending_changes_and_broken_chains_are_listed(world: World) -> None:
    disputed = await world.jobs.add("disputed")
    await world.jobs.add("second", prompt="x", after="disputed")
    assert ("chain", "second runs after gone, which does not exist") not in await needs(world)
    conflict = {"at": world.ledger.now().isoformat(), "fields": {"prompt": "y"}}
    await change(world, disputed.id, conflict=conflict)
    spoilt = await world.jobs.add("spoilt")
    async with world.ledger.write() as session:
        row = await session.get(JobRow, spoilt.id)
        assert row is not None
        links.record_conflict(row, {"tags": [" "]}, world.ledger.now(), invalid="a blank tag")
    await change(world, (await world.jobs.ids())["second"], runs_after="gone")
    assert await needs(world) == [
        ("conflict", "disputed was changed in both the ledger and Prefect"),
        ("conflict", "spoilt has an invalid value in Prefect"),
        ("chain", "second runs after gone, which does not exist"),
    ]
    await change(world, disputed.id, sync_pending=True)
    assert [each.why for each in await firsts()][:2] == ["prompt", "tags, a blank tag"]
    titles = [each.title for each in await firsts()]
    assert "A job has a change that Prefect does not have yet" in titles


async def test_a_budget_is_reported_from_four_fifths_on(world: World) -> None:
    job = await world.jobs.add("costly", prompt="x", cron="0 * * * *", tokens_per_day=1_000)
    await world.runs.finished(job, Status.SUCCEEDED, usage={"input_tokens": 700})
    assert await needs(world) == []
    world.passes(minutes=1)
    await world.runs.finished(job, Status.SUCCEEDED, usage={"output_tokens": 150})
    assert await needs(world) == [("budget", "costly has used 85% of its tokens")]
    world.passes(days=1)
    assert await needs(world) == []


async def test_a_failure_of_the_budget_of_a_day_needs_nobody_after_that_day(world: World) -> None:
    job = await world.jobs.add("costly", prompt="x", cron="0 * * * *", tokens_per_day=1_000)
    tomorrow = f"{world.clock.now() + timedelta(days=1):%Y-%m-%d} 00:00 UTC"
    error = "budget: 1,200 of 1,000 tokens per day are used; the day ends at " + tomorrow

    async def failing() -> list[str]:
        return [title for kind, title in await needs(world) if kind == "failing"]

    await world.runs.finished(job, Status.FAILED, error=error)
    assert await failing() == ["costly failed once"]
    world.passes(days=1)
    assert await failing() == []
    error = "budget: 1,200 of 1,000 tokens per run are used"
    await world.runs.finished(job, Status.FAILED, error=error)
    world.passes(days=1)
    assert await failing() == ["costly failed 2 times in a row"]


async def test_many_of_a_kind_are_counted(world: World) -> None:
    for number in range(findings.MAX_OF_A_KIND + 5):
        await world.jobs.add(f"job {number:02}")
        await world.jobs.edit(f"job {number:02}", enabled=False, reason="paused")
    found = await needs(world)
    assert len(found) == findings.MAX_OF_A_KIND
    assert found[-1] == ("paused", "6 more like this")


async def test_many_conflicts_hide_no_change_that_prefect_lacks(world: World) -> None:
    fields = {"at": world.ledger.now().isoformat(), "fields": {"prompt": "y"}}
    for number in range(findings.MAX_OF_A_KIND + 5):
        job = await world.jobs.add(f"job {number:02}")
        await change(world, job.id, conflict=fields, sync_pending=number == 0)
    found = [(each.kind, each.title) for each in await firsts()]
    assert len(found) == findings.MAX_OF_A_KIND + 1
    assert found[-2:] == [
        ("conflict", "6 more like this"),
        ("pending", "A job has a change that Prefect does not have yet"),
    ]


async def test_a_failing_job_leads_to_its_failed_run_after_a_cancelled_one(world: World) -> None:
    job = await world.jobs.add("nightly", prompt="x", cron="0 * * * *")
    failed = await world.runs.finished(job, Status.TIMED_OUT, error="too slow")
    world.passes(hours=1)
    cancelled = await world.runs.finished(job, Status.CANCELLED)
    (need,) = [each for each in await firsts() if each.kind == "failing"]
    assert cancelled.run_id != need.run_id == failed.run_id
    assert need.title == "nightly failed once"


async def test_a_failure_its_alert_its_unknown_run_and_its_pause_are_one_incident(
    world: World,
) -> None:
    broken = await world.jobs.add("broken", prompt="x", cron="0 * * * *")
    await world.runs.finished(broken, Status.UNKNOWN, reason="the worker vanished")
    world.passes(minutes=61)
    await world.runs.finished(broken, Status.FAILED, error="refused")
    await world.jobs.edit("broken", enabled=False, reason="paused: enough")
    await needs(world)
    (incident,) = await attention.read(UTC)
    assert incident.first.kind == "unknown"
    assert [each.title for each in incident.others] == [
        "broken failed 2 times in a row",
        "broken is paused",
        "2 unread alerts",
    ]
    actions = [each.action for each in incident.remedies]
    assert actions == [FindingAction.RUN, FindingAction.RESUME]


async def test_alerts_of_jobs_that_have_recovered_are_one_quiet_entry(world: World) -> None:
    for name in ("one", "two", "broken"):
        job = await world.jobs.add(name, prompt="x", cron="0 * * * *")
        await world.runs.finished(job, Status.FAILED, error="refused")
    for number, name in enumerate(("one", "two")):
        world.passes(minutes=1)
        await world.runs.finished(await world.jobs.get(name), Status.SUCCEEDED, output="fine")
        alerts = ["An alert of a job that has recovered", "2 alerts of jobs that have recovered"]
        assert ("recovered", alerts[number]) in await needs(world)
    kinds = [kind for kind, _ in await needs(world)]
    assert kinds == ["failing", "recovered"]


async def test_an_alert_without_a_troubled_job_keeps_its_subject(world: World) -> None:
    job = await world.jobs.add("gone", prompt="x", cron="0 * * * *")
    await world.runs.finished(job, Status.FAILED, error="refused")
    await world.jobs.archive("gone")
    ((kind, title),) = await needs(world)
    assert kind == "inbox"
    assert title.startswith("1 unread alert: gone")
