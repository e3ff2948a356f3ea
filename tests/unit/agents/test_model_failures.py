"""Failures of a provider: the error class, its message, one request, and never the key."""

from __future__ import annotations

import json
import logging
import traceback
from dataclasses import dataclass
from typing import Any

import pytest

from daybook.agents import providers
from daybook.agents.model_settings import ModelSettings
from daybook.errors import AgentError, AgentFailed, AgentMisconfigured, AgentTemporary, NonRetryable
from tests.providers import KEY, Answer, Cut, Page, Provider, Status, Step, limited
from tests.servers import free_port
from tests.unit.agents.asking import PROTOCOLS, agent, ask, request

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class Case:
    step: Step
    kind: type[AgentError]
    words: str
    retry_after: float | None = None


SLOW = {"Retry-After": "7"}
CASES = {
    "limited": Case(limited(), AgentTemporary, "rate-limits Daybook's requests (429): Slow down."),
    "limited, with a time": Case(limited("7"), AgentTemporary, "it asks to retry after 7 s", 7.0),
    "limited, with a fraction": Case(limited("6.5"), AgentTemporary, "after 6.5 s", 6.5),
    "500": Case(Status(500, "Oh no."), AgentTemporary, "failed (500): Oh no."),
    "502": Case(Status(502, "A gateway."), AgentTemporary, "failed (502)"),
    "503": Case(Status(503, "Later.", headers=SLOW), AgentTemporary, "(503): Later.", 7.0),
    "504": Case(Status(504, "Too slow."), AgentTemporary, "failed (504)"),
    "520": Case(Status(520, "Of a proxy."), AgentTemporary, "failed (520)"),
    "529": Case(Status(529, "Full.", "overloaded_error"), AgentTemporary, "is overloaded (529)"),
    "408": Case(Status(408, "Too slow."), AgentTemporary, "(408)"),
    "cut": Case(Cut(), AgentTemporary, "ended before the answer was complete"),
    "cut, no length": Case(Cut(length=False), AgentTemporary, "ended before the answer"),
    "cut at once": Case(Cut(length=False, share=0.0), AgentTemporary, "ended before the answer"),
    "400": Case(Status(400, "No such field."), AgentFailed, "refused the request (400): No such"),
    "409": Case(Status(409, "Two at once."), AgentFailed, "refused the request (409)"),
    "413": Case(Status(413, "Too big."), AgentFailed, "(413)"),
    "422": Case(Status(422, "Not so."), AgentFailed, "refused the request (422): Not so."),
    "402": Case(Status(402, "Pay first."), AgentMisconfigured, "is used up (402): Pay first."),
    "401": Case(
        Status(401, f"No {KEY}"), AgentMisconfigured, 'refused the key of agent "brief" (401)'
    ),
    "403": Case(Status(403, "Not in your country."), AgentMisconfigured, "Not in your country."),
    "404": Case(Status(404, "Unknown."), AgentMisconfigured, "has no model"),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_each_failure_has_its_error_class_and_message_after_one_request(
    fake_provider: Provider, protocol: str, case: Case
) -> None:
    fake_provider.script = [case.step, "It should not have come to this."]
    with pytest.raises(AgentError) as caught:
        await ask(fake_provider, protocol)
    error = caught.value
    assert type(error) is case.kind
    assert case.words in str(error)
    assert str(error).count("\n") == 0
    assert len(fake_provider.requests) == 1
    assert isinstance(error, NonRetryable) == (case.kind is AgentMisconfigured)
    if isinstance(error, AgentTemporary):
        assert error.retry_after == case.retry_after


@pytest.mark.parametrize("model", ["openai:gpt-6-luna", "local/model"])
@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        ("429", AgentTemporary, "rate-limits Daybook's requests (429): Slow down."),
        ("502", AgentTemporary, "failed (502): Slow down."),
        ("402", AgentMisconfigured, "is used up (402): Slow down."),
        ("400", AgentFailed, "refused the request (400): Slow down."),
        ('"overloaded"', AgentTemporary, "failed: Slow down."),
    ],
)
async def test_an_error_in_a_200_response_is_an_error_of_its_code(
    fake_provider: Provider, model: str, code: str, kind: type[AgentError], words: str
) -> None:
    body = f'{{"error": {{"code": {code}, "message": "Slow down."}}}}'
    fake_provider.script = [Page(body, "application/json")]
    with pytest.raises(AgentError) as caught:
        await ask(fake_provider, model=model)
    assert type(caught.value) is kind
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("body", "kind", "words"),
    [
        ({"error": "Unexpected endpoint"}, AgentTemporary, "failed: Unexpected endpoint"),
        ({"choices": [], "error": "Busy"}, AgentTemporary, "failed: Busy"),
        ({"object": "error", "message": "No slot"}, AgentFailed, "has no choices: No slot"),
        ({"detail": "Not Found"}, AgentFailed, "has no choices: Not Found"),
        ({"choices": None, "id": "c1"}, AgentFailed, 'has no choices: {"id": "c1"}'),
        ({"choices": [{"index": 0}]}, AgentFailed, "its field choices.0.message is invalid"),
        (
            {"choices": [{"message": {"content": 5}}]},
            AgentFailed,
            "its field choices.0.message.content is invalid (Input should be a valid string)",
        ),
    ],
)
async def test_a_200_response_without_an_answer_is_an_error_in_the_words_of_the_server(
    fake_provider: Provider, body: dict[str, Any], kind: type[AgentError], words: str
) -> None:
    fake_provider.script = [Page(json.dumps(body), "application/json")]
    with pytest.raises(AgentError) as caught:
        await ask(fake_provider, model="local/model")
    assert (type(caught.value), words in str(caught.value)) == (kind, True), str(caught.value)
    assert "pydantic" not in str(caught.value)


