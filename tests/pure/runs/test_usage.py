"""The amounts that budgets count for a usage."""

from __future__ import annotations

import math

from daybook.runs.usage import Amount, checked

UNKNOWN = {"input_tokens": None, "output_tokens": None, "cost_usd": None}


def test_an_attempt_that_only_replays_requests_counts_none_at_an_unknown_price() -> None:
    assert Amount.of({"requests": 0, "input_tokens": 0, "output_tokens": 0, "cost_usd": None}) == (
        Amount()
    )
    assert Amount.of({"requests": 2, **UNKNOWN}) == Amount(unpriced=2)
    assert Amount.of(UNKNOWN) == Amount(unpriced=1)
    assert Amount.of({"requests": 0, **UNKNOWN, "input_tokens": 9}) == Amount(9, unpriced=1)


def test_an_impossible_number_of_a_report_is_unknown_with_a_warning() -> None:
    possible = {"requests": 2, "input_tokens": 10**12, "output_tokens": None, "cost_usd": 1e9}
    assert checked(possible) == (possible, "")
    for name, value, written in (
        ("input_tokens", 10**12 + 1, "1e+12"),
        ("output_tokens", 3 * 10**400, "1e300 or more"),
        ("output_tokens", -1, "-1"),
        ("cost_usd", 1e10, "1e+10"),
        ("cost_usd", math.nan, "nan"),
        ("cost_usd", math.inf, "1e300 or more"),
    ):
        warning = f"the reported usage is impossible: {name} {written}"
        assert checked({**possible, name: value}) == ({**possible, name: None}, warning), name
