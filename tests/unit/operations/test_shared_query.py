"""One slow question for all who ask it: when its last answer is given again, and when not."""

from __future__ import annotations

import asyncio

import pytest

from daybook.operations import shared_query
from daybook.operations.shared_query import SharedQuery

pytestmark = pytest.mark.anyio

AT_ONCE = 0.01


class Question:
    """Answers 1, 2, … or fails; while ``held`` it waits."""

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


async def test_the_second_miss_in_a_row_decides() -> None:
    question = Question()
    answers = SharedQuery(question, fresh=0.0)
    assert await answers.ask(60) == 1
    question.go.clear()
    first = await asyncio.gather(*(answers.ask(AT_ONCE) for _ in range(5)))
    assert first == [1] * 5  # those who ask at once are one miss
    with pytest.raises(TimeoutError):
        await answers.ask(AT_ONCE)
    assert question.asked == 2
    question.go.set()
    assert await answers.ask(60) == 2
    question.go.clear()
    assert await answers.ask(AT_ONCE) == 2  # it counts anew
    await answers.stop(AT_ONCE)


async def test_without_an_answer_before_the_first_miss_decides() -> None:
    question = Question()
    question.go.clear()
    answers = SharedQuery(question, fresh=0.0)
    with pytest.raises(TimeoutError):
        await answers.ask(AT_ONCE)
    await answers.stop(AT_ONCE)


async def test_after_a_failure_no_older_answer_is_given() -> None:
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


async def test_an_old_answer_is_not_given_again(monkeypatch: pytest.MonkeyPatch) -> None:
    question = Question()
    answers = SharedQuery(question, fresh=0.0)
    assert await answers.ask(60) == 1
    question.go.clear()
    monkeypatch.setattr(shared_query, "MAX_ANSWER_AGE_SECONDS", -1.0)
    with pytest.raises(TimeoutError):
        await answers.ask(AT_ONCE)
    await answers.stop(AT_ONCE)
