"""The projection of a job into Prefect and back, with due times from Prefect's own code."""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule, RRuleSchedule
from prefect.types import _datetime

from daybook import zone_names
from daybook.errors import InvalidInput
from daybook.jobs.model import new_job
from daybook.jobs.store import StoredJob
from daybook.ledger.tables import JobRow, RevisionRow
from daybook.prefect import projection
from daybook.schedules.due import due_times
from daybook.schedules.schedule import At, Cron, Every, OnDemand, Schedule
from tests import notifications, rows
from tests.costs import one_in
from tests.policies import DEFAULT

NOW = datetime(2026, 11, 20, 9, 30, 15, 250_000, tzinfo=UTC)
EDITED = NOW + timedelta(days=3, seconds=7)


def stored(**fields: Any) -> StoredJob:
    job = new_job(now=NOW, default_timezone="Europe/Berlin", **{"prompt": "Say so", **fields})
    row = JobRow(
        name=job.name,
        slug="a-job",
        kind=job.kind,
        created_at=NOW,
        updated_at=NOW,
        audited_until=NOW,
    )
    revision = RevisionRow(
        job_id=row.id,
        number=1,
        effective_from=NOW,
        enabled=job.enabled,
        schedule={},
        action={},
        policy={},
    )
    return StoredJob(row, revision, job)


def held(schedule: Any, minutes: int = 0, **fields: Any) -> DeploymentSchedule:
    made = NOW + timedelta(minutes=minutes)
    known = {"id": uuid4(), "created": made, "updated": made, "schedule": schedule}
    return DeploymentSchedule.model_validate(known | fields)


def deployment(*schedules: DeploymentSchedule, **fields: Any) -> DeploymentResponse:
    return DeploymentResponse(
        id=uuid4(), name="a-job", flow_id=uuid4(), schedules=list(schedules), **fields
    )


def plain(schedule: Schedule) -> dict[str, Any]:
    job = stored(on_demand=True)
    job = StoredJob(job.row, job.revision, job.job.model_copy(update={"schedule": schedule}))
    return projection.of_job(job, "l").schedule


def as_prefect_holds(plain: dict[str, Any]) -> dict[str, Any]:
    (schedule,) = projection.to_prefect_schedules(plain)
    again = type(schedule).model_validate(schedule.model_dump(mode="json"))
    return projection.of_deployment(deployment(held(again))).schedule


def prefect_fires(plain: dict[str, Any], after: datetime) -> Iterator[datetime]:
    """Return the due times that Prefect's scheduler computes."""
    from prefect.server.schemas import schedules as server

    (schedule,) = projection.to_prefect_schedules(plain)
    kind = getattr(server, type(schedule).__name__)
    dates = kind.model_validate(schedule.model_dump(mode="json"))._get_dates_generator(
        n=5, start=after + timedelta(microseconds=1)
    )
    return (datetime.fromisoformat(each.isoformat()).astimezone(UTC) for each in dates)


