"""Streamed answers: their text is shown while it arrives, and only a complete one is an answer."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest

from daybook.agents import showing
from daybook.agents.base import Tool
from daybook.clock import SYSTEM_CLOCK
from daybook.errors import AgentError, AgentFailed, AgentTemporary
from daybook.execution import journal
from daybook.ledger.states import Status as RunStatus
from daybook.redaction import TOKEN_PREFIX
from daybook.runs import steps
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
    given = {
        "model": f"{protocol}:{MODELS[protocol.partition('-')[0]]}",
        "base_url": fake_provider.address if is_openai else fake_provider.origin,
    }
    with journal.recording(active.ledger, active.granted, attempt, SYSTEM_CLOCK):
        asked = request(tools=tools, journal=journal.current(), timeout=100.0, tokens=tokens)
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
        reply = await ask(active, fake_provider, whole, protocol="google", attempt=2)
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
        keys = {each.headers["idempotency-key"] for each in fake_provider.requests}
        assert len(keys) == 1


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


async def test_a_stream_without_a_usage_is_the_last_one_of_its_answer(active: ActiveRun) -> None:
    mail = Mail()
    call = Answer("", tool="mail", arguments={"text": "a"}, usage=False)
    with provider() as fake_provider:
        reply = await ask(active, fake_provider, call, "Done.", tools=(mail.tool,))
        assert streams(fake_provider) == [True, False]
    assert (reply.text, reply.usage["input_tokens"]) == ("Done.", None)


@pytest.mark.parametrize("given", [{"tokens": 1_000}, {"stream": False}])
async def test_a_limited_run_of_a_compatible_server_is_not_streamed(
    active: ActiveRun, given: dict[str, Any]
) -> None:
    with provider() as fake_provider:
        assert (await ask(active, fake_provider, "Hello.", **given)).text == "Hello."
        assert streams(fake_provider) == [False]


async def test_a_run_with_a_budget_of_a_compatible_server_is_not_streamed(
    active: ActiveRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def is_limited(_: journal.RunJournal) -> bool:
        return True

    monkeypatch.setattr(journal.RunJournal, "is_limited", is_limited)
    with provider() as fake_provider:
        await ask(active, fake_provider, "Hello.")
        assert streams(fake_provider) == [False]


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


async def begun(active: ActiveRun) -> None:
    """Record the start of a request, as its agent does."""
    with provider() as fake_provider, pytest.raises(AgentError):
        await ask(active, fake_provider, Status(503))
    active.query("UPDATE steps SET status = 'running', finished_at = NULL")


@pytest.mark.parametrize("length", range(5, 48, 7))
def test_no_part_of_a_token_is_shown(length: int) -> None:
    token = f"{TOKEN_PREFIX}{'aB3_' * 10}xyZ"
    assert journal.shown_text(f"It is {token[:length]}") == f"It is {TOKEN_PREFIX}…"
    front = "x" * 100 + token + "y" * (journal.MAX_SHOWN_CHARACTERS - 20)
    assert token[-20:] not in journal.shown_text(front)


def test_a_long_text_keeps_its_end_from_a_fixed_place() -> None:
    text = "".join(f"{number:05}\n" for number in range(5_000))
    first, second = journal.shown_text(text[:20_100]), journal.shown_text(text[:21_000])
    assert second.startswith(first)
    assert len(second) <= journal.MAX_SHOWN_CHARACTERS + 10
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
