"""Requests of a model agent to a local provider, and how it reads the answers."""

from __future__ import annotations

import asyncio
import json
from fractions import Fraction
from typing import Any

import pytest
from genai_prices.data_snapshot import get_snapshot

from daybook.agents.base import ChatMessage, Tool
from daybook.agents.model import ModelAgent
from daybook.agents.model_settings import ModelSettings
from daybook.agents.pictures import Picture
from daybook.errors import AgentError, AgentFailed, AgentMisconfigured, AgentTemporary, AgentTimeout
from tests.pictures import JPEG, PNG, sent_to_model
from tests.providers import KEY, WAIT, Answer, Hang, Page, Provider, Status
from tests.timings import expire_timeout
from tests.unit.agents.asking import MODELS, PROTOCOLS, agent, ask, request

pytestmark = pytest.mark.anyio

protocols = pytest.mark.parametrize("protocol", PROTOCOLS)


@protocols
async def test_a_prompt_makes_one_request_and_its_answer_is_returned(
    fake_provider: Provider, protocol: str
) -> None:
    fake_provider.script = [Answer("Grüße, 世界", input_tokens=1000, output_tokens=50)]
    reply = await ask(fake_provider, protocol, "Grüße!")
    assert (reply.text, reply.agent, reply.model) == ("Grüße, 世界", "brief", MODELS[protocol])
    (request,) = fake_provider.requests
    assert request.messages == [("user", "Grüße!")]
    assert request.body["model"] == MODELS[protocol]
    assert request.key == KEY
    assert request.path == {"openai": "/v1/chat/completions", "anthropic": "/v1/messages"}[protocol]


@protocols
async def test_a_request_contains_system_prompt_history_and_prompt_in_this_order(
    fake_provider: Provider, protocol: str
) -> None:
    talk = [ChatMessage("user", "One"), ChatMessage("assistant", "1"), ChatMessage("user", "Two")]
    talk += [ChatMessage("assistant", "2")]
    history = tuple(talk)
    await agent(fake_provider, protocol, system_prompt="Count.").answer(
        request("Three", history=history)
    )
    (received,) = fake_provider.requests
    assert received.messages == [
        ("system", "Count."),
        ("user", "One"),
        ("assistant", "1"),
        ("user", "Two"),
        ("assistant", "2"),
        ("user", "Three"),
    ]


@protocols
async def test_an_empty_answer_is_returned_and_an_empty_history_entry_is_not_sent(
    fake_provider: Provider, protocol: str
) -> None:
    fake_provider.script = [Answer("")]
    history = (ChatMessage("user", "Any news?"), ChatMessage("assistant", ""))
    reply = await agent(fake_provider, protocol).answer(request(history=history))
    assert reply.text == ""
    (received,) = fake_provider.requests
    assert all(text for _, text in received.messages)


@protocols
async def test_only_options_that_were_set_are_sent(fake_provider: Provider, protocol: str) -> None:
    # Other models than in the other tests: a reasoning model accepts no temperature.
    model = {"openai": "openai:gpt-4o-mini", "anthropic": "anthropic:claude-haiku-4-5"}[protocol]
    await ask(fake_provider, protocol, model=model)
    await ask(
        fake_provider,
        protocol,
        model=model,
        options={"temperature": 0, "max_tokens": 7, "top_p": 0.5},
    )
    plain, tuned = fake_provider.requests
    assert "temperature" not in plain.body
    limit = tuned.body.get("max_tokens", tuned.body.get("max_completion_tokens"))
    assert (tuned.body["temperature"], limit, tuned.body["top_p"]) == (0, 7, 0.5)


@protocols
async def test_pictures_are_sent_with_their_prompts(fake_provider: Provider, protocol: str) -> None:
    cat, dog = Picture("cat", "image/png", PNG), Picture("dog", "image/jpeg", JPEG)
    history = (ChatMessage("user", "One", (cat,)), ChatMessage("assistant", "A cat."))
    given = request("Two", history=history, pictures=(dog, cat))
    await agent(fake_provider, protocol).answer(given)
    (received,) = fake_provider.requests
    assert received.messages == [("user", "One"), ("assistant", "A cat."), ("user", "Two")]
    assert sent_to_model(received.body) == [PNG, JPEG, PNG]


