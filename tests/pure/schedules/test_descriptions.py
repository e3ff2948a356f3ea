"""Schedules described in plain English."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from daybook.schedules import schedule as schedules
from daybook.schedules.descriptions import duration_in_words
from daybook.schedules.schedule import Cron

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
        ("* * * * *", "every minute"),
        ("*/15 * * * *", "every 15 minutes"),
        ("*/30 * * * 1", "every 30 minutes on Mondays"),
        ("*/15 9-17 * * 1-5", "every 15 minutes from 09:00 to 17:45 on weekdays"),
        ("* 9 * * *", "every minute from 09:00 to 09:59"),
        ("@hourly", "every hour"),
        ("5,20 * * * *", "every hour at :05 and :20"),
        ("0 9-17 * * *", "every hour from 09:00 to 17:00"),
        ("0 */2 * * *", "every 2 hours from 00:00"),
        ("5 */6 * * *", "every 6 hours from 00:05"),
        ("*/10 * * * * *", "every 10 seconds"),
        ("* * * * * *", "every second"),
        ("15 * * * * *", "every minute at second 15"),
        ("0 0 1 * *", "at 00:00 on the 1st of the month"),
        ("0 0 2,3,11,22 * *", "at 00:00 on the 2nd, the 3rd, the 11th and the 22nd of the month"),
        ("0 0 1-7 * *", "at 00:00 from the 1st to the 7th of the month"),
        ("0 0 L * *", "at 00:00 on the last day of the month"),
        ("0 0 15,L * *", "at 00:00 on the 15th and the last day of the month"),
        ("@yearly", "at 00:00 on the 1st of January"),
        ("0 5 * 1 *", "at 05:00 every day in January"),
        ("0 9 * */3 1", "at 09:00 on Mondays in January, April, July and October"),
        ("0 0 13 * 5", "at 00:00 on the 13th of the month or on Fridays"),
        ("0 9 * * mon#2", "at 09:00 on the second Monday of the month"),
        ("0 9 * 3 L7", "at 09:00 on the last Sunday of March"),
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
        ("every 1d", "every day"),
        ("every 1h", "every hour"),
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
            "once at 02:30 (CET, the second time) on Sunday 31 October 2027, Europe/Berlin",
        ),
        ("on demand", "on demand"),
    ],
)
def test_other_schedules_are_described_in_words(text: str, words: str) -> None:
    schedule = schedules.parse(text, timezone="Europe/Berlin", now=NOW)
    assert schedule.describe() == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 seconds"),
        (-5, "0 seconds"),
        (1, "1 second"),
        (43 * 60, "43 minutes"),
        (43 * 60 + 10.7, "43 minutes 10 seconds"),
        (3_900, "1 hour 5 minutes"),
        (3_905, "1 hour 5 minutes 5 seconds"),
        (2 * 86_400 + 0.5, "2 days"),
    ],
)
def test_a_duration_is_described_in_words(seconds: float, words: str) -> None:
    assert duration_in_words(timedelta(seconds=seconds)) == words
