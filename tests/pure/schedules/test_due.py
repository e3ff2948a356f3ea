"""Due times without daylight saving: kinds of schedules, their bounds, and their end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daybook.schedules.due import between, due_times, is_due, next_due
from daybook.schedules.schedule import At, Cron, Every, OnDemand

ANCHOR = datetime(2026, 11, 20, 8, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
EVERY = Every(every=10 * MINUTE, anchor=ANCHOR, timezone="Europe/Berlin")
NINE = Cron(expr="0 9 * * *", timezone="UTC")


@pytest.mark.floor("B", "An interval is first due one interval after its creation")
def test_an_interval_is_first_due_one_interval_after_its_anchor() -> None:
    first = ANCHOR + 10 * MINUTE
    assert next_due(EVERY, ANCHOR - timedelta(days=1)) == first
    assert next_due(EVERY, ANCHOR) == first
    assert next_due(EVERY, first - timedelta(microseconds=1)) == first
    assert next_due(EVERY, first) == first + 10 * MINUTE
    assert next(due_times(EVERY, after=first, inclusive=True)) == first
    assert not is_due(EVERY, ANCHOR)
    assert is_due(EVERY, first)


@given(st.integers(1, 10**7), st.integers(-(10**6), 10**9), st.integers(0, 999_999), st.booleans())
def test_intervals_keep_their_phase(every: int, after: int, micro: int, inclusive: bool) -> None:
    schedule = Every(every=timedelta(seconds=every), anchor=ANCHOR, timezone="UTC")
    start = ANCHOR + timedelta(seconds=after, microseconds=micro)
    first, second = islice(due_times(schedule, after=start, inclusive=inclusive), 2)
    assert (first - ANCHOR) % schedule.every == timedelta(0)
    assert first >= ANCHOR + schedule.every
    assert first >= start if inclusive else first > start
    before = first - schedule.every
    assert before <= ANCHOR or (before < start if inclusive else before <= start)
    assert second - first == schedule.every


@pytest.mark.floor("E", "at: one time")
def test_a_one_time_schedule_is_due_at_its_one_instant() -> None:
    schedule = At(at=ANCHOR, timezone="UTC")
    assert list(due_times(schedule, after=ANCHOR - MINUTE)) == [ANCHOR]
    assert list(due_times(schedule, after=ANCHOR)) == []
    assert list(due_times(schedule, after=ANCHOR, inclusive=True)) == [ANCHOR]
    assert is_due(schedule, ANCHOR)
    assert not is_due(schedule, ANCHOR + timedelta(seconds=1))


def test_an_on_demand_schedule_is_never_due() -> None:
    schedule = OnDemand(timezone="UTC")
    assert list(due_times(schedule, after=ANCHOR)) == []
    assert next_due(schedule, ANCHOR) is None
    assert not is_due(schedule, ANCHOR)


def test_due_times_are_in_utc_whatever_zone_the_arguments_have() -> None:
    elsewhere = ANCHOR.astimezone(timezone(timedelta(hours=-7)))
    due = next_due(NINE, elsewhere)
    assert due == datetime(2026, 11, 20, 9, tzinfo=UTC)
    assert due.tzinfo is UTC
    assert is_due(NINE, due.astimezone(timezone(timedelta(hours=5))))


@pytest.mark.floor("B", "Cron takes six fields, seconds first")
@pytest.mark.floor("C", "cron_expr takes six fields, seconds first")
@pytest.mark.floor("E", "Cron takes six fields, seconds first")
@pytest.mark.parametrize("expr", ["0 9 * * *", "0 0 9 * * *", "0 9-9,10 * * *", "*/60 9 * * *"])
def test_a_fraction_of_a_second_after_a_due_time_is_not_due(expr: str) -> None:
    if "9-9" in expr:
        expr = expr.replace("9-9,10", "9,10")
    schedule = Cron(expr=expr, timezone="UTC")
    nine = datetime(2026, 11, 20, 9, tzinfo=UTC)
    hair = timedelta(microseconds=1)
    assert next_due(schedule, nine - hair) == nine
    assert next_due(schedule, nine) != nine
    assert next(due_times(schedule, after=nine, inclusive=True)) == nine
    assert next(due_times(schedule, after=nine + hair, inclusive=True)) > nine
    assert not is_due(schedule, nine + hair)


def test_between_excludes_its_start_and_includes_its_end() -> None:
    nine = datetime(2026, 11, 20, 9, tzinfo=UTC)
    days = [nine + timedelta(days=number) for number in range(3)]
    assert list(between(NINE, days[0], days[2])) == days[1:]
    assert list(between(NINE, days[0], days[0])) == []


def test_due_times_that_are_years_away_are_found() -> None:
    leap = Cron(expr="0 0 29 2 *", timezone="UTC")
    start = datetime(2096, 3, 1, tzinfo=UTC)  # 2100 is no leap year
    assert next_due(leap, start) == datetime(2104, 2, 29, tzinfo=UTC)
    friday = Cron(expr="0 0 * 2 5#5", timezone="UTC")
    assert next_due(friday, ANCHOR) == datetime(2036, 2, 29, tzinfo=UTC)


@pytest.mark.parametrize(
    "schedule",
    [
        NINE,
        Cron(expr="* * * * *", timezone="Europe/Berlin"),
        Every(every=timedelta(days=36_500), anchor=ANCHOR, timezone="UTC"),
    ],
)
def test_due_times_end_with_the_year_9000(schedule: Cron | Every) -> None:
    late = datetime(9000, 12, 31, 23, 59, tzinfo=UTC)
    assert len(list(islice(due_times(schedule, after=late), 400))) < 400
    assert next_due(schedule, datetime(9500, 1, 1, tzinfo=UTC)) is None
