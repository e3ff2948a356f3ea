from __future__ import annotations

import pytest

from daybook.agents.base import AgentRequest
from daybook.agents.offline import OfflineAgent, OfflineSettings

pytestmark = pytest.mark.anyio


async def _answer(prompt: str) -> str:
    request = AgentRequest(prompt=prompt, timeout=1, occurrence="flow:1")
    return (await OfflineAgent("default", OfflineSettings()).answer(request)).text


async def test_the_answer_says_that_no_model_answered_and_quotes_the_prompt() -> None:
    first, *_, quote = (await _answer("Summarise\n\nthe log")).split("\n\n")
    assert "no model is configured" in first
    assert "not a model's answer" in first
    assert quote == "> Summarise\n>\n> the log"


@pytest.mark.parametrize(("prompt", "count"), [("one", "(1 word)"), ("two  words", "(2 words)")])
async def test_the_answer_counts_the_words_of_the_prompt(prompt: str, count: str) -> None:
    assert count in await _answer(prompt)


async def test_a_long_prompt_is_truncated_in_the_quotation() -> None:
    answer = await _answer("x" * 10_000)
    assert answer.count("x") < 600
    assert answer.endswith(" …")
