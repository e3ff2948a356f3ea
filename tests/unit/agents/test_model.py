"""What a model agent sends, and what it makes of an answer."""

from __future__ import annotations

import asyncio
import json
from fractions import Fraction
from typing import Any

import pytest
from genai_prices.data_snapshot import get_snapshot

from daybook.agents.base import Message
from daybook.errors import AgentError, AgentFailed, AgentMisconfigured, AgentTemporary, AgentTimeout
from tests.providers import KEY, WAIT, Answer, Hang, Page, Provider, Status
from tests.unit.agents.asking import MODELS, PROTOCOLS, agent, ask, request

pytestmark = pytest.mark.anyio

protocols = pytest.mark.parametrize("protocol", PROTOCOLS)


@protocols
async def test_one_request_and_its_answer(here: Provider, protocol: str) -> None:
    here.script = [Answer("Grüße, 世界", input_tokens=1000, output_tokens=50)]
    reply = await ask(here, protocol, "Grüße!")
    assert (reply.text, reply.agent, reply.model) == ("Grüße, 世界", "brief", MODELS[protocol])
    (seen,) = here.requests
    assert seen.said == [("user", "Grüße!")]
    assert seen.body["model"] == MODELS[protocol]
    assert seen.key == KEY
    assert seen.path == {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}[protocol]


@protocols
async def test_the_system_prompt_then_the_history_then_the_prompt(
    here: Provider, protocol: str
) -> None:
    talk = [Message("user", "One"), Message("assistant", "1"), Message("user", "Two")]
    talk += [Message("assistant", "2")]
    history = tuple(talk)
    await agent(here, protocol, system_prompt="Count.").answer(request("Three", history=history))
    (seen,) = here.requests
    assert seen.said == [
        ("system", "Count."),
        ("user", "One"),
        ("assistant", "1"),
        ("user", "Two"),
        ("assistant", "2"),
        ("user", "Three"),
    ]


@protocols
async def test_an_empty_answer_is_one_and_its_place_in_the_history_is_no_refusal(
    here: Provider, protocol: str
) -> None:
    here.script = [Answer("")]
    history = (Message("user", "Any news?"), Message("assistant", ""))
    reply = await agent(here, protocol).answer(request(history=history))
    assert reply.text == ""
    (seen,) = here.requests
    assert all(text for _, text in seen.said)


@protocols
async def test_only_what_was_set_is_sent(here: Provider, protocol: str) -> None:
    # Not the models of the other tests: one that reasons takes no temperature.
    model = {"openai": "openai:gpt-4o-mini", "anthropic": "anthropic:claude-haiku-4-5"}[protocol]
    await ask(here, protocol, model=model)
    await ask(
        here, protocol, model=model, options={"temperature": 0, "max_tokens": 7, "top_p": 0.5}
    )
    plain, tuned = here.requests
    assert "temperature" not in plain.body
    limit = tuned.body.get("max_tokens", tuned.body.get("max_completion_tokens"))
    assert (tuned.body["temperature"], limit, tuned.body["top_p"]) == (0, 7, 0.5)


# --- usage and cost


def _per_million(provider: str, model: str) -> dict[str, Fraction]:
    """The published prices of the table, without its own arithmetic."""
    _, found = get_snapshot().find_provider_model(model, None, provider, None)
    prices: Any = found.prices
    return {
        name: Fraction(str(getattr(getattr(prices, name), "base", getattr(prices, name))))
        for name in ("input_mtok", "cache_read_mtok", "output_mtok")
    }


@protocols
async def test_cost_is_tokens_times_the_published_price(here: Provider, protocol: str) -> None:
    here.script = [Answer(input_tokens=1000, output_tokens=50, cached=200)]
    usage = (await ask(here, protocol)).usage
    prices = _per_million(protocol, MODELS[protocol])
    cost = (
        800 * prices["input_mtok"] + 200 * prices["cache_read_mtok"] + 50 * prices["output_mtok"]
    ) / 1_000_000
    assert cost > 0
    assert usage == {
        "requests": 1,
        "input_tokens": 1000,
        "output_tokens": 50,
        "cache_read_tokens": 200,
        "cost_usd": pytest.approx(float(cost), rel=1e-12),
    }


async def test_a_price_that_everyone_can_look_up(here: Provider) -> None:
    # Claude Haiku 4.5 costs 1 $ a million tokens in and 5 $ out, 0.1 $ read from the cache.
    here.script = [Answer(input_tokens=1_000_000, output_tokens=200_000, cached=500_000)]
    usage = (await ask(here, "anthropic")).usage
    assert usage is not None
    assert usage["cost_usd"] == pytest.approx(0.5 + 0.05 + 1.0)


