"""Limits above which a session's history is compressed, of jobs and of agents."""

from __future__ import annotations

import pytest

from daybook.agents import kinds
from daybook.errors import InvalidInput
from daybook.policies.compression import Compression, first_within
from daybook.policies.policy import Policy
from daybook.validation import raising_invalid_input

LIMITS = {
    "summarize_after_messages": 40,
    "summarize_after_tokens": 8_000,
    "history_tokens": 9_000,
}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("summarize_after_messages", 29, "29 is out of range (use 30 to 1,000, or 0 for never)"),
        ("summarize_after_messages", 1_001, "1,001 is out of range (use 30 to 1,000, or 0 for"),
        ("summarize_after_messages", -1, "-1 is out of range"),
        ("summarize_after_tokens", 999, "999 is out of range (use 1,000 to 1,000,000, or 0 for"),
        ("history_tokens", 999, "999 is out of range (use 1,000 to 1,000,000, or 0 for 50,000)"),
    ],
)
def test_a_limit_out_of_range_is_refused(field: str, value: int, message: str) -> None:
    with pytest.raises(InvalidInput) as refused, raising_invalid_input(Policy.model_fields):
        Policy.model_validate({field: value})
    assert f"{field}: {message}" in str(refused.value)
    for kind, least in ((kinds.MODEL, {"model": "openai:x"}), (kinds.COMMAND, {"command": ["x"]})):
        with pytest.raises(InvalidInput) as refused:
            kind.validate({**least, field: value})
        assert message in str(refused.value)


def test_a_job_and_an_agent_may_ask_for_compression() -> None:
    assert not Policy().compression
    assert Policy.model_validate(LIMITS).compression == Compression(40, 8_000, 9_000)
    model = kinds.build(kinds.MODEL.slug, "m", {"model": "openai:x", **LIMITS})
    program = kinds.build(kinds.COMMAND.slug, "c", {"command": ["x"], **LIMITS})
    assert model.compression == program.compression == Compression(40, 8_000, 9_000)
    assert not kinds.build(kinds.OFFLINE.slug, "o", {}).compression


@pytest.mark.parametrize(
    ("compression", "lengths", "exceeded"),
    [
        (Compression(), [10_000] * 1_000, False),
        (Compression(messages=30), [1] * 30, False),
        (Compression(messages=30), [1] * 31, True),
        (Compression(tokens=1_000), [400] * 10, False),
        (Compression(tokens=1_000), [400] * 9 + [401], True),
        (Compression(30, 1_000), [400] * 11, True),
    ],
)
def test_either_limit_is_exceeded(
    compression: Compression, lengths: list[int], exceeded: bool
) -> None:
    assert compression.is_exceeded(lengths) is exceeded


@pytest.mark.parametrize(
    ("job", "agent", "both"),
    [
        (Compression(), Compression(40, 0, 2_000), Compression(40, 0, 2_000)),
        (Compression(30), Compression(40, 5_000, 2_000), Compression(30, 0, 2_000)),
        (Compression(0, 0, 4_000), Compression(40, 5_000, 2_000), Compression(40, 5_000, 4_000)),
        (Compression(), Compression(), Compression()),
    ],
)
def test_the_limits_of_a_job_are_completed_by_those_of_its_agent(
    job: Compression, agent: Compression, both: Compression
) -> None:
    assert job.over(agent) == both


@pytest.mark.parametrize(
    ("messages", "most_tokens", "first"),
    [
        ([], 1_000, 0),
        ([(True, 400), (False, 400)], 200, 0),
        ([(True, 400), (False, 400)], 199, 2),  # a prompt is never without its answer
        ([(True, 400), (False, 400), (True, 40), (False, 40)], 219, 2),
        ([(True, 400), (False, 400), (True, 40), (False, 40)], 220, 0),
        ([(False, 4), (True, 4)], 10, 1),  # retention deleted the prompt of the first answer
        ([(True, 4), (False, 4)], -5, 2),
    ],
)
def test_a_history_begins_with_a_prompt_and_has_no_more_tokens_than_allowed(
    messages: list[tuple[bool, int]], most_tokens: int, first: int
) -> None:
    assert first_within(messages, most_tokens) == first
