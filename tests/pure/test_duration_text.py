"""Durations in words and with short units."""

from __future__ import annotations

from datetime import timedelta

import pytest

from daybook.duration_text import duration_in_words, measured_in_words, short_duration


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


@pytest.mark.parametrize(
    ("seconds", "words", "short", "aligned"),
    [
        (0.04, "0.0 s", "0.0 s", "0.0 s"),
        (0.44, "0.4 s", "0.4 s", "0.4 s"),
        (9.94, "9.9 s", "9.9 s", "9.9 s"),
        (9.96, "10.0 s", "10 s", "10.0 s"),
        (59.94, "59.9 s", "1 min", "59.9 s"),
        (59.96, "1 minute", "1 min", "1 m 00 s"),
        (65, "1 minute 5 seconds", "1 min 5 s", "1 m 05 s"),
        (3_599.6, "1 hour", "1 h", "1 h 00 m"),
        (7_380, "2 hours 3 minutes", "2 h 3 min", "2 h 03 m"),
        (4_000_000, "46 days 7 hours 6 minutes 40 seconds", "1,111 h 6 min", "1111 h 06 m"),
    ],
)
def test_a_measured_duration_has_three_forms(
    seconds: float, words: str, short: str, aligned: str
) -> None:
    assert measured_in_words(seconds) == words
    assert short_duration(seconds) == short
    assert short_duration(seconds, aligned=True) == aligned
