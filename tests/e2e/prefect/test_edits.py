"""Import of edits from a real Prefect, sent as its UI sends them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pytest
from sqlmodel import col, select

from daybook.jobs import store
from daybook.ledger.tables import RevisionRow
from daybook.prefect import projection
from daybook.prefect.summary import summary
from daybook.schedules.due import due_times
from daybook.schedules.schedule import At, Cron, Every, OnDemand

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

STRANGE = "DTSTART:20260101T090000\nRRULE:FREQ=MONTHLY;BYDAY=2MO"


async def revisions(world: Any, name: str) -> list[RevisionRow]:
    job_id = (await world.jobs.get(name)).id
    of_job = select(RevisionRow).where(col(RevisionRow.job_id) == job_id)
    async with world.ledger.read() as session:
        rows = (await session.execute(of_job.order_by(col(RevisionRow.number)))).scalars()
        return list(rows)


async def assert_in_sync(world: Any, name: str) -> None:
    """Assert that both sides agree and a sync changes nothing."""
    report = await world.sync()
    assert (report.writes, report.pulled, report.unchanged) == (0, [], 1)
    job, found = await world.jobs.get(name), await world.deployments.get(name)
    assert projection.of_job(job, world.ledger.id) == projection.of_deployment(found)


async def test_an_edited_schedule_takes_effect_from_the_time_of_the_edit(world: Any) -> None:
    before = await world.jobs.add("a-job", cron="0 9 * * *")
    await world.sync()
    (held,) = (await world.deployments.get("a-job")).schedules
    schedule = {"cron": "*/30 * * * * 15", "timezone": "America/New_York", "day_or": True}
    edited = await world.deployments.edit_schedule("a-job", active=True, schedule=schedule)
    # A later edit of another field does not change the schedule's time.
    await world.deployments.edit("a-job", parameters=before.job.parameters() | {"prompt": "New"})
    prompted = (await world.deployments.get("a-job")).updated
    report = await world.sync()
    assert (report.pulled, report.updated, report.conflicts) == (["a-job"], ["a-job"], {})
    job = await world.jobs.get("a-job")
    # Prefect's cron has the seconds last.
    assert job.job.schedule == Cron(expr="15 */30 * * * *", timezone="America/New_York")
    assert job.job.action.prompt == "New"
    revisions_seen = [(row.effective_from, row.source) for row in await revisions(world, "a-job")][
        1:
    ]
    assert revisions_seen == [(edited, "prefect"), (prompted, "prefect")]
    found = await world.deployments.get("a-job")
    assert found.description == summary(job.job)
    assert "`New`" in found.description
    assert found.schedules[0].id == held.id  # so an open page of the UI keeps working
    due = list(islice(due_times(job.job.schedule, after=edited), 3))
    assert (await world.deployments.due("a-job"))[:3] == due
    await assert_in_sync(world, "a-job")


@pytest.mark.parametrize("cron", ["0 10 * * *", ""])
async def test_a_redeployment_keeps_a_pause_that_a_resume_in_prefect_ends(
    world: Any, cron: str
) -> None:
    schedule = {"cron": "0 9 * * *", "timezone": "UTC"} if cron else {"on_demand": True}
    await world.jobs.add("a-job", description="My words", **schedule)
    await world.sync()
    await world.jobs.edit("a-job", enabled=False, reason="paused: holiday")
    await world.sync()
    assert (await world.deployments.get("a-job")).paused

    await world.deployments.deploy("a-job", cron)

    assert not (await world.deployments.get("a-job")).paused
    await world.sync()
    job, found = await world.jobs.get("a-job"), await world.deployments.get("a-job")
    assert (job.job.enabled, job.row.disabled_reason) == (False, "paused: holiday")
    assert getattr(job.job.schedule, "expr", "") == cron
    assert job.job.description == "My words"
    assert found.paused and found.description.endswith("My words")
    await assert_in_sync(world, "a-job")

    await world.deployments.edit("a-job", paused=False)
    assert (await world.sync()).pulled == ["a-job"]
    job = await world.jobs.get("a-job")
    assert (job.job.enabled, job.row.disabled_reason) == (True, "")
    await assert_in_sync(world, "a-job")


@pytest.mark.slow
async def test_an_imported_interval_keeps_its_phase(world: Any) -> None:
    await world.jobs.add("a-job", cron="0 9 * * *", timezone="Asia/Tokyo")
    await world.sync()
    schedule = {"interval": 5400.0, "anchor_date": "2026-01-01T00:10:20.5Z", "timezone": "UTC"}
    await world.deployments.edit_schedule("a-job", active=True, schedule=schedule)
    assert (await world.sync()).pulled == ["a-job"]
    taken = (await world.jobs.get("a-job")).job.schedule
    assert isinstance(taken, Every)
    assert taken.every == timedelta(minutes=90)
    assert taken.timezone == "Asia/Tokyo"
    assert (taken.anchor - datetime(2026, 1, 1, 0, 10, 20, tzinfo=UTC)) % taken.every == timedelta()
    due = list(islice(due_times(taken, after=world.ledger.now()), 3))
    assert (await world.deployments.due("a-job"))[:3] == due
    await assert_in_sync(world, "a-job")


@pytest.mark.slow
async def test_a_zoned_interval_of_a_day_is_imported_and_rewritten_in_utc(world: Any) -> None:
    await world.jobs.add("a-job", cron="0 9 * * *")
    await world.sync()
    anchor = "2026-01-01T08:00:00Z"
    schedule = {"interval": 86400.0, "anchor_date": anchor, "timezone": "Europe/Berlin"}
    await world.deployments.edit_schedule("a-job", active=True, schedule=schedule)
    await world.prefect.request(
        "POST", f"/deployments/{(await world.deployments.get('a-job')).id}/schedule", {}
    )
    theirs = (await world.deployments.due("a-job"))[0]
    report = await world.sync()
    assert (report.pulled, report.updated) == (["a-job"], ["a-job"])
    held = (await world.deployments.get("a-job")).schedules[0].schedule
    assert held.timezone == "UTC"
    assert (await world.deployments.due("a-job"))[0] == theirs
    await assert_in_sync(world, "a-job")


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo"])
@pytest.mark.slow
async def test_a_one_time_rrule_is_due_at_the_instant_that_prefect_queues(
    world: Any, zone: str
) -> None:
    await world.jobs.add("a-job", on_demand=True)
    await world.sync()
    rule = "DTSTART:20300115T143000Z\nRRULE:COUNT=1;FREQ=YEARLY"
    await world.deployments.add_schedule("a-job", {"rrule": rule, "timezone": zone})
    assert (await world.sync()).pulled == ["a-job"]
    taken = (await world.jobs.get("a-job")).job.schedule
    assert isinstance(taken, At)
    found = await world.deployments.get("a-job")
    far = {"start_time": "2030-01-01T00:00:00Z"}
    await world.prefect.request("POST", f"/deployments/{found.id}/schedule", far)
    assert await world.deployments.due("a-job") == [taken.at]
    await assert_in_sync(world, "a-job")


async def test_prefects_pause_and_schedule_switch_disable_and_enable_the_job(world: Any) -> None:
    await world.jobs.add("a-job", every="1h")
    await world.sync()
    await world.deployments.edit("a-job", paused=True)
    assert (await world.sync()).pulled == ["a-job"]
    job = await world.jobs.get("a-job")
    assert not job.job.enabled
    assert job.row.disabled_reason == "turned off in Prefect"
    assert job.revision.effective_from == (await world.deployments.get("a-job")).updated
    await assert_in_sync(world, "a-job")
    await world.deployments.edit("a-job", paused=False)
    await world.sync()
    assert (await world.jobs.get("a-job")).job.enabled
    off = await world.deployments.edit_schedule("a-job", active=False)
    await world.sync()
    job = await world.jobs.get("a-job")
    assert not job.job.enabled
    assert job.revision.effective_from == off
    await assert_in_sync(world, "a-job")
    on = await world.deployments.edit_schedule("a-job", active=True)
    await world.sync()
    job = await world.jobs.get("a-job")
    assert job.job.enabled
    assert job.revision.effective_from == on
    await assert_in_sync(world, "a-job")


@pytest.mark.slow
async def test_other_edits_keep_the_reason_why_a_job_is_disabled(world: Any) -> None:
    await world.jobs.add("a-job", every="1h")
    await world.jobs.edit("a-job", enabled=False, reason="paused: holidays")
    await world.sync()
    await world.deployments.edit("a-job", tags=["new", f"daybook:{world.ledger.id}"])
    assert (await world.sync()).pulled == ["a-job"]
    row = (await world.jobs.get("a-job")).row
    assert (row.tags, row.disabled_reason) == (["new"], "paused: holidays")


async def test_edited_tags_and_description_are_imported_and_daybooks_part_restored(
    world: Any,
) -> None:
    await world.jobs.add("a-job", every="1h", tags=["old"], description="Old words")
    await world.sync()
    await world.deployments.edit(
        "a-job", tags=["new", "newer"], description="New words\n\nand more"
    )
    report = await world.sync()
    assert (report.pulled, report.updated, report.created) == (["a-job"], ["a-job"], [])
    row = (await world.jobs.get("a-job")).row
    assert (row.tags, row.description) == (["new", "newer"], "New words\n\nand more")
    found = await world.deployments.get("a-job")
    assert found.tags == ["new", "newer", f"daybook:{world.ledger.id}"]
    assert (
        found.description
        == f"{summary((await world.jobs.get('a-job')).job)}\n\nNew words\n\nand more"
    )
    assert len(await revisions(world, "a-job")) == 1
    await assert_in_sync(world, "a-job")


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"parameters": {"prompt": " "}}, "prompt"),
        ({"parameters": {"prompt": "x", "policy": {"timeout": "soon"}}}, "timeout"),
        ({"parameters": {"prompt": "x", "surprise": 1}}, "surprise"),
        ({"parameters": {}}, "prompt"),
        ({"parameters": {"prompt": "{{output:nobody}}"}}, 'unknown "nobody"'),
        ({"tags": ["fine", " "]}, "tags"),
    ],
)
@pytest.mark.slow
async def test_an_invalid_edit_is_not_imported(world: Any, body: dict[str, Any], word: str) -> None:
    before = await world.jobs.add("a-job", every="1h")
    await world.jobs.add("other", every="1h")
    await world.sync()
    await world.deployments.edit("a-job", enforce_parameter_schema=False, **body)
    await world.deployments.edit("other", parameters=before.job.parameters() | {"prompt": "New"})
    report = await world.sync()
    assert word in report.refused["a-job"]
    # The summary of `other` has the new prompt.
    assert (report.pulled, sorted(report.updated)) == (["other"], ["a-job", "other"])
    assert (await world.jobs.get("a-job")).job == before.job
    assert (await world.jobs.get("other")).job.action.prompt == "New"
    assert len(await revisions(world, "a-job")) == 1
    assert (await world.sync()).writes == 0


@pytest.mark.parametrize(
    "schedule",
    [
        {"rrule": STRANGE, "timezone": "UTC"},
        {"cron": "0 0 9 * * * 2030", "timezone": "UTC", "day_or": True},
        {"cron": "0 9 1 * 1", "timezone": "UTC", "day_or": False},
        {"interval": 0.5, "anchor_date": "2026-01-01T00:00:00Z", "timezone": "UTC"},
    ],
    ids=["rrule", "seven-fields", "day-and", "half-a-second"],
)
@pytest.mark.slow
async def test_a_schedule_that_no_job_supports_stays_prefects_own(
    world: Any, schedule: dict[str, Any]
) -> None:
    await world.jobs.add("a-job", every="1h")
    await world.sync()
    edited = await world.deployments.edit_schedule("a-job", active=True, schedule=schedule)
    held = (await world.deployments.get("a-job")).schedules
    report = await world.sync()
    assert (list(report.foreign), report.pulled) == (["a-job"], ["a-job"])
    # From the edit on, the job has no due times of the old schedule.
    job = await world.jobs.get("a-job")
    assert (job.job.schedule, job.job.enabled) == (OnDemand(timezone="Europe/Berlin"), True)
    assert job.revision.effective_from == edited
    assert job.row.synced["foreign"] == [report.foreign["a-job"]]
    report = await world.sync()
    assert (list(report.foreign), report.pulled, report.writes) == (["a-job"], [], 0)
    await world.jobs.edit("a-job", prompt="New")
    assert (await world.sync()).updated == ["a-job"]
    assert (await world.deployments.get("a-job")).schedules == held
    # Only a new schedule of the job replaces it, and the report shows that as a conflict.
    await world.jobs.edit("a-job", every="2h")
    report = await world.sync()
    assert "foreign" in report.conflicts["a-job"]["schedule"]
    await assert_in_sync(world, "a-job")


async def test_a_cron_that_only_prefect_accepts_is_replaced_by_the_jobs(world: Any) -> None:
    before = await world.jobs.add("a-job", every="1h")
    await world.sync()
    await world.deployments.edit_schedule(
        "a-job", active=True, schedule={"cron": "0 9 5-5 * *", "timezone": "UTC", "day_or": True}
    )
    report = await world.sync()
    assert "5-5" in report.refused["a-job"]
    assert (await world.jobs.get("a-job")).job == before.job
    await assert_in_sync(world, "a-job")


@pytest.mark.slow
async def test_a_second_schedule_of_a_deployment_is_kept_and_reported(world: Any) -> None:
    await world.jobs.add("a-job", every="1h")
    await world.sync()
    await world.deployments.add_schedule("a-job", {"cron": "0 9 * * *", "timezone": "UTC"})
    report = await world.sync()
    assert (report.writes, report.pulled, list(report.foreign)) == (0, [], ["a-job"])
    await world.prefect.request(
        "PATCH", f"/deployments/{(await world.deployments.get('a-job')).id}", {"paused": True}
    )
    assert (await world.sync()).pulled == ["a-job"]
    await world.jobs.edit("a-job", enabled=True, every="3h")
    await world.sync()
    found = await world.deployments.get("a-job")
    assert sorted(each.slug or "" for each in found.schedules) == ["", "daybook-every-3-hours"]
    assert (await world.sync()).writes == 0


@pytest.mark.slow
async def test_a_job_without_a_schedule_in_prefect_is_on_demand_until_it_gets_one(
    world: Any,
) -> None:
    await world.jobs.add("a-job", every="1h")
    await world.sync()
    found = await world.deployments.get("a-job")
    await world.prefect.request(
        "DELETE", f"/deployments/{found.id}/schedules/{found.schedules[0].id}"
    )
    await world.sync()
    assert isinstance((await world.jobs.get("a-job")).job.schedule, OnDemand)
    await world.deployments.add_schedule(
        "a-job", {"cron": "0 9 * * *", "timezone": "UTC", "day_or": True}
    )
    await world.sync()
    assert (await world.jobs.get("a-job")).job.schedule == Cron(expr="0 9 * * *", timezone="UTC")
    await assert_in_sync(world, "a-job")


@pytest.mark.slow
async def test_a_field_changed_on_both_sides_keeps_the_ledgers_value(world: Any) -> None:
    before = await world.jobs.add("a-job", every="1h", tags=["old"])
    await world.sync()
    theirs = before.job.parameters() | {"prompt": "Theirs"}
    await world.deployments.edit("a-job", parameters=theirs, description="Their words")
    await world.jobs.edit("a-job", prompt="Ours", tags=["ours"])
    report = await world.sync()
    assert report.conflicts == {"a-job": {"parameters": theirs}}
    assert report.pulled == ["a-job"]
    job = await world.jobs.get("a-job")
    assert job.job.action.prompt == "Ours"
    assert (job.row.tags, job.row.description) == (["ours"], "Their words")
    assert (await world.deployments.get("a-job")).parameters["prompt"] == "Ours"
    await assert_in_sync(world, "a-job")


async def test_a_new_time_in_prefect_enables_a_fired_job_again(world: Any) -> None:
    stored = await world.jobs.add("a-job", at="in 1h")
    await world.sync()
    async with world.ledger.write() as session:  # as the end of its run does
        newest = await store.get(session, stored.id)
        assert newest is not None
        off = newest.job.model_copy(update={"enabled": False})
        await store.change(
            session,
            newest,
            off,
            world.ledger.now(),
            disabled_reason=f"{store.FIRED_REASON}: succeeded",
        )
    await world.sync()
    assert (await world.deployments.get("a-job")).paused
    await world.deployments.edit("a-job", tags=["touched", f"daybook:{world.ledger.id}"])
    await world.sync()
    assert not (await world.jobs.get("a-job")).job.enabled
    rule = "DTSTART:20300115T143000Z\nRRULE:FREQ=DAILY;COUNT=1"
    await world.deployments.edit_schedule(
        "a-job", active=True, schedule={"rrule": rule, "timezone": "UTC"}
    )
    assert (await world.sync()).pulled == ["a-job"]
    job = await world.jobs.get("a-job")
    assert job.job.enabled
    assert job.row.disabled_reason == ""
    assert job.job.schedule.at == datetime(2030, 1, 15, 14, 30, tzinfo=UTC)
    assert not (await world.deployments.get("a-job")).paused
    await assert_in_sync(world, "a-job")


async def test_parameters_on_a_schedule_are_reported_and_kept(world: Any) -> None:
    await world.jobs.add("a-job", every="1h")
    await world.sync()
    await world.deployments.edit_schedule("a-job", parameters={"prompt": "Other"}, active=True)
    assert "prompt" in (await world.sync()).foreign["a-job"]
    await world.jobs.edit("a-job", every="2h")
    await world.sync()
    assert (await world.deployments.get("a-job")).schedules[0].parameters == {"prompt": "Other"}
