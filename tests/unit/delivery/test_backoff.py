"""Retry times of deliveries that were not accepted."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from daybook.delivery import backoff
from tests.unit.delivery.rows import NOON, callback

SECONDS = [5, 30, 120, 600, 1800, 3600, 7200, 14400, 21600, 36000]
"""As docs/guides/callbacks.md says."""


def _pause(made: int, asked: float | None = None, tries: int = 11) -> float | None:
    """Return the pause in seconds after the try that follows ``made`` others, or None."""
    again = backoff.next_attempt_at(callback(attempts=made), NOON, asked, tries)
    return None if again is None else (again - NOON).total_seconds()


@pytest.mark.floor("C", "A failed callback is retried with growing pauses")
@pytest.mark.parametrize(("made", "seconds"), list(enumerate(SECONDS)))
def test_the_pauses_grow_and_have_ten_percent_jitter(made: int, seconds: int) -> None:
    pauses = {_pause(made) for _ in range(200)}
    assert len(pauses) > 100
    assert all(pause is not None and seconds <= pause <= 1.1 * seconds for pause in pauses)


def test_the_eleventh_try_is_the_last() -> None:
    assert _pause(9) is not None
    assert _pause(10) is None


def test_all_tries_together_take_about_a_day() -> None:
    now, made = NOON, 0
    while (again := backoff.next_attempt_at(callback(attempts=made), now, None, 11)) is not None:
        now, made = again, made + 1
    assert timedelta(hours=14) < now - NOON < timedelta(hours=27)
    assert made >= 9


def test_a_destination_may_set_fewer_or_more_tries() -> None:
    assert _pause(2, tries=3) is None
    assert _pause(0, tries=1) is None
    later = _pause(15, tries=20)
    assert later is not None and 36000 <= later <= 39600


@pytest.mark.parametrize(
    ("made", "asked", "least", "most"),
    [
        (0, 90.0, 90, 90),
        (0, 1.0, 5, 5.5),
        (0, 0.0, 5, 5.5),
        (5, 90.0, 3600, 3960),
        (0, 1e9, 3600, 3600),
        (0, float("inf"), 3600, 3600),
    ],
)
def test_a_retry_after_longer_than_the_pause_is_used_up_to_an_hour(
    made: int, asked: float, least: float, most: float
) -> None:
    pause = _pause(made, asked)
    assert pause is not None and least <= pause <= most


def _at(hours: float, asked: float | None = None, attempts: int = 2) -> datetime | None:
    now = NOON + timedelta(hours=hours)
    return backoff.next_attempt_at(callback(attempts=attempts), now, asked, 11)


def test_a_row_older_than_a_day_is_not_tried_again() -> None:
    assert _at(24) is None
    assert _at(23.9) is not None


def test_a_retry_after_is_cut_at_one_day_after_the_row_was_created() -> None:
    assert _at(23.5, asked=3600) == NOON + timedelta(hours=24)