async def test_an_unknown_price_is_none_and_not_nothing(here: Provider) -> None:
    reply = await ask(here, model="llama3:8b")
    assert reply.usage == {
        "requests": 1,
        "input_tokens": 10,
        "output_tokens": 5,
        "cost_usd": None,
    }
    assert here.requests[0].body["model"] == "llama3:8b"


async def test_the_operators_price_goes_before_the_tables(here: Provider) -> None:
    here.script = [Answer(input_tokens=2000, output_tokens=100)]
    for model in ("openai:gpt-6-luna", "llama3:8b"):
        usage = (await ask(here, model=model, input_price=3.0, output_price=20.0)).usage
        assert usage is not None
        assert usage["cost_usd"] == pytest.approx((2000 * 3 + 100 * 20) / 1e6)


async def test_the_operators_price_is_that_of_the_agents_own_model(here: Provider) -> None:
    here.script = [Answer(input_tokens=1_000_000, output_tokens=0)]
    own = agent(here, model="openai:gpt-4o-mini", input_price=7.0)
    for wanted, price in (
        ("", 7.0),
        ("gpt-4o-mini", 7.0),
        ("openai:gpt-4o-mini", 7.0),
        ("gpt-4o", _per_million("openai", "gpt-4o")["input_mtok"]),
        ("unheard-of", None),
    ):
        usage = (await own.answer(request(model=wanted))).usage
        assert usage is not None
        assert usage["cost_usd"] == (None if price is None else pytest.approx(float(price)))


async def test_tokens_that_nobody_counted_are_unknown_whatever_the_price(here: Provider) -> None:
    here.script = [Answer(usage=False)]
    reply = await ask(here, input_price=3.0)
    assert reply.usage == {
        "requests": 1,
        "input_tokens": None,
        "output_tokens": None,
        "cost_usd": None,
    }


# --- answers that are none


@protocols
async def test_an_answer_that_was_cut_by_its_limit_says_so(here: Provider, protocol: str) -> None:
    here.script = [Answer("abc", finish="length"), Answer("", finish="length")]
    reply = await ask(here, protocol)
    assert reply.text == "abc"
    assert "max_tokens" in reply.cut
    with pytest.raises(AgentFailed, match="max_tokens") as caught:
        await ask(here, protocol)
    assert caught.value.usage is not None
    assert caught.value.usage["output_tokens"] == 5
    assert len(here.requests) == 2


@protocols
@pytest.mark.parametrize("text", ["", "I begin to"])
async def test_a_filtered_answer_is_a_failure_that_was_paid_for(
    here: Provider, protocol: str, text: str
) -> None:
    here.script = [Answer(text, finish="content_filter")]
    with pytest.raises(AgentFailed, match=f"content filter of {protocol}") as caught:
        await ask(here, protocol)
    assert caught.value.output == text
    assert caught.value.usage is not None
    assert caught.value.usage["cost_usd"] > 0
    assert len(here.requests) == 1


@pytest.mark.parametrize(("limit", "requests"), [(0, 1), (1, 1), (3, 3)])
async def test_a_model_that_calls_tools_it_does_not_have_reaches_the_request_limit(
    here: Provider, limit: int, requests: int
) -> None:
    here.script = [Answer("", tool="search")]
    with pytest.raises(AgentFailed, match="search") as caught:
        await ask(here, request_limit=limit)
    assert len(here.requests) == requests
    assert caught.value.usage is not None
    assert caught.value.usage["requests"] == requests
    assert caught.value.usage["input_tokens"] == 10 * requests


async def test_within_the_limit_it_may_think_again(here: Provider) -> None:
    here.script = [Answer("", tool="search"), "Found."]
    assert (await ask(here, request_limit=2)).text == "Found."


# --- what a request is known by


KNOWN_BY = "idempotency-key"
DUE = "due:4f1c:2027-01-15T13:30:00Z"


@pytest.mark.parametrize("protocol", [*PROTOCOLS, "google"])
async def test_a_request_carries_its_occurrence_the_same_in_every_attempt(
    here: Provider, protocol: str
) -> None:
    said = candidate("Fine.", "STOP") if protocol == "google" else Answer()
    here.script = [Status(500), said]
    asked = agent(here, protocol, **({"base_url": here.origin} if protocol == "google" else {}))
    with pytest.raises(AgentTemporary):
        await asked.answer(request(occurrence=DUE))
    await asked.answer(request(occurrence=DUE))
    await asked.answer(request(occurrence="flow:2"))
    assert [seen.headers[KNOWN_BY] for seen in here.requests] == [DUE, DUE, "flow:2"]


async def test_what_is_not_the_same_request_is_not_known_by_the_same_key(here: Provider) -> None:
    here.script = [Answer("", tool="search"), "Found."]
    await agent(here, request_limit=2).answer(request(occurrence=DUE))
    await agent(here).answer(request(occurrence=DUE, question=2))
    known = [seen.headers[KNOWN_BY] for seen in here.requests]
    assert known == [DUE, f"{DUE}.2", f"{DUE}#2"]