def test_without_a_setting_only_the_providers_own_api_gets_pictures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)

    def takes(**given: Any) -> bool:
        settings = ModelSettings(model="openai:gpt-4o-mini", **given)
        return ModelAgent("brief", settings).takes_pictures("")

    here = "http://127.0.0.1:11434/v1"
    assert takes()
    assert not takes(base_url=here)
    assert takes(base_url=here, pictures=True)
    assert not takes(pictures=False)
    monkeypatch.setenv("OPENAI_BASE_URL", here)
    assert not takes()


# --- usage and cost


def _per_million(provider: str, model: str) -> dict[str, Fraction]:
    """Return the published prices per million tokens from the price table."""
    _, found = get_snapshot().find_provider_model(model, None, provider, None)
    prices: Any = found.prices
    return {
        name: Fraction(str(getattr(getattr(prices, name), "base", getattr(prices, name))))
        for name in ("input_mtok", "cache_read_mtok", "output_mtok")
    }


@protocols
async def test_cost_is_tokens_times_the_published_price(
    fake_provider: Provider, protocol: str
) -> None:
    fake_provider.script = [Answer(input_tokens=1000, output_tokens=50, cached=200)]
    usage = (await ask(fake_provider, protocol)).usage
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


async def test_the_cost_of_claude_haiku_matches_its_published_price(
    fake_provider: Provider,
) -> None:
    # Claude Haiku 4.5 costs 1 $ a million tokens in and 5 $ out, 0.1 $ read from the cache.
    fake_provider.script = [Answer(input_tokens=1_000_000, output_tokens=200_000, cached=500_000)]
    usage = (await ask(fake_provider, "anthropic")).usage
    assert usage is not None
    assert usage["cost_usd"] == pytest.approx(0.5 + 0.05 + 1.0)


async def test_an_unknown_price_is_none_and_not_zero(fake_provider: Provider) -> None:
    reply = await ask(fake_provider, model="llama3:8b")
    assert reply.usage == {
        "requests": 1,
        "input_tokens": 10,
        "output_tokens": 5,
        "cost_usd": None,
    }
    assert fake_provider.requests[0].body["model"] == "llama3:8b"


async def test_the_operators_price_takes_precedence_over_the_price_table(
    fake_provider: Provider,
) -> None:
    fake_provider.script = [Answer(input_tokens=2000, output_tokens=100)]
    for model in ("openai:gpt-6-luna", "llama3:8b"):
        usage = (await ask(fake_provider, model=model, input_price=3.0, output_price=20.0)).usage
        assert usage is not None
        assert usage["cost_usd"] == pytest.approx((2000 * 3 + 100 * 20) / 1e6)


async def test_the_operators_price_applies_only_to_the_agents_own_model(
    fake_provider: Provider,
) -> None:
    fake_provider.script = [Answer(input_tokens=1_000_000, output_tokens=0)]
    own = agent(fake_provider, model="openai:gpt-4o-mini", input_price=7.0)
    for model, price in (
        ("", 7.0),
        ("gpt-4o-mini", 7.0),
        ("openai:gpt-4o-mini", 7.0),
        ("gpt-4o", _per_million("openai", "gpt-4o")["input_mtok"]),
        ("unheard-of", None),
    ):
        usage = (await own.answer(request(model=model))).usage
        assert usage is not None
        assert usage["cost_usd"] == (None if price is None else pytest.approx(float(price)))


async def test_unreported_tokens_make_the_cost_unknown_despite_a_known_price(
    fake_provider: Provider,
) -> None:
    fake_provider.script = [Answer(usage=False)]
    reply = await ask(fake_provider, input_price=3.0)
    assert reply.usage == {
        "requests": 1,
        "input_tokens": None,
        "output_tokens": None,
        "cost_usd": None,
    }


@protocols
async def test_an_impossible_usage_is_unknown_with_a_warning(
    fake_provider: Provider, protocol: str
) -> None:
    fake_provider.script = [Answer("Four.", input_tokens=5 * 10**12)]
    reply = await ask(fake_provider, protocol, input_price=3.0)
    assert (reply.text, (reply.usage or {})["input_tokens"]) == ("Four.", None)
    assert reply.warnings[0].startswith("the reported usage is impossible: input_tokens 5e+12")


