"""The estimate of a request's tokens."""

from __future__ import annotations

from daybook.agents.estimates import FIRST_OUTPUT_TOKENS, estimated_tokens


def test_the_first_request_is_estimated_by_its_texts() -> None:
    assert estimated_tokens([400, 39]) == (110, FIRST_OUTPUT_TOKENS)
    assert estimated_tokens([400], max_tokens=20) == (100, 20)


def test_a_later_request_contains_what_the_provider_counted_and_answers_as_before() -> None:
    assert estimated_tokens([40], [(1_000, 30), (1_500, 61)]) == (1_571, 46)
    assert estimated_tokens([0], [(10, 5)], max_tokens=3) == (15, 3)