async def test_an_occurrence_that_no_header_can_hold_is_written_in_signs(here: Provider) -> None:
    for name in ("request:4f1c:Grüße\r\nX-Other: 1", "request:4f1c:50%25", "request:4f1c:50%"):
        await agent(here).answer(request(occurrence=name))
    assert [seen.headers[KNOWN_BY] for seen in here.requests] == [
        "request:4f1c:Gr%C3%BC%C3%9Fe%0D%0AX-Other:%201",
        "request:4f1c:50%2525",
        "request:4f1c:50%25",
    ]
    assert not any("x-other" in seen.headers for seen in here.requests)


def google(**said: Any) -> Page:
    return Page(json.dumps(said), "application/json")


def candidate(text: str = "", reason: str = "") -> Page:
    """Google's answer with one candidate; what is empty is left out, as there."""
    given: dict[str, Any] = {"finishReason": reason} if reason else {}
    if text:
        given["content"] = {"role": "model", "parts": [{"text": text}]}
    return google(candidates=[given])


@pytest.mark.parametrize(
    ("page", "kind", "words"),
    [
        (google(hello="portal"), AgentFailed, "127.0.0.1:.* gave no answer"),
        (google(error={"message": "x"}), AgentFailed, "gave no answer"),
        (Page("[]", "application/json"), AgentFailed, "gave no answer"),
        (candidate("", "OTHER"), AgentFailed, "google ended the answer early: OTHER"),
        (candidate("", "MALFORMED_FUNCTION_CALL"), AgentFailed, "early: MALFORMED_FUNCTION_CALL"),
        (candidate("I beg", "MALFORMED_FUNCTION_CALL"), AgentFailed, "early: MALFORMED_FUNCTION"),
        (candidate("I begin to"), AgentTemporary, "ended before the answer was complete"),
        (candidate("", "SAFETY"), AgentFailed, "content filter of google"),
    ],
)
async def test_200_without_an_answer_is_no_empty_answer(
    here: Provider, page: Page, kind: type[AgentError], words: str
) -> None:
    here.script = [page]
    with pytest.raises(kind, match=words):
        await ask(here, "google", base_url=here.origin)
    assert [seen.key for seen in here.requests] == [KEY]


@pytest.mark.parametrize(("text", "reason"), [("Fine.", "STOP"), ("", "STOP"), ("Odd", "OTHER")])
async def test_googles_answers(here: Provider, text: str, reason: str) -> None:
    here.script = [candidate(text, reason)]
    reply = await ask(here, "google", base_url=here.origin)
    assert (reply.text, reply.cut) == (text, "")


@pytest.mark.parametrize(("reason", "told"), [("tool_calls", "tool_calls"), (f"{KEY}!", "[key]!")])
async def test_another_end_than_stop_and_nothing_said_is_a_failure(
    here: Provider, reason: str, told: str
) -> None:
    here.script = [Answer("", finish=reason)]
    with pytest.raises(AgentFailed) as caught:
        await ask(here)
    assert str(caught.value) == f"openai ended the answer early: {told}"
    assert caught.value.usage is not None


# --- time


@protocols
async def test_the_timeout_ends_the_request(here: Provider, protocol: str) -> None:
    here.script = ["Warm", Hang()]
    one = agent(here, protocol)
    await one.answer(request())  # so that no import counts
    with pytest.raises(AgentTimeout, match="3 s"):
        await one.answer(request(timeout=3.0))
    assert here.left.wait(WAIT)
    assert len(here.requests) == 2


@protocols
async def test_cancelled_in_the_middle_it_hangs_up(here: Provider, protocol: str) -> None:
    here.script = [Hang()]
    answer = asyncio.create_task(agent(here, protocol).answer(request()))
    assert await asyncio.to_thread(here.asked.wait, WAIT)
    answer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answer
    assert here.left.wait(WAIT)


async def test_no_connection_is_left_open(here: Provider) -> None:
    await ask(here)
    assert here.closed.wait(WAIT)


# --- the job's model


async def test_a_job_may_want_another_model_of_the_same_provider(here: Provider) -> None:
    for wanted in ("gpt-5.6-luna", "openai:gpt-5.6-luna"):
        reply = await agent(here).answer(request(model=wanted))
        assert reply.model == "gpt-5.6-luna"
    assert {seen.body["model"] for seen in here.requests} == {"gpt-5.6-luna"}


async def test_a_key_is_not_sent_to_the_provider_that_a_job_names(here: Provider) -> None:
    with pytest.raises(AgentMisconfigured, match="the agent's key or base URL is for openai"):
        await agent(here).answer(request(model="anthropic:claude-haiku-4-5"))
    assert here.requests == []
