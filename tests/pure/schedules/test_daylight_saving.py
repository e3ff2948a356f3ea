"""Due times around changes of a zone's offset (requirement 7).

The expected instants are computed by hand from the change named beside each case (UTC instant,
offset before and after) and from the two rules in `daybook.schedules.due`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from typing import NamedTuple

import pytest

from daybook.schedules.due import between, due_times, is_due, next_due
from daybook.schedules.schedule import Cron
from tests import rows


class Case(NamedTuple):
    name: str
    expr: str
    zone: str
    start: str
    end: str
    due: list[str]


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


CASES = [
    # New York 2026-03-08: 07:00Z, -5 to -4, the clocks skip 02:00 to 03:00.
    Case("ny gap fixed", "30 2 * * *", "America/New_York", "2026-03-07 00:00", "2026-03-10 00:00",
         ["2026-03-07 07:30", "2026-03-08 07:00", "2026-03-09 06:30"]),
    Case("ny gap several fixed times are due once", "0,15,30,45 2 * * *", "America/New_York",
         "2026-03-08 06:00", "2026-03-08 12:00", ["2026-03-08 07:00"]),
    Case("ny gap and its end are one", "0 2,3 * * *", "America/New_York",
         "2026-03-08 06:00", "2026-03-08 12:00", ["2026-03-08 07:00"]),
    Case("ny gap, then later in the hour", "30 2,3 * * *", "America/New_York",
         "2026-03-08 06:00", "2026-03-08 12:00", ["2026-03-08 07:00", "2026-03-08 07:30"]),
    Case("ny gap wild hour", "30 * * * *", "America/New_York",
         "2026-03-08 05:59", "2026-03-08 09:00",
         ["2026-03-08 06:30", "2026-03-08 07:30", "2026-03-08 08:30"]),
    Case("ny gap wild minute in the skipped hour is not due", "*/15 2 * * *", "America/New_York",
         "2026-03-08 00:00", "2026-03-09 06:20", ["2026-03-09 06:00", "2026-03-09 06:15"]),
    Case("ny gap hour step", "0 */2 * * *", "America/New_York",  # 00:00, (02:00), 04:00
         "2026-03-08 04:00", "2026-03-08 09:00", ["2026-03-08 05:00", "2026-03-08 08:00"]),
    Case("ny gap named minutes are fixed", "0-59/30 2 * * *", "America/New_York",
         "2026-03-08 06:00", "2026-03-08 12:00", ["2026-03-08 07:00"]),
    Case("ny gap every minute", "* * * * *", "America/New_York",
         "2026-03-08 06:58", "2026-03-08 07:02",
         ["2026-03-08 06:59", "2026-03-08 07:00", "2026-03-08 07:01", "2026-03-08 07:02"]),
    # New York 2026-11-01: 06:00Z, -4 to -5, the clocks show 01:00 to 02:00 twice.
    Case("ny repeat fixed", "30 1 * * *", "America/New_York", "2026-11-01 00:00",
         "2026-11-02 12:00", ["2026-11-01 05:30", "2026-11-02 06:30"]),
    Case("ny repeat fixed asked from the second pass", "30 1 * * *", "America/New_York",
         "2026-11-01 06:10", "2026-11-02 12:00", ["2026-11-02 06:30"]),
    Case("ny repeat every 30 minutes is not silent", "*/30 * * * *", "America/New_York",
         "2026-11-01 04:45", "2026-11-01 07:30",
         ["2026-11-01 05:00", "2026-11-01 05:30", "2026-11-01 06:00", "2026-11-01 06:30",
          "2026-11-01 07:00", "2026-11-01 07:30"]),
    Case("ny repeat wild minute, fixed hour", "*/30 1 * * *", "America/New_York",
         "2026-11-01 00:00", "2026-11-01 12:00",
         ["2026-11-01 05:00", "2026-11-01 05:30", "2026-11-01 06:00", "2026-11-01 06:30"]),
    Case("ny repeat @hourly", "@hourly", "America/New_York",
         "2026-11-01 04:30", "2026-11-01 07:00",
         ["2026-11-01 05:00", "2026-11-01 06:00", "2026-11-01 07:00"]),
    Case("ny the end of the repeated hour", "0 2 * * *", "America/New_York",
         "2026-11-01 00:00", "2026-11-01 12:00", ["2026-11-01 07:00"]),
    Case("ny six fields in the repeat", "0 */20 1 * * *", "America/New_York",
         "2026-11-01 05:30", "2026-11-01 06:20",
         ["2026-11-01 05:40", "2026-11-01 06:00", "2026-11-01 06:20"]),
    Case("ny six fields fixed in the repeat", "15,45 30 1 * * *", "America/New_York",
         "2026-11-01 00:00", "2026-11-01 12:00", ["2026-11-01 05:30:15", "2026-11-01 05:30:45"]),
    Case("ny six fields fixed in the gap", "15,45 30 2 * * *", "America/New_York",
         "2026-03-08 00:00", "2026-03-08 12:00", ["2026-03-08 07:00"]),
    Case("ny wild seconds alone are fixed", "*/20 59 1 * * *", "America/New_York",
         "2026-11-01 00:00", "2026-11-01 12:00",
         ["2026-11-01 05:59", "2026-11-01 05:59:20", "2026-11-01 05:59:40"]),
    # Berlin 2026-03-29 and 2026-10-25: 01:00Z, +1 and +2.
    Case("berlin gap day OR weekday, both", "30 2 29 * 0", "Europe/Berlin",
         "2026-03-22 12:00", "2026-04-05 12:00", ["2026-03-29 01:00", "2026-04-05 00:30"]),
    Case("berlin repeat day OR weekday", "30 2 25 * 5", "Europe/Berlin",
         "2026-10-23 00:00", "2026-10-30 12:00",
         ["2026-10-23 00:30", "2026-10-25 00:30", "2026-10-30 01:30"]),
    Case("berlin last Sunday of the month in the gap", "30 2 * 3 L7", "Europe/Berlin",
         "2026-01-01 00:00", "2027-03-28 12:00", ["2026-03-29 01:00", "2027-03-28 01:00"]),
    Case("berlin noon moves in UTC", "0 12 * * *", "Europe/Berlin",
         "2026-03-28 00:00", "2026-03-29 12:00", ["2026-03-28 11:00", "2026-03-29 10:00"]),
    # London 2026-03-29: 01:00Z, +0 to +1; the clocks skip 01:00 to 02:00.
    Case("london gap weekday", "15 1 * * sun", "Europe/London",
         "2026-03-22 12:00", "2026-04-05 12:00", ["2026-03-29 01:00", "2026-04-05 00:15"]),
    # Sydney 2026-10-04: 16:00Z the day before, +10 to +11; 2026-04-05: 16:00Z the day before, back.
    Case("sydney gap fixed", "30 2 * * *", "Australia/Sydney", "2026-10-02 20:00",
         "2026-10-05 00:00", ["2026-10-03 16:00", "2026-10-04 15:30"]),
    Case("sydney repeat fixed", "30 2 * * *", "Australia/Sydney", "2026-04-04 00:00",
         "2026-04-05 20:00", ["2026-04-04 15:30", "2026-04-05 16:30"]),
    Case("sydney repeat wild", "30 */1 * * *", "Australia/Sydney", "2026-04-04 15:00",
         "2026-04-04 18:00", ["2026-04-04 15:30", "2026-04-04 16:30", "2026-04-04 17:30"]),
    # Auckland 2026-09-27: 14:00Z the day before, +12 to +13.
    Case("auckland gap", "0 2 * * 0", "Pacific/Auckland", "2026-09-20 00:00",
         "2026-10-04 00:00", ["2026-09-26 14:00", "2026-10-03 13:00"]),
    # Chatham changes with Auckland, +12:45 to +13:45: the clocks skip 02:45 to 03:45.
    Case("chatham gap from a quarter to", "0 3 * * *", "Pacific/Chatham", "2026-09-26 00:00",
         "2026-09-27 14:00", ["2026-09-26 14:00", "2026-09-27 13:15"]),
    Case("chatham gap ends on no full hour", "45 3 * * *", "Pacific/Chatham",
         "2026-09-26 00:00", "2026-09-27 00:00", ["2026-09-26 14:00"]),
    # Lord Howe 2026-10-03 15:30Z, +10:30 to +11: skips 02:00 to 02:30.
    # 2026-04-04 15:00Z, back: shows 01:30 to 02:00 twice.
    Case("lord howe half-hour gap fixed", "15 2 * * *", "Australia/Lord_Howe",
         "2026-10-03 00:00", "2026-10-04 20:00", ["2026-10-03 15:30", "2026-10-04 15:15"]),
    Case("lord howe half-hour gap wild hour", "15 * * * *", "Australia/Lord_Howe",
         "2026-10-03 14:00", "2026-10-03 17:00", ["2026-10-03 14:45", "2026-10-03 16:15"]),
    Case("lord howe half-hour gap wild minute", "*/15 * * * *", "Australia/Lord_Howe",
         "2026-10-03 15:00", "2026-10-03 15:45",
         ["2026-10-03 15:15", "2026-10-03 15:30", "2026-10-03 15:45"]),
    Case("lord howe half-hour repeat fixed", "45 1 * * *", "Australia/Lord_Howe",
         "2026-04-04 00:00", "2026-04-05 20:00", ["2026-04-04 14:45", "2026-04-05 15:15"]),
    Case("lord howe half-hour repeat wild", "45 * * * *", "Australia/Lord_Howe",
         "2026-04-04 14:00", "2026-04-04 16:20",
         ["2026-04-04 14:45", "2026-04-04 15:15", "2026-04-04 16:15"]),
    # St John's 2026-03-08: 05:30Z, -3:30 to -2:30.
    Case("st john's gap", "30 2 * * *", "America/St_Johns", "2026-03-08 00:00",
         "2026-03-09 12:00", ["2026-03-08 05:30", "2026-03-09 05:00"]),
    # Santiago 2024-09-08: 04:00Z, -4 to -3: midnight does not exist. 2024-04-07: 03:00Z, back.
    Case("santiago midnight gap", "0 0 * * *", "America/Santiago", "2024-09-07 12:00",
         "2024-09-09 12:00", ["2024-09-08 04:00", "2024-09-09 03:00"]),
    Case("santiago midnight gap keeps its day", "0 0 8 9 *", "America/Santiago",
         "2024-09-01 00:00", "2024-09-30 00:00", ["2024-09-08 04:00"]),
    Case("santiago 23:30 shown twice", "30 23 * * *", "America/Santiago",
         "2024-04-06 12:00", "2024-04-08 12:00", ["2024-04-07 02:30", "2024-04-08 03:30"]),
    Case("santiago midnight comes once after the repeat", "@daily", "America/Santiago",
         "2024-04-06 12:00", "2024-04-07 12:00", ["2024-04-07 04:00"]),
    # Havana 2025-03-09: 05:00Z, -5 to -4 (midnight skipped); 2025-11-02: 05:00Z, back to 00:00.
    Case("havana midnight gap", "@daily", "America/Havana", "2025-03-08 12:00",
         "2025-03-10 12:00", ["2025-03-09 05:00", "2025-03-10 04:00"]),
    Case("havana midnight shown twice", "@midnight", "America/Havana", "2025-11-01 12:00",
         "2025-11-03 12:00", ["2025-11-02 04:00", "2025-11-03 05:00"]),
    Case("havana first of the month after a repeat", "30 0 2 11 *", "America/Havana",
         "2025-11-01 12:00", "2025-11-03 12:00", ["2025-11-02 04:30"]),
    # Beirut 2025-03-29 22:00Z, +2 to +3 (midnight of the 30th skipped); 2025-10-25 21:00Z, back.
    Case("beirut midnight gap on a Sunday", "@weekly", "Asia/Beirut", "2025-03-24 00:00",
         "2025-04-06 12:00", ["2025-03-29 22:00", "2025-04-05 21:00"]),
    Case("beirut wild minute in the midnight gap", "*/20 0 * * *", "Asia/Beirut",
         "2025-03-29 12:00", "2025-03-30 21:20", ["2025-03-30 21:00", "2025-03-30 21:20"]),
    # Apia skipped 30 December 2011: 10:00Z on that day, -10 to +14.
    Case("apia skipped day", "0 9 * * *", "Pacific/Apia", "2011-12-29 12:00",
         "2011-12-31 12:00", ["2011-12-29 19:00", "2011-12-30 10:00", "2011-12-30 19:00"]),
    Case("apia midnights on both ends of the skipped day are one", "0 0 * * *", "Pacific/Apia",
         "2011-12-29 09:00", "2011-12-31 12:00",
         ["2011-12-29 10:00", "2011-12-30 10:00", "2011-12-31 10:00"]),
    Case("apia the skipped day itself", "0 12 30 12 *", "Pacific/Apia", "2011-12-01 00:00",
         "2012-01-31 00:00", ["2011-12-30 10:00"]),
    Case("apia wild over the skipped day", "0 */12 * * *", "Pacific/Apia", "2011-12-29 09:00",
         "2011-12-31 00:00", ["2011-12-29 10:00", "2011-12-29 22:00", "2011-12-30 10:00",
                              "2011-12-30 22:00"]),
    # Kwajalein skipped 21 August 1993: 12:00Z on that day, -12 to +12.
    Case("kwajalein skipped day", "0 6 * * *", "Pacific/Kwajalein", "1993-08-20 12:00",
         "1993-08-22 00:00", ["1993-08-20 18:00", "1993-08-21 12:00", "1993-08-21 18:00"]),
    # Pyongyang 2018-05-04 15:00Z, +8:30 to +9; 2015-08-14 15:00Z, +9 to +8:30. Not daylight saving.
    Case("pyongyang zone change, half an hour skipped", "45 23 * * *", "Asia/Pyongyang",
         "2018-05-04 00:00", "2018-05-05 20:00", ["2018-05-04 15:00", "2018-05-05 14:45"]),
    Case("pyongyang zone change, half an hour twice", "45 23 * * *", "Asia/Pyongyang",
         "2015-08-14 00:00", "2015-08-15 20:00", ["2015-08-14 14:45", "2015-08-15 15:15"]),
    # Caracas 2016-05-01: 07:00Z, -4:30 to -4.
    Case("caracas zone change", "40 2 * * *", "America/Caracas", "2016-05-01 00:00",
         "2016-05-02 12:00", ["2016-05-01 07:00", "2016-05-02 06:40"]),
    # Volgograd 2020-12-26 22:00Z, +4 to +3: 01:00 to 02:00 shown twice, not daylight saving.
    Case("volgograd zone change", "20 1 * * *", "Europe/Volgograd", "2020-12-26 12:00",
         "2020-12-28 00:00", ["2020-12-26 21:20", "2020-12-27 22:20"]),
    # Casablanca leaves its +1 for Ramadan: 2026-02-15 02:00Z to +0, 2026-03-22 02:00Z back.
    Case("casablanca ramadan repeat", "30 2 * * *", "Africa/Casablanca", "2026-02-14 12:00",
         "2026-02-16 12:00", ["2026-02-15 01:30", "2026-02-16 02:30"]),
    Case("casablanca ramadan gap", "30 2 * * *", "Africa/Casablanca", "2026-03-21 12:00",
         "2026-03-23 12:00", ["2026-03-22 02:00", "2026-03-23 01:30"]),
    # Troll: two hours, 2026-03-29 01:00Z +0 to +2, 2026-10-25 01:00Z back.
    Case("troll two hours skipped", "30 1,2 * * *", "Antarctica/Troll", "2026-03-29 00:00",
         "2026-03-29 12:00", ["2026-03-29 01:00"]),
    Case("troll two hours twice", "30 1,2 * * *", "Antarctica/Troll", "2026-10-24 22:00",
         "2026-10-25 12:00", ["2026-10-24 23:30", "2026-10-25 00:30"]),
    # Cairo 2024-04-25 22:00Z, +2 to +3: 00:00 of Friday 26 skipped.
    Case("cairo midnight gap on a Friday", "0 0 * * 5", "Africa/Cairo", "2024-04-20 00:00",
         "2024-05-03 00:00", ["2024-04-25 22:00", "2024-05-02 21:00"]),
    # Dublin's winter is the one that "saves" (negative): 2026-10-25 01:00Z, +1 to +0.
    Case("dublin repeat", "30 1 * * *", "Europe/Dublin", "2026-10-24 12:00",
         "2026-10-26 12:00", ["2026-10-25 00:30", "2026-10-26 01:30"]),
]  # fmt: skip


@pytest.mark.floor("C", "A job's due times are in its own zone")
def test_due_times_around_an_offset_change() -> None:
    for case, row in rows.each(CASES):
        schedule = Cron(expr=case.expr, timezone=case.zone)
        expected = [utc(text) for text in case.due]
        start, end = utc(case.start), utc(case.end)
        with row:
            assert list(between(schedule, start, end)) == expected
            assert next_due(schedule, start) == expected[0]
            for instant in expected:
                assert is_due(schedule, instant)
                assert next(due_times(schedule, after=instant, inclusive=True)) == instant


def test_there_are_at_least_thirty_cases() -> None:
    assert len(CASES) >= 30
    assert len({case.name for case in CASES}) == len(CASES)


def test_the_next_due_time_does_not_depend_on_where_the_search_starts() -> None:
    """From each instant between two due times, the next due time is the later one."""
    for case, row in rows.each(CASES):
        schedule = Cron(expr=case.expr, timezone=case.zone)
        expected = [utc(text) for text in case.due]
        with row:
            for due, following in pairwise(expected):
                for part in range(1, 8):
                    asked = due + (following - due) * part / 8
                    assert next_due(schedule, asked) == following
                    assert is_due(schedule, asked.replace(microsecond=0)) is False
