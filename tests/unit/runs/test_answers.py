"""Answers of a form: JSON, a schema, one repair."""

from __future__ import annotations

import json
from typing import Any

import pytest

from daybook.agents.base import AgentReply, AgentRequest, Message
from daybook.errors import AgentFailed
from daybook.runs import answers

SCHEMA = {
    "type": "object",
    "properties": {"title": {"type": "string"}, "count": {"type": "integer"}},
    "required": ["title", "count"],
}
REQUEST = AgentRequest("How many?", timeout=30, occurrence="o", history=(Message("user", "Hi"),))


class Says:
    """Answers in turn, and keeps what it was asked."""

    name = "says"

    def __init__(self, *texts: str, usage: dict[str, Any] | None = None) -> None:
        self.texts, self.usage = list(texts), usage
        self.requests: list[AgentRequest] = []

    async def answer(self, request: AgentRequest) -> AgentReply:
        self.requests.append(request)
        return AgentReply(self.texts.pop(0), self.name, usage=self.usage)


async def test_text_is_asked_for_and_taken_as_it_is() -> None:
    agent = Says("{not json")
    answer = await answers.ask(agent, REQUEST, "text", {})
    assert (answer.reply.text, answer.reply.result, answer.repaired) == ("{not json", None, "")
    assert agent.requests == [REQUEST]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [1, null]}', {"a": [1, None]}),
        ("```json\n[1, 2]\n```", [1, 2]),
        ("\n```\ntrue\n```\n", True),
    ],
)
async def test_json_is_read_also_out_of_a_fence(text: str, value: Any) -> None:
    answer = await answers.ask(Says(text), REQUEST, "json", {})
    assert (answer.reply.result, answer.reply.text, answer.repaired) == (value, text, "")


async def test_the_schema_is_told_and_a_fitting_answer_is_not_asked_for_twice() -> None:
    agent = Says('{"title": "pages", "count": 3}')
    answer = await answers.ask(agent, REQUEST, "structured", SCHEMA)
    assert answer.reply.result == {"title": "pages", "count": 3}
    (asked,) = agent.requests
    assert asked.prompt.startswith("How many?\n\n")
    assert json.loads(asked.prompt.splitlines()[-1]) == SCHEMA
    assert asked.history == REQUEST.history


async def test_what_does_not_fit_is_repaired_once_with_what_is_wrong() -> None:
    agent = Says('{"title": "pages", "count": "three"}', '{"title": "pages", "count": 3}')
    agent.usage = {"requests": 1, "input_tokens": 10, "cost_usd": 0.25}
    answer = await answers.ask(agent, REQUEST, "structured", SCHEMA)
    assert answer.reply.result == {"title": "pages", "count": 3}
    assert "at $.count: 'three' is not of type 'integer'" in answer.repaired
    assert answer.reply.usage == {"requests": 2, "input_tokens": 20, "cost_usd": 0.5}
    first, second = agent.requests
    assert "'three' is not of type 'integer'" in second.prompt
    said = (
        Message("user", first.prompt),
        Message("assistant", '{"title": "pages", "count": "three"}'),
    )
    assert second.history == (*REQUEST.history, *said)
    assert second.timeout <= REQUEST.timeout


async def test_an_unknown_price_stays_unknown_in_the_sum() -> None:
    agent = Says("no", "{}", usage={"requests": 1, "cost_usd": None})
    answer = await answers.ask(agent, REQUEST, "json", {})
    assert answer.reply.usage == {"requests": 2, "cost_usd": None}


@pytest.mark.parametrize(
    ("second", "told"),
    [
        ("still no JSON", "the answer, asked for twice, is no JSON"),
        (
            '{"title": 1, "count": 1}',
            "does not fit the schema at $.title: 1 is not of type 'string'",
        ),
    ],
)
async def test_what_does_not_fit_twice_fails_with_the_mismatch(second: str, told: str) -> None:
    agent = Says("words", second, "never asked for")
    with pytest.raises(AgentFailed) as failed:
        await answers.ask(agent, REQUEST, "structured", SCHEMA)
    assert told in str(failed.value)
    assert failed.value.output == second
    assert len(agent.requests) == 2