async def test_insufficient_quota_at_openai_is_an_error_that_is_not_retried(
    fake_provider: Provider,
) -> None:
    fake_provider.script = [Status(429, "You exceeded your quota.", "insufficient_quota", SLOW)]
    with pytest.raises(AgentMisconfigured, match="quota or credit at openai is used up"):
        await ask(fake_provider)


async def test_a_prompt_that_exceeds_the_context_window_is_a_failure_that_says_so(
    fake_provider: Provider,
) -> None:
    fake_provider.script = [Status(400, "maximum context length is 8", "context_length_exceeded")]
    with pytest.raises(AgentFailed, match="exceed the context window of gpt-6-luna"):
        await ask(fake_provider)


async def test_a_web_page_instead_of_an_api_answer_is_a_failure(fake_provider: Provider) -> None:
    fake_provider.script = [Page()]
    with pytest.raises(AgentFailed, match="gave an invalid answer"):
        await ask(fake_provider)


async def test_an_answer_that_only_calls_an_unknown_tool_is_a_failure_that_says_so(
    fake_provider: Provider,
) -> None:
    fake_provider.script = [Answer("", tool="shell", finish="tool_calls")]
    with pytest.raises(AgentFailed) as caught:
        await ask(fake_provider)
    assert 'tried to call the tool "shell" instead of answering' in str(caught.value)
    assert caught.value.usage is not None
    assert caught.value.usage["requests"] == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_refused_connection_is_temporary(fake_provider: Provider, protocol: str) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(AgentTemporary, match=f"{nobody} cannot be reached: .*Connect call failed"):
        await ask(fake_provider, protocol, base_url=nobody)


async def test_a_retry_after_date_is_converted_to_seconds(fake_provider: Provider) -> None:
    fake_provider.script = [limited("Fri, 01 Jan 2100 00:00:00 GMT")]
    with pytest.raises(AgentTemporary) as caught:
        await ask(fake_provider)
    assert caught.value.retry_after is not None
    assert caught.value.retry_after > 86_400


async def test_an_error_class_missing_in_the_library_does_not_expose_the_key(
    fake_provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("pydantic_ai.exceptions.ModelNotFoundError")  # as before 2.68
    fake_provider.script = [Status(404, f"You sent {KEY}")]
    with pytest.raises(
        AgentFailed, match=r"failed unexpectedly: .*, then AttributeError"
    ) as caught:
        await ask(fake_provider)
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    assert KEY not in "".join(traceback.format_exception(caught.value))


async def test_an_error_while_building_the_client_does_not_expose_the_key(
    fake_provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(settings: ModelSettings, model_name: str) -> None:
        raise ValueError(f"no header can hold {settings.api_key.get_secret_value()}")

    monkeypatch.setattr(providers, "model", broken)
    with pytest.raises(AgentMisconfigured, match=r'"brief": .*\(ValueError\)') as caught:
        await ask(fake_provider)
    assert KEY not in "".join(traceback.format_exception(caught.value))


# --- the key


ECHOES: list[Step] = [
    Status(code, f"You sent {KEY}, with {KEY}!") for code in (400, 401, 403, 404, 429, 500)
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("step", [*ECHOES, Cut(), Page(f"<p>{KEY}</p>"), Answer("Hello.")])
async def test_the_key_is_sent_in_one_header_and_appears_nowhere_else(
    fake_provider: Provider, protocol: str, step: Step, caplog: pytest.LogCaptureFixture
) -> None:
    fake_provider.script = [step]
    one = agent(fake_provider, protocol)
    texts = [repr(one), repr(one.settings), str(one.settings)]
    with caplog.at_level(logging.DEBUG):
        try:
            texts.append(repr(await one.answer(request())))
        except AgentError as error:
            texts.append("".join(traceback.format_exception(error)))
            texts.append(repr(error))
    texts += [record.getMessage() for record in caplog.records]
    (received,) = fake_provider.requests
    assert sum(KEY in value for value in received.headers.values()) == 1
    assert KEY not in str(received.body)
    assert KEY not in received.path
    assert not [text for text in texts if KEY in text]


async def test_a_key_from_the_environment_is_redacted_in_errors(
    fake_provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", fake_provider.address)
    fake_provider.script = [Status(500, f"You sent {KEY}")]
    one = agent(fake_provider, model="openai-chat:gpt-6-luna", base_url="", api_key="")
    with pytest.raises(AgentTemporary) as caught:
        await one.answer(request())
    assert fake_provider.requests[0].key == KEY
    assert str(caught.value).endswith("You sent [key]")


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_key_from_the_environment_is_not_sent_to_a_base_url(
    fake_provider: Provider, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{protocol.upper()}_API_KEY", KEY)
    with pytest.raises(AgentMisconfigured, match=r"asks for a key, and agent .* has none \(401\)"):
        await ask(fake_provider, protocol, api_key="")
    assert fake_provider.requests[0].key == "no-key"
    assert KEY not in str(fake_provider.requests[0])
