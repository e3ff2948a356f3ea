"""Start, end, excluded days, active and quiet hours in the job's zone (requirement 61)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, product

import pytest

from daybook.errors import InvalidInput
from daybook.jobs import upcoming
from daybook.jobs.model import edit, new_job
from daybook.policies.policy import Policy
from daybook.schedules.bounds import read_moment
from daybook.schedules.schedule import Cron, Every
from daybook.schedules.zones import zone
from daybook.validation import raising_invalid_input
from tests import rows

BERLIN, NEW_YORK, LORD_HOWE = "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"
NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)


def policy(**fields: object) -> Policy:
    with raising_invalid_input():
        return Policy.model_validate(fields)


def due(expr: str, timezone: str, after: str, count: int = 5, **bounds: object) -> list[str]:
    """Return the first due times after a UTC time, as the zone's clocks show them."""
    start = datetime.fromisoformat(after).replace(tzinfo=UTC)
    schedule = Cron(expr=expr, timezone=timezone)
    found = upcoming.due_times(schedule, policy(**bounds), after=start)
    return [f"{each.astimezone(zone(timezone)):%d %H:%M%z}" for each in islice(found, count)]


def test_quiet_hours_are_removed_from_the_active_hours() -> None:
    found = due(
        "*/30 * * * *",
        BERLIN,
        "2026-12-01T10:00",  # 11:00 in Berlin
        8,
        active_hours="09:00-15:00",
        quiet_hours=["12:00-13:00", "14:00-14:30"],
    )
    # 15:00 is no longer active, and the next day begins at 09:00.
    times = ("11:30", "13:00", "13:30", "14:30")
    next_day = ("09:00", "09:30", "10:00", "10:30")
    assert found == [f"01 {each}+0100" for each in times] + [f"02 {each}+0100" for each in next_day]


def test_quiet_hours_may_span_midnight_and_the_end_of_summer_time() -> None:
    found = due("0 * * * *", BERLIN, "2026-10-24T20:30", 5, quiet_hours=["22:00-03:00"])
    # The clocks show 02:00 twice in the night to the 25th, and both are quiet.
    times = ("03:00", "04:00", "05:00", "06:00", "07:00")
    assert found == [f"25 {each}+0100" for each in times]


def test_exclusion_reason_names_the_quiet_hours() -> None:
    schedule, quiet = Cron(expr="0 * * * *", timezone=BERLIN), policy(quiet_hours=["12:00-13:00"])
    noon = datetime(2026, 12, 1, 11, tzinfo=UTC)
    assert upcoming.exclusion_reason(schedule, quiet, noon) == "12:00 is within the quiet hours"
    assert upcoming.exclusion_reason(schedule, quiet, noon + timedelta(hours=1)) == ""


@pytest.mark.parametrize(
    ("bounds", "first", "last"),
    [
        ({"start": "2026-12-24"}, "2026-12-23T23:00", None),  # midnight in Berlin
        ({"start": "2026-12-24T09:30"}, "2026-12-24T09:00", None),
        ({"start": "2026-12-24T09:00:00Z"}, "2026-12-24T09:00", None),
        ({"until": "2026-12-02"}, None, "2026-12-02T22:00"),  # that day is included
        ({"until": "2026-12-02T10:00"}, None, "2026-12-02T09:00"),  # and so is that moment
        ({"until": "2026-12-02T10:59"}, None, "2026-12-02T09:00"),
    ],
)
def test_due_times_lie_between_start_and_until(
    bounds: dict[str, str], first: str | None, last: str | None
) -> None:
    schedule = Cron(expr="0 * * * *", timezone=BERLIN)
    found = list(islice(upcoming.due_times(schedule, policy(**bounds), after=NOW), 1_000))
    if first is not None:
        assert found[0] == datetime.fromisoformat(first).replace(tzinfo=UTC)
    if last is not None:
        assert found[-1] == datetime.fromisoformat(last).replace(tzinfo=UTC)
    assert all(upcoming.is_due(schedule, policy(**bounds), each) for each in found)


def test_excluded_days_are_days_of_the_jobs_zone() -> None:
    days = ["2026-12-24..2026-12-26", "2026-12-28"]
    found = due("0 0,12 * * *", NEW_YORK, "2026-12-23T12:00", 6, exclude=days)
    assert found == [f"{each}-0500" for each in ("23 12:00", "27 00:00", "27 12:00")] + [
        f"{each}-0500" for each in ("29 00:00", "29 12:00", "30 00:00")
    ]


