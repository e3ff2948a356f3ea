"""The clock of the database's time: between two answers, and after slow and wrong answers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from daybook.clock import SYSTEM_CLOCK
from daybook.ledger.database_clock import DatabaseClock

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def _after(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


class Ticks:
    """A monotonic clock that a test moves; it showed 0 when the database's clock showed noon."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def ticks() -> Ticks:
    return Ticks()


@pytest.fixture
def clock(ticks: Ticks) -> DatabaseClock:
    """Return a clock that has observed one answer, 20 ms after the question."""
    clock = DatabaseClock(ticks)
    clock.observe(_after(100), asked=99.99, answered=100.01)
    return clock


def test_a_clock_without_an_answer_shows_the_machines_time() -> None:
    clock = DatabaseClock()
    assert abs(SYSTEM_CLOCK.now() - clock.now()) < timedelta(seconds=5)
    assert clock.skew() == timedelta(0)


def test_the_monotonic_clock_tells_the_time_between_two_answers(
    clock: DatabaseClock, ticks: Ticks
) -> None:
    for seconds in (100, 101.5, 4000):
        ticks.at = seconds
        assert clock.now() == _after(seconds)


@pytest.mark.parametrize(("asked", "answered"), [(199.5, 200.001), (170, 200), (200, 260)])
def test_a_consistent_answer_does_not_move_the_clock_however_slow_it_is(
    clock: DatabaseClock, ticks: Ticks, asked: float, answered: float
) -> None:
    clock.observe(_after(200), asked=asked, answered=answered)
    ticks.at = 300
    assert clock.now() == _after(300)


def test_an_inconsistent_answer_moves_the_clock_no_further_than_necessary(
    clock: DatabaseClock, ticks: Ticks
) -> None:
    # The machine slept for an hour, and the monotonic clock with it.
    clock.observe(_after(3800), asked=199, answered=201)
    ticks.at = 201
    assert clock.now() == _after(3800)  # the answer may have been written just before it came
    clock.observe(_after(3800.5), asked=201, answered=201)
    assert clock.now() == _after(3800.5)


def test_a_clock_that_is_set_back_a_little_stands_still(clock: DatabaseClock, ticks: Ticks) -> None:
    ticks.at = 200
    assert clock.now() == _after(200)
    clock.observe(_after(199.5), asked=200, answered=200)
    assert clock.now() == _after(200)
    ticks.at = 200.25
    assert clock.now() == _after(200)
    ticks.at = 201
    assert clock.now() == _after(200.5)


def test_a_clock_that_is_set_back_by_an_hour_follows(clock: DatabaseClock, ticks: Ticks) -> None:
    ticks.at = 4000
    assert clock.now() == _after(4000)
    clock.observe(_after(400), asked=4000, answered=4000)
    assert clock.now() == _after(400)


def test_skew_is_the_difference_to_the_machines_clock(ticks: Ticks) -> None:
    clock = DatabaseClock(ticks)
    clock.observe(SYSTEM_CLOCK.now() - timedelta(seconds=30), asked=0, answered=0)
    assert timedelta(seconds=-35) < clock.skew() <= timedelta(seconds=-30)