MESSAGE = {"role": "assistant", "content": "Four."}
CHOICE = {"index": 0, "finish_reason": "stop", "message": MESSAGE}
USAGE = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
TWO_COUNTS = {"prompt_tokens": 5, "completion_tokens": 7}
RESPONSE = {"id": "c1", "object": "chat.completion", "created": 1, "model": "m", "usage": USAGE}
COUNTED, UNCOUNTED = (5, 7), (None, None)


def enveloped(choice: dict[str, Any] | None = None, **response: Any) -> str:
    return json.dumps(RESPONSE | {"choices": [CHOICE | (choice or {})]} | response)


@pytest.mark.parametrize("model", ["openai:gpt-6-luna", "local/model"])
@pytest.mark.parametrize(
    ("body", "tokens", "invalid"),
    [
        (enveloped({"finish_reason": ""}), COUNTED, ["finish_reason"]),
        (enveloped({"finish_reason": None}), COUNTED, []),
        (enveloped(id=None, object="x", created="now"), COUNTED, ["created", "id", "object"]),
        (enveloped({"index": None}, model=None), COUNTED, ["index", "model"]),
        (enveloped({"message": MESSAGE | {"role": "model"}}), COUNTED, ["role"]),
        (enveloped({"message": MESSAGE | {"annotations": "no"}}), COUNTED, ["annotations"]),
        (enveloped({"logprobs": 5}), COUNTED, ["logprobs"]),
        (enveloped(usage={"prompt_tokens": 5}), UNCOUNTED, ["usage"]),
        (enveloped(usage=TWO_COUNTS), COUNTED, ["total_tokens"]),
        (
            enveloped(usage=USAGE | {"prompt_tokens_details": 5}),
            COUNTED,
            ["prompt_tokens_details"],
        ),
        (enveloped(usage=dict.fromkeys(USAGE, 0)), UNCOUNTED, []),
        (enveloped(usage=None), UNCOUNTED, []),
    ],
)
async def test_an_answer_in_an_invalid_envelope_is_an_answer_with_a_warning(
    fake_provider: Provider,
    model: str,
    body: str,
    tokens: tuple[int | None, int | None],
    invalid: list[str],
) -> None:
    fake_provider.script = [Page(body, "application/json")]

    reply = await ask(fake_provider, model=model)

    assert reply.text == "Four."
    assert reply.usage is not None
    assert (reply.usage["input_tokens"], reply.usage["output_tokens"]) == tokens
    warnings = [sorted(each.partition("no valid ")[2].split(", ")) for each in reply.warnings]
    assert warnings == ([invalid] if invalid else [])


async def test_a_tool_call_without_metadata_is_made(fake_provider: Provider) -> None:
    called = list[dict[str, Any]]()

    async def call(arguments: dict[str, Any]) -> str:
        called.append(arguments)
        return "4"

    calls = [{"function": {"name": "add", "arguments": {"a": 2}}}, {"function": {"name": "add"}}]
    message = {"content": None, "tool_calls": calls}
    body = {"choices": [{"finish_reason": "", "message": message}]}
    fake_provider.script = [Page(json.dumps(body), "application/json"), "Four."]

    tool = Tool("add", "Adds.", {"type": "object"}, call)
    reply = await agent(fake_provider).answer(request(tools=(tool,)))

    assert (reply.text, called) == ("Four.", [{"a": 2}, {}])


# --- incomplete answers


@protocols
async def test_an_answer_cut_by_max_tokens_is_marked_and_an_empty_one_fails(
    fake_provider: Provider, protocol: str
) -> None:
    fake_provider.script = [Answer("abc", finish="length"), Answer("", finish="length")]
    reply = await ask(fake_provider, protocol)
    assert reply.text == "abc"
    assert "max_tokens" in reply.cut
    with pytest.raises(AgentFailed, match="max_tokens") as caught:
        await ask(fake_provider, protocol)
    assert caught.value.usage is not None
    assert caught.value.usage["output_tokens"] == 5
    assert len(fake_provider.requests) == 2


