"""The amounts that budgets count for a usage."""

from __future__ import annotations

from daybook.runs.usage import Amount

UNKNOWN = {"input_tokens": None, "output_tokens": None, "cost_usd": None}


def test_an_attempt_that_only_replays_requests_counts_none_at_an_unknown_price() -> None:
    assert Amount.of({"requests": 0, "input_tokens": 0, "output_tokens": 0, "cost_usd": None}) == (
        Amount()
    )
    assert Amount.of({"requests": 2, **UNKNOWN}) == Amount(unpriced=2)
    assert Amount.of(UNKNOWN) == Amount(unpriced=1)
    assert Amount.of({"requests": 0, **UNKNOWN, "input_tokens": 9}) == Amount(9, unpriced=1)