@pytest.mark.parametrize(
    ("hours", "found"),
    [
        ("09:00-17:00", ["09:00", "11:00", "13:00", "15:00"]),
        ("9:00-17:01", ["09:00", "11:00", "13:00", "15:00", "17:00"]),
        ("22:00-06:00", ["01:00", "03:00", "05:00", "23:00"]),
        ("23:00-24:00", ["23:00"]),
        ("00:00-24:00", [f"{hour:02}:00" for hour in range(1, 24, 2)]),
    ],
)
def test_active_hours_include_their_start_and_exclude_their_end(
    hours: str, found: list[str]
) -> None:
    schedule = Cron(expr="0 1/2 * * *", timezone=BERLIN)
    day = datetime(2026, 12, 1, 23, tzinfo=UTC) - timedelta(seconds=1)  # the day in Berlin
    times = upcoming.between(schedule, policy(active_hours=hours), day, day + timedelta(days=1))
    assert [f"{each.astimezone(zone(BERLIN)):%H:%M}" for each in times] == found


@pytest.mark.parametrize(
    ("expr", "timezone", "after", "hours", "found"),
    [
        # Spring: the clocks skip from 02:00 to 03:00, and skipped times are not active.
        (
            "*/30 * * * *",
            BERLIN,
            "2026-03-28T23:59",
            "01:30-03:30",
            ["29 01:30+0100", "29 03:00+0200", "30 01:30+0200", "30 02:00+0200"],
        ),
        # A skipped fixed time would be due at 03:00. That is not active, so it is not due.
        ("30 2 * * *", BERLIN, "2026-03-28T00:00", "02:00-03:00", ["28 02:30+0100"]),
        # Autumn: the clocks show 02:00 to 03:00 twice, and both are active; 03:00 is not.
        (
            "*/30 * * * *",
            BERLIN,
            "2026-10-24T22:00",
            "02:00-03:00",
            ["25 02:00+0200", "25 02:30+0200", "25 02:00+0100", "25 02:30+0100"],
        ),
        # They end within the repeated hour, so they end twice.
        (
            "*/30 * * * *",
            BERLIN,
            "2026-10-24T22:00",
            "01:30-02:30",
            ["25 01:30+0200", "25 02:00+0200", "25 02:00+0100", "26 01:30+0100"],
        ),
        # The active hours begin within the repeated hour, so they begin twice.
        (
            "*/15 * * * *",
            NEW_YORK,
            "2026-11-01T04:00",
            "01:30-02:00",
            ["01 01:30-0400", "01 01:45-0400", "01 01:30-0500", "01 01:45-0500"],
        ),
        # Half an hour of daylight saving.
        (
            "*/15 * * * *",
            LORD_HOWE,
            "2026-10-03T13:59",
            "01:45-02:45",
            ["04 01:45+1030", "04 02:30+1100", "05 01:45+1100"],
        ),
    ],
)
def test_active_hours_follow_the_clocks_through_daylight_saving(
    expr: str, timezone: str, after: str, hours: str, found: list[str]
) -> None:
    assert due(expr, timezone, after, len(found), active_hours=hours) == found


def test_bounds_only_remove_due_times() -> None:
    """Each due time is one of the schedule's, and each removed one has a reason."""
    bounds = policy(
        start="2026-10-20T12:00",
        until="2026-10-27",
        exclude=["2026-10-22"],
        active_hours="22:00-04:00",
    )
    schedule = Every(every=timedelta(minutes=20), anchor=NOW - timedelta(days=90), timezone=BERLIN)
    begin = datetime(2026, 10, 18, tzinfo=UTC)
    end = begin + timedelta(days=14)
    found = list(upcoming.between(schedule, bounds, begin, end))
    every = list(upcoming.between(schedule, policy(), begin, end))
    assert 0 < len(found) < len(every)
    assert found == [
        each for each in every if not upcoming.exclusion_reason(schedule, bounds, each)
    ]
    reasons = {
        upcoming.exclusion_reason(schedule, bounds, each) for each in every if each not in found
    }
    assert {"before the job's start", "after the job's end", "2026-10-22 is excluded"} < reasons