@protocols
@pytest.mark.parametrize("text", ["", "I begin to"])
async def test_a_filtered_answer_is_a_failure_with_its_usage(
    fake_provider: Provider, protocol: str, text: str
) -> None:
    fake_provider.script = [Answer(text, finish="content_filter")]
    with pytest.raises(AgentFailed, match=f"content filter of {protocol}") as caught:
        await ask(fake_provider, protocol)
    assert caught.value.output == text
    assert caught.value.usage is not None
    assert caught.value.usage["cost_usd"] > 0
    assert len(fake_provider.requests) == 1


@pytest.mark.parametrize(("limit", "requests"), [(0, 1), (1, 1), (3, 3)])
async def test_a_model_that_calls_unknown_tools_reaches_the_request_limit(
    fake_provider: Provider, limit: int, requests: int
) -> None:
    fake_provider.script = [Answer("", tool="search")]
    with pytest.raises(AgentFailed, match="search") as caught:
        await ask(fake_provider, request_limit=limit)
    assert len(fake_provider.requests) == requests
    assert caught.value.usage is not None
    assert caught.value.usage["requests"] == requests
    assert caught.value.usage["input_tokens"] == 10 * requests


async def test_a_model_may_answer_after_an_unknown_tool_call_within_the_limit(
    fake_provider: Provider,
) -> None:
    fake_provider.script = [Answer("", tool="search"), "Found."]
    assert (await ask(fake_provider, request_limit=2)).text == "Found."


# --- idempotency keys


KNOWN_BY = "idempotency-key"
DUE = "due:4f1c:2027-01-15T13:30:00Z"


@pytest.mark.parametrize("protocol", [*PROTOCOLS, "google"])
async def test_each_attempt_sends_the_occurrence_as_the_same_idempotency_key(
    fake_provider: Provider, protocol: str
) -> None:
    answer = candidate("Fine.", "STOP") if protocol == "google" else Answer()
    fake_provider.script = [Status(500), answer]
    asked = agent(
        fake_provider,
        protocol,
        **({"base_url": fake_provider.origin} if protocol == "google" else {}),
    )
    with pytest.raises(AgentTemporary):
        await asked.answer(request(occurrence=DUE))
    await asked.answer(request(occurrence=DUE))
    await asked.answer(request(occurrence="flow:2"))
    assert [request.headers[KNOWN_BY] for request in fake_provider.requests] == [DUE, DUE, "flow:2"]


async def test_different_requests_of_a_run_have_different_idempotency_keys(
    fake_provider: Provider,
) -> None:
    fake_provider.script = [Answer("", tool="search"), "Found."]
    await agent(fake_provider, request_limit=2).answer(request(occurrence=DUE))
    await agent(fake_provider).answer(request(occurrence=DUE, question=2))
    known = [request.headers[KNOWN_BY] for request in fake_provider.requests]
    assert known == [DUE, f"{DUE}.2", f"{DUE}#2"]


async def test_an_occurrence_that_a_header_cannot_contain_is_percent_encoded(
    fake_provider: Provider,
) -> None:
    for name in ("request:4f1c:Grüße\r\nX-Other: 1", "request:4f1c:50%25", "request:4f1c:50%"):
        await agent(fake_provider).answer(request(occurrence=name))
    assert [request.headers[KNOWN_BY] for request in fake_provider.requests] == [
        "request:4f1c:Gr%C3%BC%C3%9Fe%0D%0AX-Other:%201",
        "request:4f1c:50%2525",
        "request:4f1c:50%25",
    ]
    assert not any("x-other" in request.headers for request in fake_provider.requests)


def google(**fields: Any) -> Page:
    return Page(json.dumps(fields), "application/json")


def candidate(text: str = "", reason: str = "") -> Page:
    """Return Google's answer with one candidate; empty fields are omitted, as Google does."""
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
async def test_a_200_response_without_an_answer_is_an_error(
    fake_provider: Provider, page: Page, kind: type[AgentError], words: str
) -> None:
    fake_provider.script = [page]
    with pytest.raises(kind, match=words):
        await ask(fake_provider, "google", base_url=fake_provider.origin)
    assert [request.key for request in fake_provider.requests] == [KEY]


