"""Schedules described in plain English."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daybook.errors import InvalidInput
from daybook.schedules import schedule as schedules
from daybook.schedules.due import due_times
from daybook.schedules.schedule import After, At, Cron, Every, OnDemand, Schedule
from tests.costs import examples
from tests.pure.schedules.test_due_properties import accepted, expressions

NOW = datetime(2026, 11, 20, 8, tzinfo=UTC)


@pytest.mark.parametrize(
    ("expr", "words"),
    [
        ("0 9 * * 1-5", "at 09:00 on weekdays"),
        ("0 0 9 * * mon-fri", "at 09:00 on weekdays"),
        ("30 0 9 * * *", "at 09:00:30 every day"),
        ("@daily", "at 00:00 every day"),
        ("0 9,17 * * 6,0", "at 09:00 and 17:00 on weekends"),
        ("0 9 * * sun,mon", "at 09:00 on Mondays and Sundays"),
        ("@weekly", "at 00:00 on Sundays"),
        ("* * * * *", "every minute of the hour"),
        ("*/15 * * * *", "every 15 minutes of the hour"),
        ("*/30 * * * 1", "every 30 minutes of the hour on Mondays"),
        ("*/15 9-17 * * 1-5", "every 15 minutes of the hour from 09:00 to 17:45 on weekdays"),
        ("* 9 * * *", "every minute of the hour from 09:00 to 09:59"),
        ("@hourly", "every hour at :00"),
        ("5,20 * * * *", "every hour at :05 and :20"),
        ("0 9-17 * * *", "every hour from 09:00 to 17:00"),
        ("0 */2 * * *", "every 2 hours from 00:00"),
        ("5 */6 * * *", "every 6 hours from 00:05"),
        ("*/10 * * * * *", "every 10 seconds of the minute"),
        ("* * * * * *", "every second of the minute"),
        ("15 * * * * *", "every minute of the hour at second 15"),
        ("0 0 1 * *", "at 00:00 on the 1st of the month"),
        ("0 0 2,3,11,22 * *", "at 00:00 on the 2nd, the 3rd, the 11th and the 22nd of the month"),
        ("0 0 1-7 * *", "at 00:00 from the 1st to the 7th of the month"),
        ("0 0 L * *", "at 00:00 on the last day of the month"),
        ("0 0 15,L * *", "at 00:00 on the 15th and the last day of the month"),
        ("@yearly", "at 00:00 on the 1st of every January"),
        ("0 5 * 1 *", "at 05:00 every day of every January"),
        ("0 9 * */3 1", "at 09:00 on Mondays of every January, April, July and October"),
        ("0 0 13 * 5", "at 00:00 on the 13th of the month or on Fridays"),
        ("0 9 * * mon#2", "at 09:00 on the second Monday of the month"),
        ("0 9 * 3 L7", "at 09:00 on the last Sunday of every March"),
        ("0 9 * * 0#1,1#1", "at 09:00 on the first Monday and the first Sunday of the month"),
        (
            "0 9 * * 2#2,1#2,4#1",
            "at 09:00 on the first Thursday, the second Monday and the second Tuesday of the month",
        ),
        ("0 9 * * 1,3,4,6,0", "at 09:00 on Mondays, Wednesdays, Thursdays, Saturdays and Sundays"),
        ("0 9 * * 1,2,3,4,6,0", 'cron "0 9 * * 1,2,3,4,6,0"'),  # too long a list
        ("5,10,15,25,35,50 * * * *", "every hour at :05, :10, :15, :25, :35 and :50"),
        ("1,5,10,15,25,35,50 * * * *", 'cron "1,5,10,15,25,35,50 * * * *"'),
    ],
)
def test_a_cron_schedule_is_described_in_words(expr: str, words: str) -> None:
    schedule = Cron(expr=expr, timezone="Europe/Berlin")
    assert schedule.describe() == f"{words}, Europe/Berlin"


@pytest.mark.parametrize(
    "expr",
    [
        "*/7 * * * *",  # 4 minutes from :56 to :00
        "0 */5 * * *",
        "*/60 * * * *",
        "0 0 */2 * *",  # the 31st and the 1st
        "0 0 13 1 5",
        "* 30 2 * * *",
        "*/20 9 * * * *",
        "*/15 */2 * * *",
        "5,*/20 9 * * *",  # real time, unlike 0,5,20,40
        "30 */5 9-17 * * *",
        "1-7 * * * *",
        "0,10,20 1,2,3,5 * * *",
        "0 0 1-31 * *",
        "0 0 * * 1-6",
        "0 0 1,2,3,4,5,7 * *",
        "0 0 * 1-6 *",
        "15 5 * * * *",
        "0 0 1,2,3,4,5,L * *",
        "0 0 * * 0#1,1#1,2#1,3#1,4#1,5#1",
    ],
)
def test_a_cron_schedule_without_good_words_is_quoted(expr: str) -> None:
    assert Cron(expr=expr, timezone="UTC").describe() == f'cron "{expr}", UTC'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("every 15s", "every 15 seconds"),
        ("every 30m", "every 30 minutes"),
        ("every 1h30m", "every 1 hour 30 minutes"),
        ("every 1d", "every 1 day"),
        ("every 1h", "every 1 hour"),
        (
            "at 2027-01-15T14:30:00+01:00",
            "once at 14:30 on Friday 15 January 2027, Europe/Berlin",
        ),
        (
            "at 2027-01-15T14:30:05+01:00",
            "once at 14:30:05 on Friday 15 January 2027, Europe/Berlin",
        ),
        (
            "at 2027-10-31T01:30:00Z",
            "once at 2027-10-31T02:30:00+01:00, Europe/Berlin",
        ),
        ("on demand", "on demand"),
    ],
)
def test_other_schedules_are_described_in_words(text: str, words: str) -> None:
    schedule = schedules.parse(text, timezone="Europe/Berlin", now=NOW)
    assert schedule.describe() == words


ZONES = st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns", "Australia/Lord_Howe"])
INSTANTS = st.integers(1_800_000_000, 2_200_000_000).map(
    lambda seconds: datetime.fromtimestamp(seconds, UTC)
)
MINUTES = ["*", "0", "30", "*/15", "*/20", "5,20", "7-9", "*/7", "5,*/20", "0,30"]
HOURS = ["*", "9", "2", "9,17", "9-17", "*/2", "0-23", "1-3", "*/5", "22-2"]
DAYS = ["*", "1", "1,15", "L", "15,L", "1-7", "*/2", "?"]
MONTHS = ["*", "1", "jan,jul", "*/3", "1-12"]
WEEKDAYS = ["*", "1-5", "0,6", "mon", "sun,wed", "1-6", "L5", "1#2", "1#1,5#3", "2#1,L7", "?"]
SIMPLE = st.tuples(*map(st.sampled_from, (MINUTES, HOURS, DAYS, MONTHS, WEEKDAYS))).map(" ".join)
SECONDS = st.sampled_from(["0", "15", "*", "*/10", "1,2"])
CRONS = st.one_of(
    expressions(),
    SIMPLE,
    st.builds(lambda second, rest: f"{second} {rest}", SECONDS, SIMPLE),
)
EVERY = st.integers(1, 10**9).map(lambda seconds: timedelta(seconds=seconds))
ONE_HOUR, ONE_DAY = timedelta(hours=1), timedelta(days=1)
SCHEDULES: st.SearchStrategy[Schedule] = st.one_of(
    st.builds(
        lambda expr, zone: accepted(expr).model_copy(update={"timezone": zone}), CRONS, ZONES
    ),
    st.builds(
        Every,
        every=EVERY | st.sampled_from([ONE_HOUR, ONE_DAY]),
        anchor=INSTANTS,
        timezone=ZONES,
    ),
    st.builds(At, at=INSTANTS, timezone=ZONES),
    st.builds(At, at=st.just(datetime(2027, 10, 31, 1, 30, tzinfo=UTC)), timezone=ZONES),
    st.builds(
        After,
        job=st.sampled_from(["brief", "brief fails", "a, UTC"]),
        on=st.sampled_from(["succeeded", "failed", "any"]),
        timezone=ZONES,
    ),
    st.builds(OnDemand, timezone=ZONES),
)


@settings(max_examples=examples(500), deadline=None)
@given(SCHEDULES, INSTANTS, st.booleans())
def test_a_description_is_read_as_a_schedule_with_the_same_due_times(
    schedule: Schedule, after: datetime, with_zone: bool
) -> None:
    now = schedule.anchor if isinstance(schedule, Every) else NOW
    words, zone = schedule.describe(), "Asia/Tokyo"
    if not with_zone:
        words, zone = words.removesuffix(f", {schedule.timezone}"), schedule.timezone
    again = schedules.parse(words, timezone=zone, now=now)
    assert type(again) is type(schedule)
    if isinstance(schedule, Every | At):
        after = min(after, now)
    assert list(islice(due_times(again, after=after), 30)) == list(
        islice(due_times(schedule, after=after), 30)
    )
    if isinstance(schedule, After):
        assert again == schedule.model_copy(update={"timezone": zone})


def test_a_zone_in_the_schedule_and_another_zone_are_refused() -> None:
    text = "at 09:00 on weekdays, Europe/Berlin"
    assert schedules.parse(text, timezone="UTC", now=NOW).timezone == "Europe/Berlin"
    with pytest.raises(InvalidInput) as refused:
        schedules.parse(text, timezone="UTC", now=NOW, is_zone_given=True)
    assert str(refused.value) == (
        "timezone: differs from Europe/Berlin in the schedule (give one zone)"
    )