def test_an_interval_that_never_meets_its_active_hours_has_no_next_due_time() -> None:
    schedule = Every(every=timedelta(days=1), anchor=NOW, timezone="UTC")
    assert upcoming.next_due(schedule, policy(active_hours="01:00-02:00"), NOW) is None


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"start": "soon"}, 'start: "soon" is not an RFC 3339 time (write 2027-01-15, '),
        ({"until": "2027-02-30"}, 'until: "2027-02-30" does not exist: '),
        ({"until": "2027-01-15T25:00"}, 'until: "2027-01-15T25:00" does not exist: '),
        ({"exclude": ["Christmas"]}, 'exclude: "Christmas" is not a date (write 2026-12-25, or '),
        ({"exclude": ["2026-13-01"]}, 'exclude: "2026-13-01" does not exist: '),
        ({"exclude": ["2027-01-02..2027-01-01"]}, 'exclude: "2027-01-02..2027-01-01" ends before'),
        ({"exclude": ["2026-12-25"] * 401}, "exclude: has 401 days or ranges (use at most 400)"),
        (
            {"active_hours": "9:00–17:00"},
            'active_hours: "9:00–17:00" is not a range of hours (it has another dash in place of '
            "the hyphen: write 9:00-17:00)",
        ),
        (
            {"active_hours": "nine"},
            'active_hours: "nine" is not a range of hours (write 09:00-17:00',
        ),
        ({"active_hours": "09:00-09:00"}, 'active_hours: "09:00-09:00" is an empty range'),
        ({"active_hours": "24:00-25:00"}, 'active_hours: "24:00-25:00" is not a time of day'),
        ({"active_hours": "09:60-10:00"}, 'active_hours: "09:60-10:00" is not a time of day'),
        ({"max_runs": -1}, "max_runs: "),
        ({"until": "2026-11-01"}, "until: the job would never be due"),
        ({"start": "2027-01-02", "until": "2027-01-01"}, "start and until: the job would never"),
        ({"active_hours": "10:00-11:00"}, "active_hours: the job would never be due"),
        (
            {"quiet_hours": ["noon"]},
            'quiet_hours: "noon" is not a range of hours (write 09:00-17:00',
        ),
        ({"quiet_hours": ["00:00-24:00"]}, "quiet_hours: the job would never be due"),
        ({"until": "9999-12-31"}, 'until: "9999-12-31" does not exist: the last year is 9000'),
        ({"start": "9999-12-31T23:00"}, 'start: "9999-12-31T23:00" does not exist: the last year'),
        ({"start": "0001-01-01"}, 'start: "0001-01-01" does not exist: the first year is 1000'),
        ({"start": "0001-01-01T00:00"}, 'start: "0001-01-01T00:00" does not exist: the first year'),
    ],
)
def test_invalid_bounds_are_refused_when_a_job_is_added_or_edited(
    fields: dict[str, object], text: str
) -> None:
    given: dict[str, object] = {"prompt": "x", "cron": "0 9 * * *", "timezone": "UTC"}
    with pytest.raises(InvalidInput) as caught:
        new_job(now=NOW, **(given | fields))  # type: ignore[arg-type]
    assert str(caught.value).startswith(text)
    with pytest.raises(InvalidInput) as caught:
        edit(new_job(now=NOW, **given), fields, now=NOW)  # type: ignore[arg-type]
    assert str(caught.value).startswith(text)


def test_years_near_the_ends_of_the_calendar_are_refused_in_each_zone() -> None:
    days = ("0001-01-01", "0999-12-31", "9001-01-01", "9999-12-31")
    times = ("", "T00:00", "T23:59", "T00:00Z", "T23:59Z")
    zones = ("UTC", "Asia/Tokyo", NEW_YORK)
    problem = r"not exist: the (first|last) year is [19]000"
    for (day, time, timezone, last), row in rows.each(product(days, times, zones, (False, True))):
        with row, pytest.raises(InvalidInput, match=problem):
            read_moment("start", day + time, timezone, last=last)


def test_a_job_whose_end_has_passed_accepts_other_edits() -> None:
    job = new_job(now=NOW, prompt="x", cron="0 9 * * *", until="2026-12-05")
    after = NOW + timedelta(days=30)
    assert edit(job, {"prompt": "y", "retries": 1}, now=NOW).policy.retries == 1
    assert edit(job, {"prompt": "y"}, now=after).action != job.action
    assert edit(job, {"until": ""}, now=after).policy.until == ""


def test_blank_excluded_days_are_dropped_and_texts_are_stored_as_written() -> None:
    assert policy(exclude=["", " "]).exclude == ()
    fields = {"start": "2027-01-15", "exclude": ["2027-02-01"], "active_hours": "9:00-17:00"}
    stored = policy(**fields).model_dump(mode="json")
    assert {name: stored[name] for name in fields} == fields


def test_a_long_excluded_range_is_one_step() -> None:
    found = due("0 9 * * *", BERLIN, "2026-12-01T10:00", 1, exclude=["2026-01-01..8998-12-31"])
    assert found == ["01 09:00+0100"]
