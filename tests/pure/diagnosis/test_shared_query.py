"""A slow query shared by all callers: when a timeout returns the last answer, and when not."""

from __future__ import annotations

import asyncio

import pytest

from daybook.diagnosis import shared_query
from daybook.diagnosis.shared_query import SharedQuery

pytestmark = pytest.mark.anyio

AT_ONCE = 0.01


class Question:
    """A query that returns 1, 2, … or fails; it waits while ``go`` is not set."""

    def __init__(self) -> None:
        self.asked = 0
        self.go = asyncio.Event()
        self.go.set()
        self.fails = False

    async def __call__(self) -> int:
        self.asked += 1
        await self.go.wait()
        if self.fails:
            raise ValueError("no")
        return self.asked


async def test_the_first_timeout_returns_the_last_answer_and_the_second_raises() -> None:
    question = Question()
    answers = SharedQuery(question, fresh=0.0)
    assert await answers.ask(60) == 1
    question.go.clear()
    first = await asyncio.gather(*(answers.ask(AT_ONCE) for _ in range(5)))
    assert first == [1] * 5  # concurrent callers count as one timeout
    with pytest.raises(TimeoutError):
        await answers.ask(AT_ONCE)
    assert question.asked == 2
    question.go.set()
    assert await answers.ask(60) == 2
    question.go.clear()
    assert await answers.ask(AT_ONCE) == 2  # an answer resets the count
    await answers.stop(AT_ONCE)


async def test_the_first_timeout_raises_if_there_is_no_earlier_answer() -> None:
    question = Question()
    question.go.clear()
    answers = SharedQuery(question, fresh=0.0)
    with pytest.raises(TimeoutError):
        await answers.ask(AT_ONCE)
    await answers.stop(AT_ONCE)


async def test_a_timeout_after_a_failed_query_raises() -> None:
    question = Question()
    answers = SharedQuery(question, fresh=0.0)
    assert await answers.ask(60) == 1
    question.fails = True
    with pytest.raises(ValueError, match="no"):
        await answers.ask(60)
    question.go.clear()
    with pytest.raises(TimeoutError):
        await answers.ask(AT_ONCE)
    await answers.stop(AT_ONCE)


async def test_a_timeout_raises_if_the_last_answer_is_too_old(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    question = Question()
    answers = SharedQuery(question, fresh=0.0)
    assert await answers.ask(60) == 1
    question.go.clear()
    monkeypatch.setattr(shared_query, "MAX_ANSWER_AGE_SECONDS", -1.0)
    with pytest.raises(TimeoutError):
        await answers.ask(AT_ONCE)
    await answers.stop(AT_ONCE)