@pytest.mark.parametrize(
    ("text", "reason", "cut"),
    [
        ("Fine.", "STOP", ""),
        ("", "STOP", ""),
        ("Odd", "OTHER", "google ended the answer early: OTHER"),
    ],
)
async def test_google_answers_that_ended_with_text_or_with_stop_are_returned(
    fake_provider: Provider, text: str, reason: str, cut: str
) -> None:
    fake_provider.script = [candidate(text, reason)]
    reply = await ask(fake_provider, "google", base_url=fake_provider.origin)
    assert (reply.text, reply.cut) == (text, cut)


@pytest.mark.parametrize(
    ("finish", "cut"),
    [
        ("insufficient_system_resource", "insufficient_system_resource"),
        ("abort", "abort"),
        (f"{KEY}!", "[key]!"),
        ("eos_token", ""),
    ],
)
async def test_an_answer_that_the_provider_did_not_complete_is_marked_as_cut(
    fake_provider: Provider, finish: str, cut: str
) -> None:
    fake_provider.script = [Answer("The first half of", finish=finish)]
    reply = await ask(fake_provider)
    assert reply.text == "The first half of"
    assert reply.cut == (f"openai ended the answer early: {cut}" if cut else "")


async def test_an_answer_that_ended_with_an_error_is_a_failure_with_its_text(
    fake_provider: Provider,
) -> None:
    fake_provider.script = [Answer("The first half of", finish="error")]
    with pytest.raises(AgentFailed, match="openai ended the answer early: error") as caught:
        await ask(fake_provider)
    assert caught.value.output == "The first half of"


@pytest.mark.parametrize(
    ("reason", "expected"), [("tool_calls", "tool_calls"), (f"{KEY}!", "[key]!")]
)
async def test_an_empty_answer_with_an_unusual_finish_reason_is_a_failure(
    fake_provider: Provider, reason: str, expected: str
) -> None:
    fake_provider.script = [Answer("", finish=reason)]
    with pytest.raises(AgentFailed) as caught:
        await ask(fake_provider)
    assert str(caught.value) == f"openai ended the answer early: {expected}"
    assert caught.value.usage is not None


# --- time


@protocols
async def test_the_timeout_ends_the_request(fake_provider: Provider, protocol: str) -> None:
    fake_provider.script = ["Warm", Hang()]
    one = agent(fake_provider, protocol)
    await one.answer(request())  # so that imports do not count
    fake_provider.asked.clear()
    answer = asyncio.create_task(one.answer(request(timeout=60.0)))
    assert await asyncio.to_thread(fake_provider.asked.wait, WAIT)
    await expire_timeout(60.0)
    with pytest.raises(AgentTimeout, match="60 s"):
        await answer
    assert fake_provider.left.wait(WAIT)
    assert len(fake_provider.requests) == 2


@protocols
async def test_a_cancelled_request_closes_its_connection(
    fake_provider: Provider, protocol: str
) -> None:
    fake_provider.script = [Hang()]
    answer = asyncio.create_task(agent(fake_provider, protocol).answer(request()))
    assert await asyncio.to_thread(fake_provider.asked.wait, WAIT)
    answer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answer
    assert fake_provider.left.wait(WAIT)


async def test_no_connection_is_left_open(fake_provider: Provider) -> None:
    await ask(fake_provider)
    assert fake_provider.closed.wait(WAIT)


# --- the job's model


async def test_a_job_may_set_another_model_of_the_same_provider(fake_provider: Provider) -> None:
    for model in ("gpt-5.6-luna", "openai:gpt-5.6-luna"):
        reply = await agent(fake_provider).answer(request(model=model))
        assert reply.model == "gpt-5.6-luna"
    assert {request.body["model"] for request in fake_provider.requests} == {"gpt-5.6-luna"}


async def test_a_key_is_not_sent_to_another_provider_that_a_job_names(
    fake_provider: Provider,
) -> None:
    with pytest.raises(AgentMisconfigured, match="the agent's key or base URL is for openai"):
        await agent(fake_provider).answer(request(model="anthropic:claude-haiku-4-5"))
    assert fake_provider.requests == []
