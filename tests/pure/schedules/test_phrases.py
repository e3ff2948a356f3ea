"""Schedules in plain English: what each phrase means, and what is refused as ambiguous."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daybook.errors import InvalidInput
from daybook.schedules import cron, phrases
from daybook.schedules import schedule as schedules
from daybook.schedules.schedule import At, Cron, Schedule
from daybook.schedules.zones import wall_time, zone
from tests import rows

BERLIN = "Europe/Berlin"
NOW = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
"""10:00 on a Tuesday in Berlin."""


def parse(text: str, now: datetime = NOW, timezone: str = BERLIN) -> Schedule:
    return schedules.parse(text, timezone=timezone, now=now)


@pytest.mark.parametrize(
    ("phrase", "expr"),
    [
        ("every day at 9", "0 9 * * *"),
        ("Every Day  at 9:30", "30 9 * * *"),
        ("daily at 9pm", "0 21 * * *"),
        ("every day 9am", "0 9 * * *"),
        ("every day at noon", "0 12 * * *"),
        ("every day at midnight", "0 0 * * *"),
        ("every day at 12am", "0 0 * * *"),
        ("every day at 12 p.m.", "0 12 * * *"),
        ("at 09:00 every day", "0 9 * * *"),
        ("every day at 9 and 17", "0 9,17 * * *"),
        ("every day at 9:15, 9:45 and 9:30", "15,30,45 9 * * *"),
        ("every weekday at 9", "0 9 * * 1-5"),
        ("weekdays at 9:00", "0 9 * * 1-5"),
        ("at 09:00 on weekdays", "0 9 * * 1-5"),
        ("every weekend at 10am", "0 10 * * 0,6"),
        ("on weekends at 10am", "0 10 * * 0,6"),
        ("every monday at 9", "0 9 * * 1"),
        ("every Mon, Wed and Fri at 18:00", "0 18 * * 1,3,5"),
        ("Mondays and Thursdays at 8", "0 8 * * 1,4"),
        ("on sundays at 8", "0 8 * * 0"),
        ("every Tues and Thurs at 8", "0 8 * * 2,4"),
        ("every month on the 1st at 9", "0 9 1 * *"),
        ("monthly on the 1st and 15th at 9:00", "0 9 1,15 * *"),
        ("every 15th at 9", "0 9 15 * *"),
        ("at 18:00 on the last day of the month", "0 18 L * *"),
        ("1st of every month at 9", "0 9 1 * *"),
        ("15th of the month 9am", "0 9 15 * *"),
        ("every mon, wed, and fri at 9", "0 9 * * 1,3,5"),
        ("weekly on monday at 8", "0 8 * * 1"),
        ("weekly on Mon and Thu at 8", "0 8 * * 1,4"),
        ("every 2nd tuesday of the month at 10", "0 10 * * 2#2"),
        ("at 10 on the second Tuesday of every month", "0 10 * * 2#2"),
        ("first and third mon of each month at 9am", "0 9 * * 1#1,1#3"),
        ("every last friday of the month at 17:00", "0 17 * * L5"),
        ("every last friday at 17:00", "0 17 * * L5"),
        ("last sunday of the month at 9", "0 9 * * L0"),
        ("every hour from 9am to 5pm", "0 9-17 * * *"),
        ("every 20 minutes of the hour on mondays", "*/20 * * * 1"),
        ("mondays of every jan at 9", "0 9 * 1 1"),
        ("at 9:00:30 every day", "30 0 9 * * *"),
        ('cron "0 9 * * 1-5"', "0 9 * * 1-5"),
        ("cron 0 9 * * 1-5", "0 9 * * 1-5"),
    ],
)
def test_a_phrase_about_repeated_days_is_a_cron_expression(phrase: str, expr: str) -> None:
    assert parse(phrase) == Cron(expr=expr, timezone=BERLIN)


@pytest.mark.parametrize(
    ("phrase", "local"),
    [
        ("tomorrow at 9", "2026-11-25 09:00"),
        ("tomorrow 9am", "2026-11-25 09:00"),
        ("9:30pm tomorrow", "2026-11-25 21:30"),
        ("today at 17:00", "2026-11-24 17:00"),
        ("at 17:00", "2026-11-24 17:00"),
        ("at 9:00", "2026-11-25 09:00"),  # 9:00 has passed today
        ("at 10", "2026-11-25 10:00"),  # it is 10:00 now
        ("at midnight", "2026-11-25 00:00"),
        ("next Friday at 8", "2026-11-27 08:00"),
        ("on friday at 8", "2026-11-27 08:00"),
        ("next tuesday at 8", "2026-12-01 08:00"),
        ("2026-12-01 9am", "2026-12-01 09:00"),
        ("on 2026-12-01 at 9", "2026-12-01 09:00"),
        ("on Tuesday 1 December 2026 at 9", "2026-12-01 09:00"),
        ("1 dec 2026 9am", "2026-12-01 09:00"),
        ("once at 09:00 on Tuesday 1 December 2026", "2026-12-01 09:00"),
    ],
)
def test_a_phrase_about_one_day_is_one_time(phrase: str, local: str) -> None:
    schedule = parse(phrase)
    assert isinstance(schedule, At)
    assert f"{wall_time(schedule.at, zone(BERLIN)):%Y-%m-%d %H:%M}" == local


REFUSED = [
    ("monday at 9", 'is ambiguous (write "next monday …" (once) or "every monday …")'),
    ("monday and friday at 9", "is ambiguous"),
    ("9am", 'is ambiguous (write "at 9am" (once) or "every day at 9am")'),
    ("17:00", 'is ambiguous (write "at 17:00" (once) or "every day at 17:00")'),
    ("tomorrow at midnight", 'is ambiguous (write "2026-11-25 0:00" or "2026-11-26 0:00")'),
    ("every hour", 'is ambiguous (write "@hourly" (on the hour) or "every 1h" (from now))'),
    ("tomorrow", 'has no time of day (write "tomorrow at 9:00")'),
    ("every weekday", 'has no time of day (write "every weekday at 9:00")'),
    ("on the 1st", 'is ambiguous (write "every month on the 1st …", or a date (once))'),
    ("every month on the 1st", 'has no time of day (write "every month on the 1st at 9:00")'),
    ("on the 15th at 9", 'is ambiguous (write "every month on the 15th …", or a date (once))'),
    ("last day at 9", 'is ambiguous (write "every month on the last day …", or a date (once))'),
    ("tues and thurs at 9", "is ambiguous"),
    ("every day 9 and 17:00", "is not a schedule"),
    ("9 every weekday", "is not a schedule"),
    ("every day at 9 and", "is not a schedule"),
    ("and every day at 9", "is not a schedule"),
    ("every mon,, tue at 9", "is not a schedule"),
    ("1st", "is ambiguous"),
    ("every morning", "has no time of day"),
    ("tonight", 'has no time of day (write "today at 20:00")'),
    ("every week", 'has no day (write "every monday at 9:00", or "every 7d" from now)'),
    ("every month", 'has no day (write "every month on the 1st at 9:00")'),
    ("every wekday at 9", 'has the unknown day "wekday" (did you mean weekday?)'),
    ("every day at 25", 'has the invalid time "25" (use 0:00 to 23:59, or 9am)'),
    ("every day at 9:61", 'has the invalid time "9:61"'),
    ("every day at 13pm", 'has the invalid time "13pm"'),
    ("every 40th at 9", "has an invalid day of the month (use the 1st to the 31st)"),
    ("every 2nd tuesday at 10", 'is ambiguous (write "2nd tuesday of every month …" or '),
    ("last friday at 9", 'is ambiguous (write "last friday of every month …" or "every friday …")'),
    ("every 6th monday of the month at 9", "combines an interval with a time of day"),
    (
        "every 15 min between 9 and 17",
        'combines an interval with hours of the day (write "every 15m", '
        "and active_hours 9:00-17:00)",
    ),
    ("every 15m from 9am to 5pm", 'combines an interval with hours of the day (write "every 15m"'),
    ("every hour between 9 and 17", 'combines an interval with hours of the day (write "every 1h"'),
    ("every quarter", 'is not a schedule (write the cron expression "0 9 1 1,4,7,10 *" (the 1st'),
    ("every quarter on the 1st at 9", "is not a schedule (write the cron expression "),
    ("yearly", 'is not a schedule (write the cron expression "0 9 1 1 *" (1 January at 9:00))'),
    ("every 9am", 'is not a schedule (write "every day at 9am")'),
    ("every 9 pm", 'is not a schedule (write "every day at 9pm")'),
    ("every 17:00", 'is not a schedule (write "every day at 17:00")'),
    ("every noon", 'is not a schedule (write "every day at noon")'),
    ("every 9am on weekdays", 'is not a schedule (write "on weekdays at 9am")'),
    ("every mon–fri at 9", 'is not a schedule (write "every weekday at 9")'),
    ("every 7 minutes of the hour", 'needs a number that divides 60 (write "every 7m" (from now))'),
    ("every 0 minutes of the hour", "needs a number that divides 60"),
    ("every 2 hours from 9:00", 'is ambiguous (write "every 2 hours from 0:00", or "every 2h" ('),
    ("every hour from 22:00 to 2:00", "has other times (write a range within the day"),
    ("every 15 minutes of the hour from 9:00 to 17:00", "has other times (write"),
    ("every hour at :75", "has the invalid time"),
    ("on the 1st of january at 9", "is ambiguous"),
    ("on mondays or fridays at 9", "is not a schedule"),
    ("on the 1st of the month or on mondays of every january at 9", "is not a schedule"),
    ("every month on the 1st of every january at 9", "is not a schedule"),
    ("on Monday 1 December 2026 at 9", "does not exist: 1 december 2026 is a tuesday"),
    ("on 31 November 2026 at 9", "does not exist: day is out of range for month"),
    ("every 2 days at 9", "combines an interval with a time of day"),
    ("every day at 9:00 and 17:30", "has times that do not fit into one cron expression"),
    ("tomorrow at 9 and 17", "is due once, but has several times"),
    ("on 2026-02-30 at 9", "does not exist: day is out of range for month"),
    ("next weekday at 9", "is not a schedule"),
    ("every minute", 'is not a schedule (write "every 1m")'),
    ("every two hours", 'is not a schedule (write "every 2h")'),
    ("every half hour", 'is not a schedule (write "every 30m")'),
    ("every other day", 'is not a schedule (write "every 2d")'),
    ("in two hours", 'is not a schedule (write "in 2h")'),
    ("in half an hour", 'is not a schedule (write "in 30m")'),
    ("in a week", 'is not a schedule (write "in 7d")'),
    ("in two weeks", 'is not a schedule (write "in 14d")'),
    ("monday to monday at 9", 'is not a schedule (write "every monday at 9")'),
    ("monday to friday at 9", 'is not a schedule (write "every weekday at 9")'),
    ("monday to friday", 'is not a schedule (write "every weekday at 9:00")'),
    ("every Mon-Fri at 9:30", 'is not a schedule (write "every weekday at 9:30")'),
    (
        "mondays through wednesdays at 9 and 17",
        'is not a schedule (write "every monday, tuesday and wednesday at 9 and 17")',
    ),
    (
        "from saturday to sunday at 9am",
        'is not a schedule (write "every saturday and sunday at 9am")',
    ),
    ("every day 9", "is not a schedule"),
    ("every", "is not a schedule"),
    ("whenever", "is not a schedule"),
]


def test_a_phrase_with_two_meanings_or_none_is_refused() -> None:
    for (phrase, problem), row in rows.each(REFUSED):
        with row:
            with pytest.raises(InvalidInput) as refused:
                parse(phrase)
            assert str(refused.value).startswith(f'schedule: "{phrase}" {problem}')
            hint = problem.partition('(write "')[2].partition('"')[0]
            if " or " not in problem and hint:
                parse(hint)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("today at 0:00", True), ("2020-01-01 9am", True), ("at 9", True), ("today at 25", False)],
)
def test_whether_a_text_is_a_schedule_does_not_depend_on_the_time(
    text: str, expected: bool
) -> None:
    assert schedules.is_schedule(text) is expected


def test_a_time_today_that_has_passed_is_refused() -> None:
    with pytest.raises(InvalidInput, match="is in the past"):
        parse("today at 9:00")


def test_a_time_that_the_clocks_skip_is_the_first_instant_after_it() -> None:
    schedule = parse("tomorrow at 2:30", now=datetime(2027, 3, 27, 12, 0, tzinfo=UTC))
    assert schedule == At(at=datetime(2027, 3, 28, 1, 0, tzinfo=UTC), timezone=BERLIN)


def test_the_day_is_that_of_the_schedules_zone() -> None:
    late = datetime(2026, 11, 24, 23, 30, tzinfo=UTC)  # already the 25th in Berlin
    assert parse("tomorrow at 9", late) == parse("2026-11-26T09:00", late)
    assert parse("tomorrow at 9", late, "UTC") == parse("2026-11-25T09:00Z", late, "UTC")


@pytest.mark.parametrize("at", ["17:00", "5pm", "at 17:00", "today at 17:00", "2026-11-24 5pm"])
def test_the_field_at_reads_the_phrases_of_one_time(at: str) -> None:
    made = schedules.make(at=at, timezone=BERLIN, now=NOW)
    assert made == At(at=datetime(2026, 11, 24, 16, 0, tzinfo=UTC), timezone=BERLIN)


def test_the_field_at_refuses_repeated_days() -> None:
    with pytest.raises(InvalidInput, match=r'^at: "every day at 9" is due more than once'):
        schedules.make(at="every day at 9", timezone=BERLIN, now=NOW)


def test_plus_is_in() -> None:
    assert parse("+20m") == parse("in 20 minutes") == parse("in 20m")


DAYS = st.sampled_from(
    ["* *", "* 1-5", "* 0,6", "L *"]
    + [f"{day} *" for day in ("1", "2,3,11", "31", "15,L")]
    + [f"* {day}" for day in ("0", "1", "1,4", "2,3,6", "0,3,5")]
)


@given(st.integers(0, 59), st.sets(st.integers(0, 23), min_size=1, max_size=2), DAYS)
def test_the_description_of_common_days_and_times_is_a_phrase_for_them(
    minute: int, hours: set[int], days: str
) -> None:
    month_day, weekday = days.split()
    given = f"{minute} {','.join(map(str, sorted(hours)))} {month_day} * {weekday}"
    described = Cron(expr=given, timezone=BERLIN).describe().removesuffix(f", {BERLIN}")
    expr = phrases.read(described, datetime(2026, 11, 24, 10, 0))  # noqa: DTZ001  wall-clock time
    assert isinstance(expr, str)
    assert cron.read_fields(expr).day.values == cron.read_fields(given).day.values
    assert cron.read_fields(expr).weekday.values == cron.read_fields(given).weekday.values
    assert cron.read_fields(expr).day.last == cron.read_fields(given).day.last
    assert expr.split()[:2] == given.split()[:2]


@given(
    st.text(
        st.sampled_from("every day at 19:0pm,and mon tomorrow next on the 1st*/-@"), max_size=40
    )
)
def test_any_other_text_is_a_schedule_or_is_refused(text: str) -> None:
    try:
        parse(text)
    except InvalidInput as refused:
        assert refused.field == "schedule"
