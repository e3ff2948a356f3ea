"""Streamed answers: their text is shown while it arrives, and only a complete one is an answer."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import anyio
import pytest

from daybook.agents import providers, showing
from daybook.agents.base import Tool
from daybook.agents.model import ModelAgent
from daybook.agents.model_settings import ModelSettings
from daybook.clock import SYSTEM_CLOCK
from daybook.errors import AgentError, AgentFailed, AgentTemporary
from daybook.execution import journal, step_texts
from daybook.ledger.states import Status as RunStatus
from daybook.redaction import TOKEN_PREFIX
from daybook.runs import rows, steps
from tests.providers import (
    Answer,
    Cut,
    ModelRequest,
    Page,
    Provider,
    Status,
    Step,
    chat_stream,
    provider,
)
from tests.unit.agents.asking import MODELS, agent, request
from tests.unit.execution.conftest import ActiveRun
from tests.unit.execution.test_journal import Mail, recorded
from tests.waiting import becomes_true

pytestmark = pytest.mark.anyio

PROTOCOLS = ("openai", "openai-responses", "anthropic")


async def ask(
    active: ActiveRun,
    fake_provider: Provider,
    *script: Step,
    protocol: str = "openai",
    tools: tuple[Tool, ...] = (),
    attempt: int = 1,
    tokens: int | None = None,
    **settings: Any,
) -> Any:
    fake_provider.script = list(script)
    is_openai = protocol.startswith("openai")
    given: dict[str, Any] = {
        "model": f"{protocol}:{MODELS[protocol.partition('-')[0]]}",
        "base_url": fake_provider.address if is_openai else fake_provider.origin,
        "stream": True,
    }
    with journal.recording(active.ledger, active.granted, attempt, SYSTEM_CLOCK):
        asked = request(
            tools=tools, journal=journal.current(), timeout=100.0, tokens=tokens, attempt=attempt
        )
        return await agent(fake_provider, **(given | settings)).answer(asked)


def streams(fake_provider: Provider) -> list[bool]:
    return [bool(each.body.get("stream")) for each in fake_provider.requests]


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_the_text_of_an_answer_is_shown_while_it_arrives(
    active: ActiveRun, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(showing, "INTERVAL_SECONDS", 0.01)
    goes_on = threading.Event()
    text = "The first half, and the second half."
    with provider() as fake_provider:
        asking = asyncio.create_task(
            ask(active, fake_provider, Answer(text, wait=goes_on), protocol=protocol)
        )
        try:

            async def is_shown() -> bool:
                made = await recorded(active)
                return bool(made and made[0].output)

            assert await becomes_true(is_shown, within=20)
            (row,) = await recorded(active)
            partial = row.output or ""
            assert (row.status, row.reply) == ("running", None)
            assert text.startswith(partial)
            assert partial != text
        finally:
            goes_on.set()
        reply = await asking
    assert (reply.text, reply.cut) == (text, "")
    assert reply.usage is not None
    assert (reply.usage["input_tokens"], reply.usage["output_tokens"]) == (10, 5)
    (row,) = await recorded(active)
    assert (row.status, row.output) == ("succeeded", text)
    assert streams(fake_provider) == [True]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6])
async def test_a_broken_stream_is_no_answer_and_the_next_attempt_asks_again(
    active: ActiveRun, protocol: str, length: bool, share: float
) -> None:
    with provider() as fake_provider:
        with pytest.raises(AgentTemporary, match="ended before the answer was complete"):
            await ask(active, fake_provider, Cut(length=length, share=share), protocol=protocol)
        (row,) = await recorded(active)
        assert (row.status, row.output, row.reply) == ("failed", "", None)
        reply = await ask(active, fake_provider, "All of it.", protocol=protocol, attempt=2)
        assert reply.text == "All of it."
        assert len(fake_provider.requests) == 2
        # The client of Anthropic itself streams a long answer.
        assert protocol == "anthropic" or streams(fake_provider) == [True, False]


def google(*texts: str, reason: str = "") -> Page:
    events: list[dict[str, Any]] = [
        {"candidates": [{"content": {"parts": [{"text": each}]}}]} for each in texts
    ]
    if reason:
        events[-1]["candidates"][0]["finishReason"] = reason
    events[-1]["usageMetadata"] = {"promptTokenCount": 7, "candidatesTokenCount": 3}
    body = "".join(f"data: {json.dumps(each)}\r\n\r\n" for each in events)
    return Page(body, "text/event-stream")


async def test_a_stream_of_google_without_its_reason_is_no_answer(active: ActiveRun) -> None:
    with provider() as fake_provider:
        with pytest.raises(AgentTemporary, match="ended before the answer was complete"):
            await ask(active, fake_provider, google("The"), protocol="google")
        whole = google("The", " end.", reason="STOP")
        active.query("DELETE FROM steps")
        reply = await ask(active, fake_provider, whole, protocol="google")
        assert reply.text == "The end."
        assert (reply.usage["input_tokens"], reply.usage["output_tokens"]) == (7, 3)
        assert all("streamGenerateContent" in each.path for each in fake_provider.requests)


@pytest.mark.parametrize(("finish", "done"), [(True, False), (False, True)])
async def test_either_mark_of_the_end_makes_an_answer_of_a_compatible_server_complete(
    active: ActiveRun, finish: bool, done: bool
) -> None:
    def step(asked: ModelRequest) -> Page:
        return chat_stream(asked, Answer("Hello."), finish=finish, done=done)

    with provider() as fake_provider:
        reply = await ask(active, fake_provider, step)
    assert (reply.text, reply.usage["input_tokens"]) == ("Hello.", 10)


async def test_a_stream_without_any_mark_of_its_end_is_no_answer(active: ActiveRun) -> None:
    def step(asked: ModelRequest) -> Page:
        return chat_stream(asked, Answer("Hello."), finish=False, done=False)

    with provider() as fake_provider, pytest.raises(AgentTemporary, match="before the answer"):
        await ask(active, fake_provider, step)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_server_that_refuses_streams_is_asked_without_one(
    active: ActiveRun, protocol: str
) -> None:
    refusal = Status(400, "Your organization must be verified to stream this model.")
    with provider() as fake_provider:
        if protocol == "anthropic":  # its client always streams a long answer
            given: dict[str, Any] = {"options": {"max_tokens": 100}}
        else:
            given = {}
        reply = await ask(active, fake_provider, refusal, "Hello.", protocol=protocol, **given)
        assert reply.text == "Hello."
        assert streams(fake_provider) == [True, False]
        keys = [each.headers["idempotency-key"] for each in fake_provider.requests]
        assert keys == ["flow:1", "flow:1~unstreamed"]


@pytest.mark.parametrize(
    ("refusal", "model"),
    [
        (Status(504, "stream timeout"), "m"),
        (Status(500, "stream disconnected before completion"), "m"),
        (Status(429, "Too many streams."), "m"),
        (Status(404, "No model `stream-7b` exists."), "lab/stream-7b:latest"),
        (Status(422, "Not allowed: Which STREAM is long?"), "m"),
        (Status(400, "Not allowed: Streams are rivers."), "m"),
    ],
)
async def test_an_error_that_is_no_refusal_of_a_stream_is_not_repeated(
    active: ActiveRun, refusal: Status, model: str
) -> None:
    with provider() as fake_provider:
        fake_provider.script = [refusal, "Hello."]
        with journal.recording(active.ledger, active.granted, 1, SYSTEM_CLOCK):
            asked = request(
                "Which stream is long?",
                journal=journal.current(),
                instructions="Streams are rivers.",
            )
            with pytest.raises(AgentError):
                await agent(fake_provider, model=f"openai:{model}", stream=True).answer(asked)
        assert streams(fake_provider) == [True]


async def test_another_refusal_is_an_error_after_one_request(active: ActiveRun) -> None:
    with provider() as fake_provider:
        with pytest.raises(AgentFailed, match="An upstream refused it"):
            await ask(active, fake_provider, Status(400, "An upstream refused it."), "Hello.")
        assert streams(fake_provider) == [True]


async def test_a_server_that_ignores_streams_answers_with_one_request(active: ActiveRun) -> None:
    choice = {"index": 0, "finish_reason": "stop", "message": {"content": "Hello."}}
    body = {"choices": [choice], "usage": {"prompt_tokens": 4, "completion_tokens": 2}}
    with provider() as fake_provider:
        reply = await ask(active, fake_provider, Page(json.dumps(body), "application/json"))
        assert (reply.text, reply.usage["input_tokens"]) == ("Hello.", 4)
        assert streams(fake_provider) == [True]


@pytest.mark.parametrize(
    ("page", "kind", "words"),
    [
        (Page(), AgentFailed, "gave an invalid answer"),
        (Page('{"choices": [{"ind', "application/json"), AgentTemporary, "before the answer"),
        (Page('{"error": "Busy"}', "application/json"), AgentTemporary, "failed: Busy"),
        (Page('data: {"error": "Busy"}\n\n', "text/event-stream"), AgentTemporary, "Busy"),
        (
            Page('data: {"error": {"code": 429, "message": "Slow."}}\n\n', "text/event-stream"),
            AgentTemporary,
            "rate-limits Daybook's requests (429): Slow.",
        ),
    ],
)
async def test_an_error_in_place_of_a_stream_has_its_error_class(
    active: ActiveRun, page: Page, kind: type[AgentError], words: str
) -> None:
    with provider() as fake_provider, pytest.raises(AgentError) as caught:
        await ask(active, fake_provider, page)
    assert (type(caught.value), words in str(caught.value)) == (kind, True), str(caught.value)


@pytest.mark.parametrize("kind", ["text/plain", "application/json", ""])
async def test_a_stream_with_another_content_type_is_a_stream(active: ActiveRun, kind: str) -> None:
    def step(asked: ModelRequest) -> Page:
        return Page(chat_stream(asked, Answer("Hello."), finish=True, done=True).body, kind)

    def cut(asked: ModelRequest) -> Page:
        return Page(chat_stream(asked, Answer("Hello."), finish=False, done=False).body, kind)

    with provider() as fake_provider:
        reply = await ask(active, fake_provider, step)
        assert (reply.text, reply.usage["input_tokens"]) == ("Hello.", 10)
        active.query("DELETE FROM steps")
        with pytest.raises(AgentTemporary, match="before the answer"):
            await ask(active, fake_provider, cut)


async def test_a_stream_without_a_usage_is_the_last_one_of_its_answer(active: ActiveRun) -> None:
    mail = Mail()
    call = Answer("", tool="mail", arguments={"text": "a"}, usage=False)
    with provider() as fake_provider:
        reply = await ask(active, fake_provider, call, "Done.", tools=(mail.tool,))
        assert streams(fake_provider) == [True, False]
    assert (reply.text, reply.usage["input_tokens"]) == ("Done.", None)
    (warning,) = reply.warnings
    assert "had no token usage" in warning
    assert "--no-stream" in warning


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("given", [{"tokens": 1_000}, {"stream": False}, {"stream": None}])
async def test_a_server_at_a_base_url_streams_only_if_asked_and_without_a_limit(
    active: ActiveRun, given: dict[str, Any], protocol: str
) -> None:
    short: dict[str, Any] = {
        "options": {"max_tokens": 100}
    }  # the client of Anthropic streams a long answer
    with provider() as fake_provider:
        reply = await ask(active, fake_provider, "Hello.", protocol=protocol, **(short | given))
        assert reply.text == "Hello."
        assert streams(fake_provider) == [False]


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_run_with_a_budget_of_a_server_at_a_base_url_is_not_streamed(
    active: ActiveRun, monkeypatch: pytest.MonkeyPatch, protocol: str
) -> None:
    async def is_limited(_: journal.RunJournal) -> bool:
        return True

    monkeypatch.setattr(journal.RunJournal, "is_limited", is_limited)
    with provider() as fake_provider:
        short: dict[str, Any] = {"options": {"max_tokens": 100}}
        await ask(active, fake_provider, "Hello.", protocol=protocol, **short)
        assert streams(fake_provider) == [False]


@pytest.mark.parametrize("stream", [None, False])
def test_by_default_only_the_own_api_of_a_provider_streams(
    monkeypatch: pytest.MonkeyPatch, stream: bool | None
) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    for model in ("openai:gpt-6-luna", "anthropic:claude-haiku-4-5", "google:gemini-3.8-flash"):
        settings = ModelSettings.model_validate(
            {"model": model, "api_key": "sk-1", "stream": stream}
        )
        assert streamed(settings) is (stream is None), model
        assert streamed(settings, tokens=100) is (stream is None), model
        assert not streamed(settings, attempt=2), model
    settings = ModelSettings.model_validate({"model": "openai:gpt-6-luna", "api_key": "sk-1"})
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert not streamed(settings)


def streamed(settings: ModelSettings, **given: Any) -> bool:
    """Return whether the agent's requests use streams."""
    asked = request(**given)
    model_agent = ModelAgent("brief", settings)
    return model_agent._is_streamed(providers.model(settings), asked)