@pytest.mark.parametrize("step", one_in(2, [10, 1]))
def test_prefect_computes_due_times_in_each_zone_of_daybook(
    monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    every_zone = zoneinfo.available_timezones()  # Prefect reads it anew for each schedule
    monkeypatch.setattr(_datetime, "available_timezones", lambda: every_zone)
    for zone, row in rows.each(sorted(zone_names.names())[::step]):
        with row:
            schedule = Cron(expr="0 12 * * *", timezone=zone)
            expected = list(islice(due_times(schedule, after=NOW), 2))
            assert list(islice(prefect_fires(plain(schedule), NOW), 2)) == expected


CRONS = [
    ("0 9 * * 1-5", "0 9 * * 1-5"),
    ("15 0 9 * * *", "0 9 * * * 15"),
    ("*/20 * * * * *", "* * * * * */20"),
    ("0 */5 8-10 1,15 * MON", "*/5 8-10 1,15 * MON 0"),
    ("@daily", "@daily"),
    ("@hourly", "@hourly"),
    ("0 0 L * *", "0 0 L * *"),
]


@pytest.mark.parametrize(("own_text", "theirs"), CRONS)
def test_a_cron_schedule_survives_the_round_trip_with_the_same_due_times(
    own_text: str, theirs: str
) -> None:
    schedule = Cron(expr=own_text, timezone="Asia/Kolkata")
    there = plain(schedule)
    assert there == {"cron": theirs, "timezone": "Asia/Kolkata"}
    assert as_prefect_holds(there) == there
    assert projection.to_schedule(there, "UTC", EDITED) == schedule
    expected = list(islice(due_times(schedule, after=NOW), 5))
    assert list(prefect_fires(there, NOW)) == expected


@given(
    seconds=st.integers(1, 3 * 86_400),
    anchor=st.integers(-(10**9), 4 * 10**9),
    edited=st.integers(10**9, 3 * 10**9),
)
def test_an_interval_survives_the_round_trip_with_the_same_due_times(
    seconds: int, anchor: int, edited: int
) -> None:
    start, at = datetime.fromtimestamp(anchor, UTC), datetime.fromtimestamp(edited, UTC)
    schedule = Every(every=timedelta(seconds=seconds), anchor=start, timezone="Europe/Berlin")
    there = plain(schedule)
    assert as_prefect_holds(there) == there
    back = projection.to_schedule(there, "Asia/Tokyo", at)
    assert isinstance(back, Every)
    assert (back.every, back.timezone) == (schedule.every, "Asia/Tokyo")
    assert (back.anchor - schedule.anchor) % schedule.every == timedelta()
    assert at - schedule.every < back.anchor <= at
    assert plain(back) == there
    after = max(start, at)
    expected = list(islice(due_times(schedule, after=after), 5))
    assert list(islice(due_times(back, after=after), 5)) == expected
    assert list(prefect_fires(there, after)) == expected


def test_a_one_time_schedule_becomes_an_rrule_and_survives_the_round_trip() -> None:
    at = At(at=datetime(2027, 1, 15, 13, 30, tzinfo=UTC), timezone="Europe/Berlin")
    there = plain(at)
    assert as_prefect_holds(there) == there
    assert projection.to_schedule(there, "Europe/Berlin", EDITED) == at
    assert list(prefect_fires(there, NOW)) == [at.at]
    (rule,) = projection.to_prefect_schedules(there)
    assert rule.rrule.splitlines() == ["DTSTART:20270115T133000Z", "RRULE:FREQ=DAILY;COUNT=1"]


def test_a_job_on_demand_has_no_schedule_in_prefect() -> None:
    assert plain(OnDemand(timezone="UTC")) == {}
    assert projection.to_prefect_schedules({}) == []
    assert projection.of_deployment(deployment()).schedule == {}
    assert projection.to_schedule({}, "Asia/Tokyo", EDITED) == OnDemand(timezone="Asia/Tokyo")


RULES = [
    ("DTSTART:20300115T143000Z\nRRULE:FREQ=DAILY;COUNT=1", "UTC", "20300115T143000"),
    ("DTSTART:20300115T143000\nRRULE:COUNT=1;FREQ=YEARLY", "UTC", "20300115T143000"),
    ("DTSTART:20300115T143000Z\nRRULE:FREQ=DAILY;COUNT=1", "Europe/Berlin", "20300115T133000"),
    ("DTSTART:20300715T143000\nRRULE:FREQ=DAILY;COUNT=1", "Europe/Berlin", "20300715T123000"),
    (
        "DTSTART;TZID=America/New_York:20300715T143000\nRRULE:FREQ=DAILY;INTERVAL=2;COUNT=1",
        "Asia/Kolkata",
        "20300715T090000",
    ),
]


@pytest.mark.parametrize(("rule", "zone", "at"), RULES)
def test_a_one_time_rrule_has_the_due_time_that_prefect_computes(
    rule: str, zone: str, at: str
) -> None:
    from prefect.server.schemas import schedules as server

    read = projection.of_deployment(deployment(held(RRuleSchedule(rrule=rule, timezone=zone))))
    assert read.schedule == {"at": at}
    (fires,) = server.RRuleSchedule(rrule=rule, timezone=zone)._get_dates_generator(n=3, start=NOW)
    schedule = projection.to_schedule(read.schedule, "UTC", EDITED)
    assert isinstance(schedule, At)
    assert fires == schedule.at


FOREIGN = [
    RRuleSchedule(rrule="FREQ=HOURLY"),
    RRuleSchedule(rrule="DTSTART:20300101T000000Z\nRRULE:FREQ=DAILY;COUNT=2"),
    RRuleSchedule(rrule="DTSTART:20300101T000000Z\nRRULE:FREQ=DAILY;COUNT=1;BYDAY=MO"),
    RRuleSchedule(rrule="FREQ=DAILY;COUNT=1"),
    RRuleSchedule(rrule="DTSTART:99991231T233000Z\nRRULE:FREQ=DAILY;COUNT=1"),
    CronSchedule(cron="0 0 9 * * * 2030"),
    CronSchedule(cron="0 9 1 * 1", day_or=False),
    IntervalSchedule(interval=timedelta(seconds=0.5), anchor_date=NOW),
    IntervalSchedule(interval=timedelta(seconds=90.5), anchor_date=NOW),
]


@pytest.mark.parametrize("schedule", FOREIGN, ids=str)
def test_a_schedule_that_no_job_can_express_is_external_and_reported(schedule: Any) -> None:
    found = deployment(held(schedule))
    read = projection.of_deployment(found).schedule
    assert list(read) == ["foreign"]
    assert projection.describe_unmanaged(found) == [read["foreign"]]
    with pytest.raises(InvalidInput, match="schedule"):
        projection.to_schedule(read, "UTC", EDITED)


@pytest.mark.parametrize(
    "plain",
    [
        {"cron": "0 0 30 2 *", "timezone": "UTC"},
        {"cron": "0 9 5-5 * *", "timezone": "UTC"},
        {"cron": "0 9 * * *", "timezone": "Mars/Olympus"},
        {"interval": 200 * 365 * 86_400, "phase": 0},
        {"interval": 10**11, "phase": int(EDITED.timestamp()) + 600},
    ],
)
def test_a_schedule_that_prefect_accepts_but_a_job_does_not_is_refused(
    plain: dict[str, Any],
) -> None:
    with pytest.raises(InvalidInput):
        projection.to_schedule(plain, "UTC", EDITED)


ZONED = [
    (timedelta(days=1), "Europe/Berlin", True),
    (timedelta(days=2, hours=1), "Asia/Tokyo", True),
    (timedelta(hours=23), "Europe/Berlin", False),
    (timedelta(days=1), "UTC", False),
]


@pytest.mark.parametrize(("interval", "zone", "rewritten"), ZONED)
def test_a_zoned_interval_of_a_day_or_more_is_rewritten(
    interval: timedelta, zone: str, rewritten: bool
) -> None:
    anchor = datetime(2026, 1, 1, 8, 0, 0, 700_000, tzinfo=UTC)
    theirs = IntervalSchedule(interval=interval, anchor_date=anchor, timezone=zone)
    read = projection.of_deployment(deployment(held(theirs))).schedule
    back = projection.to_schedule(read, "UTC", EDITED)
    assert isinstance(back, Every)
    assert (back.anchor - anchor.replace(microsecond=0)) % interval == timedelta()
    assert (plain(back) != read) == rewritten


def test_a_job_is_enabled_only_if_deployment_and_schedule_are_active() -> None:
    cron = CronSchedule(cron="0 9 * * *", timezone="UTC")
    for paused, active in [(False, True), (True, True), (False, False), (True, False)]:
        found = deployment(held(cron, active=active), paused=paused)
        assert projection.of_deployment(found).enabled == (active and not paused)
    assert projection.of_deployment(deployment(paused=False)).enabled
    assert not projection.of_deployment(deployment(paused=True)).enabled


def test_of_several_schedules_daybooks_own_or_the_oldest_is_used() -> None:
    old = held(CronSchedule(cron="0 1 * * *", timezone="UTC"), minutes=1)
    new = held(CronSchedule(cron="0 2 * * *", timezone="UTC"), minutes=2, active=False)
    own = held(CronSchedule(cron="0 3 * * *", timezone="UTC"), minutes=3, slug="daybook")
    for order in ([old, new, own], [own, new, old], [new, own, old]):
        assert projection.own_schedule(deployment(*order)) is order[order.index(own)]
        description = projection.describe_unmanaged(deployment(*order))
        assert sorted(description) == [
            "a second schedule, cron 0 1 * * *, timezone UTC",
            "a second schedule, cron 0 2 * * *, timezone UTC",
        ]
    assert projection.of_deployment(deployment(new, old)).schedule["cron"] == "0 1 * * *"
    assert projection.of_deployment(deployment(new, old)).enabled
    assert projection.own_schedule(deployment()) is None


def test_a_projection_has_state_schedule_parameters_tags_and_description() -> None:
    job = stored(cron="0 9 * * 1-5", name="Morning", tags=["a", "b"], timeout="10m", enabled=False)
    assert projection.of_job(job, "0123").as_dict() == {
        "enabled": False,
        "schedule": {"cron": "0 9 * * 1-5", "timezone": "Europe/Berlin"},
        "parameters": {
            "prompt": "Say so",
            "agent": "default",
            "fallback_agents": [],
            "model": "",
            "session": "reuse",
            "session_key": "",
            "output_format": "text",
            "output_schema": {},
            "policy": {**DEFAULT, "timeout": "10m"},
            "notify": notifications.DEFAULT,
        },
        "tags": ["a", "b", "daybook:0123"],
        "description": "**Morning** — at 09:00 on weekdays, Europe/Berlin\n"
        "- Asks the agent `default`: `Say so`\n"
        "- Policy: timeout 10m",
    }
