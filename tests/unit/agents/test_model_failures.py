"""Each way in which a provider fails: the error, its words, one request, and never the key."""

from __future__ import annotations

import logging
import traceback
from dataclasses import dataclass

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
    "limited": Case(limited(), AgentTemporary, "rate-limits our requests (429): Slow down."),
    "limited, with a time": Case(limited("7"), AgentTemporary, "it asks to retry after 7 s", 7.0),
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
    "402": Case(Status(402, "Pay first."), AgentFailed, "is used up (402): Pay first."),
    "401": Case(
        Status(401, f"No {KEY}"), AgentMisconfigured, 'refused the key of agent "brief" (401)'
    ),
    "403": Case(Status(403, "Not in your country."), AgentMisconfigured, "Not in your country."),
    "404": Case(Status(404, "Unknown."), AgentMisconfigured, "has no model"),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_the_class_the_words_and_one_request(
    here: Provider, protocol: str, case: Case
) -> None:
    here.script = [case.step, "It should not have come to this."]
    with pytest.raises(AgentError) as caught:
        await ask(here, protocol)
    error = caught.value
    assert type(error) is case.kind
    assert case.words in str(error)
    assert str(error).count("\n") == 0
    assert len(here.requests) == 1
    assert isinstance(error, NonRetryable) == (case.kind is AgentMisconfigured)
    if isinstance(error, AgentTemporary):
        assert error.retry_after == case.retry_after


async def test_openais_word_for_no_credit_is_not_waited_for(here: Provider) -> None:
    here.script = [Status(429, "You exceeded your quota.", "insufficient_quota", SLOW)]
    with pytest.raises(AgentFailed, match="quota or credit at openai is used up"):
        await ask(here)


async def test_a_prompt_that_is_too_long_says_so(here: Provider) -> None:
    here.script = [Status(400, "maximum context length is 8", "context_length_exceeded")]
    with pytest.raises(AgentFailed, match="exceed the context window of gpt-6-luna"):
        await ask(here)


async def test_a_page_is_no_api(here: Provider) -> None:
    here.script = [Page()]
    with pytest.raises(AgentFailed, match="gave an invalid answer"):
        await ask(here)


async def test_a_call_of_a_tool_that_was_not_offered_says_so(here: Provider) -> None:
    here.script = [Answer("", tool="shell", finish="tool_calls")]
    with pytest.raises(AgentFailed) as caught:
        await ask(here)
    assert 'tried to call the tool "shell" instead of answering' in str(caught.value)
    assert caught.value.usage is not None
    assert caught.value.usage["requests"] == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_refused_connection_is_temporary(here: Provider, protocol: str) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(AgentTemporary, match=f"{nobody} cannot be reached: .*Connect call failed"):
        await ask(here, protocol, base_url=nobody)


async def test_the_retry_after_of_a_date_is_in_seconds_too(here: Provider) -> None:
    here.script = [limited("Fri, 01 Jan 2100 00:00:00 GMT")]
    with pytest.raises(AgentTemporary) as caught:
        await ask(here)
    assert caught.value.retry_after is not None
    assert caught.value.retry_after > 86_400


async def test_a_library_that_lacks_an_error_is_no_way_out_for_the_key(
    here: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("pydantic_ai.exceptions.ModelNotFoundError")  # as before 2.68
    here.script = [Status(404, f"You sent {KEY}")]
    with pytest.raises(
        AgentFailed, match=r"failed unexpectedly: .*, then AttributeError"
    ) as caught:
        await ask(here)
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    assert KEY not in "".join(traceback.format_exception(caught.value))


async def test_a_client_that_cannot_be_made_is_no_way_out_for_the_key(
    here: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(settings: ModelSettings, wanted: str) -> None:
        raise ValueError(f"no header can hold {settings.api_key.get_secret_value()}")

    monkeypatch.setattr(providers, "model", broken)
    with pytest.raises(AgentMisconfigured, match=r'"brief": .*\(ValueError\)') as caught:
        await ask(here)
    assert KEY not in "".join(traceback.format_exception(caught.value))


# --- the key


ECHOES: list[Step] = [
    Status(code, f"You sent {KEY}, with {KEY}!") for code in (400, 401, 403, 404, 429, 500)
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("step", [*ECHOES, Cut(), Page(f"<p>{KEY}</p>"), Answer("Hello.")])
async def test_the_key_is_in_a_header_and_nowhere_else(
    here: Provider, protocol: str, step: Step, caplog: pytest.LogCaptureFixture
) -> None:
    here.script = [step]
    one = agent(here, protocol)
    said = [repr(one), repr(one.settings), str(one.settings)]
    with caplog.at_level(logging.DEBUG):
        try:
            said.append(repr(await one.answer(request())))
        except AgentError as error:
            said.append("".join(traceback.format_exception(error)))
            said.append(repr(error))
    said += [record.getMessage() for record in caplog.records]
    (seen,) = here.requests
    assert sum(KEY in value for value in seen.headers.values()) == 1
    assert KEY not in str(seen.body)
    assert KEY not in seen.path
    assert not [text for text in said if KEY in text]


async def test_a_key_of_the_environment_is_not_told_either(
    here: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", here.address)
    here.script = [Status(500, f"You sent {KEY}")]
    one = agent(here, model="openai-chat:gpt-6-luna", base_url="", api_key="")
    with pytest.raises(AgentTemporary) as caught:
        await one.answer(request())
    assert here.requests[0].key == KEY
    assert str(caught.value).endswith("You sent [key]")


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_base_url_does_not_get_the_environments_key(
    here: Provider, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{protocol.upper()}_API_KEY", KEY)
    with pytest.raises(AgentMisconfigured, match="refused the key"):
        await ask(here, protocol, api_key="")
    assert here.requests[0].key == "no-key"
    assert KEY not in str(here.requests[0])
