"""Schedules: their fields, their text, and each refusal (requirements 1 to 5)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from daybook.errors import InvalidInput
from daybook.schedules import schedule as schedules
from daybook.schedules.schedule import After, At, Cron, Every, OnDemand, Schedule
from daybook.validation import STORED

NOW = datetime(2026, 11, 20, 8, 0, 0, 500_000, tzinfo=UTC)
WHOLE = NOW.replace(microsecond=0)
BERLIN = "Europe/Berlin"


def make(**fields: object) -> Schedule:
    given = {"timezone": BERLIN, "now": NOW, **fields}
    return schedules.make(**given)  # type: ignore[arg-type]


def parse(text: str, timezone: str = BERLIN, now: datetime = NOW) -> Schedule:
    return schedules.parse(text, timezone=timezone, now=now)


def test_a_phrase_has_the_years_of_a_date() -> None:
    for text, problem in (
        ("9999-12-31 at 23:00", "the last year is 9000"),
        ("0001-01-01 at 9:00", "the first year is 1000"),
    ):
        with pytest.raises(InvalidInput, match=problem):
            parse(text, "Asia/Tokyo")


@pytest.mark.parametrize("at", ["9999-12-31T23:30:00Z", "0001-01-01T00:00:00Z"])
@pytest.mark.parametrize("zone", ["Asia/Tokyo", "America/New_York"])
def test_a_stored_time_outside_of_the_legal_years_is_shown(at: str, zone: str) -> None:
    adapter: TypeAdapter[Schedule] = TypeAdapter(Schedule)
    fields = {"kind": "at", "at": at, "timezone": zone}
    with pytest.raises(ValidationError, match="year is"):
        adapter.validate_python(fields)
    stored = adapter.validate_python(fields, context=STORED)
    assert zone in stored.describe()
    assert (
        parse(stored.to_text(), zone, datetime(999, 1, 1, tzinfo=UTC)).only_due == stored.only_due
    )


@pytest.mark.floor("A", "Cron, Every and At are fields of their own")
@pytest.mark.floor("B", "A schedule is a cron expression, an interval or one time")
def test_each_kind_of_schedule_has_its_own_field() -> None:
    assert make(cron="0  9 * * 1-5") == Cron(expr="0 9 * * 1-5", timezone=BERLIN)
    assert make(every="90m") == Every(every=timedelta(minutes=90), anchor=WHOLE, timezone=BERLIN)
    assert make(at="2027-01-15T14:30:00+01:00") == At(
        at=datetime(2027, 1, 15, 13, 30, tzinfo=UTC), timezone=BERLIN
    )
    assert make(after=" brief ") == After(job="brief", timezone=BERLIN)
    assert make(after="brief", on="any") == After(job="brief", on="any", timezone=BERLIN)
    assert make(on_demand=True) == OnDemand(timezone=BERLIN)


@pytest.mark.floor("A", "A schedule has exactly one of Cron, Every and At")
@pytest.mark.floor("A", "AddJob refuses a one-time job whose time is in the past")
@pytest.mark.floor("B", "A job has exactly one schedule")
@pytest.mark.floor("B", "A job without a schedule is refused")
@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "schedule: is missing (set one of schedule, cron, every, at, after or on_demand)"),
        (
            {"cron": "@daily", "every": "5m"},
            "cron and every: only one of these can be given "
            "(schedule, cron, every, at, after or on_demand)",
        ),
        (
            {"cron": "@daily", "every": "5m", "at": "in 5m"},
            "cron and every and at: only one of these can be given "
            "(schedule, cron, every, at, after or on_demand)",
        ),
        (
            {"at": "in 5m", "on_demand": True},
            "at and on_demand: only one of these can be given "
            "(schedule, cron, every, at, after or on_demand)",
        ),
        (
            {"cron": "@daily", "timezone": "europe/berlin"},
            'timezone: unknown zone "europe/berlin" (did you mean Europe/Berlin?)',
        ),
        (
            {"cron": "0 0 30 2 *"},
            'cron: "0 0 30 2 *" never fires: month 2 has no day 30 '
            "(use a day that exists in the month)",
        ),
        (
            {"every": "0s"},
            'every: "0s" is zero '
            "(use a whole number of seconds, at least 1s, such as 90s, 30m, 1h30m or 2d)",
        ),
        ({"after": " "}, "after: the job's name is blank (use 1 to 100 characters)"),
        (
            {"after": "brief", "on": "success"},
            'on: "success" is not valid (use succeeded, failed or any)',
        ),
        (
            {"every": "5m", "on": "failed"},
            "on: needs a job to run after (set after to the name of a job)",
        ),
        ({"at": "30m"}, 'at: "30m" is ambiguous (write `in 30m`)'),
        (
            {"at": "in 0s"},
            'at: "0s" is zero '
            "(use a whole number of seconds, at least 1s, such as 90s, 30m, 1h30m or 2d)",
        ),
        (
            {"at": "2026-11-20T08:59:00+01:00"},
            "at: 2026-11-20T08:59:00+01:00 (Europe/Berlin) is in the past (use a future time)",
        ),
        (
            {"at": "2026-11-20T09:00:00"},
            "at: 2026-11-20T09:00:00+01:00 (Europe/Berlin) is in the past (use a future time)",
        ),
        (
            {"at": "tomorrow"},
            'at: "tomorrow" has no time of day (write "tomorrow at 9:00")',
        ),
        (
            {"at": "2027-01-15"},
            'at: "2027-01-15" is not an RFC 3339 time '
            "(use 2027-01-15T14:30:00+01:00 (the offset is optional), tomorrow at 9:00 or in 30m)",
        ),
        (
            {"at": "2027-01-15T14:30:00.250Z"},
            'at: "2027-01-15T14:30:00.250Z" has a fraction of a second (use whole seconds)',
        ),
        (
            {"at": "2027-02-30T14:30:00Z"},
            'at: "2027-02-30T14:30:00Z" does not exist: day is out of range for month '
            "(use 2027-01-15T14:30:00+01:00 (the offset is optional), tomorrow at 9:00 or in 30m)",
        ),
        (
            {"at": "9999-12-31T23:00:00Z"},
            'at: "9999-12-31T23:00:00Z" does not exist: the last year is 9000 '
            "(use 2027-01-15T14:30:00+01:00 (the offset is optional), tomorrow at 9:00 or in 30m)",
        ),
    ],
)
def test_invalid_schedule_fields_are_refused(fields: dict[str, object], text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        make(**fields)
    assert str(caught.value) == text
    assert text.startswith(caught.value.field + ":")


@pytest.mark.floor("A", "At takes an RFC 3339 time")
@pytest.mark.parametrize(
    ("at", "instant"),
    [
        ("2027-01-15T14:30:00Z", datetime(2027, 1, 15, 14, 30, tzinfo=UTC)),
        ("2027-01-15t14:30:00.000z", datetime(2027, 1, 15, 14, 30, tzinfo=UTC)),
        ("2027-01-15 14:30-05:00", datetime(2027, 1, 15, 19, 30, tzinfo=UTC)),
        # Without an offset the job's zone applies, with requirement 7 at a change of the clocks.
        ("2027-01-15T14:30:00", datetime(2027, 1, 15, 13, 30, tzinfo=UTC)),
        ("2027-07-15T14:30", datetime(2027, 7, 15, 12, 30, tzinfo=UTC)),
        ("2027-03-28T02:30:00", datetime(2027, 3, 28, 1, 0, tzinfo=UTC)),
        ("2027-10-31T02:30:00", datetime(2027, 10, 31, 0, 30, tzinfo=UTC)),
        # Rounded up to a whole second, so that it is never earlier than requested.
        ("in 30m", datetime(2026, 11, 20, 8, 30, 1, tzinfo=UTC)),
        ("In  1s", datetime(2026, 11, 20, 8, 0, 2, tzinfo=UTC)),
    ],
)
def test_a_one_time_schedule_is_read_from_its_text(at: str, instant: datetime) -> None:
    assert make(at=at) == At(at=instant, timezone=BERLIN)
    assert parse(at if at.lower().startswith("in") else f"at {at}") == make(at=at)
    assert parse(at) == make(at=at)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("30m", '"30m" is ambiguous (write `every 30m` or `in 30m`)'),
        ("1h30m", '"1h30m" is ambiguous (write `every 1h30m` or `in 1h30m`)'),
        ("every 0s", '"0s" is zero'),
        ("every -5m", '"-5m" is negative'),
        ("", "is empty"),
        ("daily", '"daily" has no time of day (write "daily at 9:00")'),
        ("every", '"every" is not a schedule'),
        ("0 9 * *", '"0 9 * *" has 4 fields'),
        ("0 0 9 * * 1 2027", "has seven fields"),
        ("at none", '"at none" is not a schedule'),
        ("at 2020-01-01T00:00:00Z", "is in the past"),
        ("at 30m", '"30m" is ambiguous'),
    ],
)
def test_a_text_that_is_not_a_schedule_is_refused(text: str, problem: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse(text)
    assert caught.value.field == "schedule"
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    "text", ["0," * 500_000 + "0 * * * *", "*/" + "5" * 5_000 + " * * * *", "every " + "1" * 500]
)
def test_a_schedule_text_has_at_most_500_characters(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse(text)
    assert str(refused.value) == "schedule: is too long (use at most 500 characters)"


@pytest.mark.parametrize("expr", ["0," * 500_000 + "0 * * * *", "*/" + "5" * 5_000 + " * * * *"])
def test_an_expression_has_at_most_500_characters_also_in_prefects_parameters(expr: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        make(cron=expr)
    assert str(refused.value) == "cron: is too long (use at most 500 characters)"
    with pytest.raises(ValidationError, match="cron: is too long"):
        Cron(expr=expr, timezone=BERLIN)


def test_an_expression_that_lists_every_minute_is_not_too_long() -> None:
    minutes = ",".join(str(minute) for minute in range(60))
    assert parse(f"{minutes} * * * *") == Cron(expr=f"{minutes} * * * *", timezone=BERLIN)


def test_on_demand_may_be_spelled_in_several_ways() -> None:
    for text in ("on demand", "On-Demand", "on_demand", " on  demand "):
        assert parse(text) == OnDemand(timezone=BERLIN)


ZONES = st.sampled_from(["UTC", BERLIN, "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"])
INSTANTS = st.integers(1_800_000_000, 2_200_000_000).map(
    lambda seconds: datetime.fromtimestamp(seconds, UTC)
)
SCHEDULES: st.SearchStrategy[Cron | Every | At | OnDemand] = st.one_of(
    st.builds(
        Cron,
        expr=st.sampled_from(
            ["@daily", "0 9 * * 1-5", "*/15 * * * * *", "0 0 L * *", "5 4 1 */2 *"]
        ),
        timezone=ZONES,
    ),
    st.builds(
        Every,
        every=st.integers(1, 10**9).map(lambda seconds: timedelta(seconds=seconds)),
        anchor=INSTANTS,
        timezone=ZONES,
    ),
    st.builds(At, at=INSTANTS, timezone=ZONES),
    st.builds(OnDemand, timezone=ZONES),
)


@given(SCHEDULES)
def test_a_schedule_round_trips_as_text_and_json(schedule: Cron | Every | At | OnDemand) -> None:
    now = schedule.anchor if isinstance(schedule, Every) else NOW
    assert parse(schedule.to_text(), schedule.timezone, now) == schedule
    adapter: TypeAdapter[Schedule] = TypeAdapter(Schedule)
    assert adapter.validate_json(adapter.dump_json(schedule)) == schedule


def test_a_schedule_is_shown_as_canonical_text() -> None:
    assert make(every="5400s").to_text() == "every 1h30m"
    assert make(at="2027-07-15T12:30:00Z").to_text() == "at 2027-07-15T14:30:00+02:00"
    assert make(cron="@Daily").to_text() == "@daily"
    old = At(at=datetime(1850, 1, 1, tzinfo=UTC), timezone=BERLIN)  # Berlin was at +00:53:28
    assert old.to_text() == "at 1850-01-01T00:00:00+00:00"


def test_schedules_accept_only_whole_seconds_with_a_time_zone() -> None:
    for wrong in (NOW.replace(tzinfo=None, microsecond=0), NOW):
        with pytest.raises(ValidationError):
            At(at=wrong, timezone=BERLIN)
        with pytest.raises(ValidationError):
            Every(every=timedelta(hours=1), anchor=wrong, timezone=BERLIN)
    other = datetime.fromisoformat("2027-01-15T14:30:00+01:00")
    assert At(at=other, timezone=BERLIN).at.tzinfo is UTC


def test_an_unchanged_schedule_keeps_its_anchor_and_its_past_instant() -> None:
    before = make(every="30m")
    later = NOW + timedelta(hours=1)
    assert make(every="1800s", now=later, current=before) == before
    assert make(every="31m", now=later, current=before) == Every(
        every=timedelta(minutes=31), anchor=later.replace(microsecond=0), timezone=BERLIN
    )
    fired = make(at="in 5m")
    text = fired.to_text()
    assert schedules.parse(text, timezone=BERLIN, now=later, current=fired) == fired
    with pytest.raises(InvalidInput, match="in the past"):
        schedules.parse(text, timezone=BERLIN, now=later)


@pytest.mark.floor("E", "A schedule has a timezone")
def test_in_zone_replaces_the_zone_and_refuses_an_unknown_one() -> None:
    assert schedules.in_zone(make(cron="@daily"), "UTC") == make(cron="@daily", timezone="UTC")
    assert schedules.in_zone(make(at="in 5m"), "UTC") == make(at="in 5m", timezone="UTC")
    with pytest.raises(InvalidInput, match="unknown zone"):
        schedules.in_zone(make(cron="@daily"), "Mars/Base")


@pytest.mark.parametrize("on", ["succeeded", "failed", "any"])
@pytest.mark.parametrize("name", ["brief", "my brief (old)"])
def test_a_chain_has_a_text(name: str, on: str) -> None:
    chain = make(after=name, on=on)
    assert parse(chain.to_text()) == chain
    assert parse(f"After {name}") == make(after=name)


def test_a_prompt_that_begins_with_after_is_no_schedule() -> None:
    assert not schedules.is_schedule("After the meeting, write a summary")


def test_the_outcome_of_a_chain_can_be_changed_alone() -> None:
    current = make(after="brief")
    failed = make(on="failed", current=current)
    assert failed == make(after="brief", on="failed")
    assert make(after="other", current=failed) == make(after="other", on="failed")