async def test_calls_with_one_index_stay_separate(active: ActiveRun) -> None:
    def same_index(asked: ModelRequest) -> Page:
        two = Answer("", tool="mail", arguments={"text": "a"}, more=({"text": "b"},))
        page = chat_stream(asked, two, finish=True, done=True)
        return Page(page.body.replace('"index": 1', '"index": 0'), page.content_type)

    mail = Mail()
    with provider() as fake_provider:
        reply = await ask(active, fake_provider, same_index, "Done.", tools=(mail.tool,))
    assert (reply.text, sorted(mail.sent)) == ("Done.", ["a", "b"])


async def test_a_fast_answer_costs_no_further_write(
    active: ActiveRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[object] = []
    monkeypatch.setattr(steps, "show", lambda *given: shown.append(given))
    with provider() as fake_provider:
        await ask(active, fake_provider, "Hello.")
    assert shown == []


async def shown_texts(*texts: str, show_error: Exception | None = None) -> list[str]:
    """Return the shown texts of a text that becomes each of ``texts``, once it is read."""
    left, seen, is_read = list(texts), list[str](), asyncio.Event()

    def read() -> tuple[None, str]:
        if len(left) == 1:
            is_read.set()
        return None, left[0] if len(left) == 1 else left.pop(0)

    async def show(_: None, text: str) -> None:
        seen.append(text)
        if show_error is not None:
            is_read.set()
            raise show_error

    async with showing.showing(read, show):
        await is_read.wait()
    return seen


async def test_an_error_while_a_text_is_shown_is_logged_once_without_the_text(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(showing, "INTERVAL_SECONDS", 0.0)
    error = ValueError("It is secret")
    assert await shown_texts("", "It is", "It is secret", show_error=error) == ["It is"]
    (record,) = [each for each in caplog.records if each.name == showing.log.name]
    assert "ValueError" in record.getMessage()
    assert "secret" not in caplog.text


async def test_a_long_text_is_shown_half_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def note(seconds: float) -> None:
        waits.append(seconds)
        await anyio.lowlevel.checkpoint()

    long = "x" * (showing.LONG_CHARACTERS + 1)
    monkeypatch.setattr("daybook.agents.showing.asyncio.sleep", note)
    await shown_texts("", "short", long, f"{long}y")
    assert waits[:3] == [1.0, 1.0, 2.0]


@pytest.mark.parametrize("calls", [True, False])
async def test_a_call_whose_tool_has_not_started_is_no_answer(
    active: ActiveRun, calls: bool
) -> None:
    mail = Mail()
    answer = Answer("I send it.", tool="mail" if calls else None, arguments={"text": "a"})
    with provider() as fake_provider:
        await ask(active, fake_provider, answer, "Done.", tools=(mail.tool,))
    active.query("DELETE FROM steps WHERE number > 1")
    async with active.ledger.read() as session:
        row = await rows.get(session, active.granted.run_id)
        found = await steps.partial_answers(session, [row])
    assert found == {row.id: "" if calls else "I send it."}


async def begun(active: ActiveRun) -> None:
    """Record the start of a request, as its agent does."""
    with provider() as fake_provider, pytest.raises(AgentError):
        await ask(active, fake_provider, Status(503))
    active.query("UPDATE steps SET status = 'running', finished_at = NULL")


@pytest.mark.parametrize("length", range(5, 48, 7))
def test_no_part_of_a_token_is_shown(length: int) -> None:
    token = f"{TOKEN_PREFIX}{'aB3_' * 10}xyZ"
    assert step_texts.shown_text(f"It is {token[:length]}") == f"It is {TOKEN_PREFIX}…"
    front = "x" * 100 + token + "y" * (step_texts.MAX_SHOWN_CHARACTERS - 20)
    assert token[-20:] not in step_texts.shown_text(front)


def test_a_long_text_keeps_its_end_from_a_fixed_place() -> None:
    text = "".join(f"{number:05}\n" for number in range(5_000))
    first, second = step_texts.shown_text(text[:20_100]), step_texts.shown_text(text[:21_000])
    assert second.startswith(first)
    assert len(second) <= step_texts.MAX_SHOWN_CHARACTERS + 10
    assert second.endswith(text[20_000:21_000])


async def test_only_the_holder_shows_a_text_and_the_end_of_the_attempt_removes_it(
    active: ActiveRun,
) -> None:
    await begun(active)
    ledger, fence, run_id = active.ledger, active.granted.fence, active.granted.run_id
    await steps.show(ledger, fence, run_id, 1, "So far")
    await steps.show(ledger, fence + 1, run_id, 1, "By another process")
    assert [each.output for each in await recorded(active)] == ["So far"]
    await steps.finish(ledger, fence, run_id, 1, RunStatus.SUCCEEDED, output="All")
    await steps.show(ledger, fence, run_id, 1, "Too late")
    assert [each.output for each in await recorded(active)] == ["All"]
