"""Journal of an attempt: each request and each tool call is a step in the ledger."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from daybook.agents.base import AgentReply, Tool
from daybook.agents.journal import PlannedStep, ProgramSession, StepPosition, StepReply
from daybook.clock import SYSTEM_CLOCK
from daybook.errors import AgentError, FenceRefused, InvalidInput, LedgerNewer
from daybook.execution import journal, step_texts
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import StepRow
from daybook.redaction import TOKEN_PREFIX
from daybook.runs import claims, rows, steps
from tests.providers import Answer, Provider, provider
from tests.providers import Status as HttpStatus
from tests.unit.agents.asking import agent, request
from tests.unit.execution.conftest import ActiveRun

pytestmark = pytest.mark.anyio

SCHEMA = {"type": "object", "properties": {"text": {"type": "string"}}}


class Mail:
    """Tool that records its calls and does ``before`` first."""

    def __init__(self, before: Callable[[], Any] = lambda: None, **flags: Any) -> None:
        self.sent: list[str] = []
        self._before, self._flags = before, flags

    async def call(self, arguments: dict[str, Any]) -> str:
        self._before()
        self.sent.append(arguments["text"])
        return f"sent {arguments['text']}"

    @property
    def tool(self) -> Tool:
        return Tool("mail", "Sends a mail.", SCHEMA, self.call, **self._flags)


def sends(text: str) -> Answer:
    return Answer("", tool="mail", arguments={"text": text}, input_tokens=100, output_tokens=20)


async def answer(
    active: ActiveRun, fake_provider: Provider, *tools: Tool, attempt: int = 1, **given: Any
) -> AgentReply:
    with journal.recording(active.ledger, active.granted, attempt, SYSTEM_CLOCK):
        asked = request(tools=tools, journal=journal.current(), timeout=100.0, **given)
        return await agent(fake_provider).answer(asked)


async def recorded(active: ActiveRun) -> list[StepRow]:
    async with active.ledger.read() as session:
        return await steps.of_run(session, active.granted.run_id)


async def test_each_request_and_each_call_is_recorded_before_it_happens_and_afterwards(
    active: ActiveRun,
) -> None:
    seen: list[list[tuple[str, str]]] = []

    def look() -> None:
        rows = active.query("SELECT position, status FROM steps ORDER BY number")
        seen.append([(position, status) for position, status in rows])

    mail = Mail(before=look)
    with provider() as fake_provider:

        def second(_: Any) -> Answer:
            look()
            return Answer("Done.")

        fake_provider.script = [sends("a"), second]
        await answer(active, fake_provider, mail.tool)

    assert seen == [
        [("1", "succeeded"), ("1.1", "running")],
        [("1", "succeeded"), ("1.1", "succeeded"), ("2", "running")],
    ]
    first, call, last = await recorded(active)
    assert [each.kind for each in (first, call, last)] == ["request", "tool", "request"]
    assert (first.name, call.name) == ("gpt-6-luna", "mail")
    assert first.usage is not None
    assert (first.usage["input_tokens"], first.usage["output_tokens"]) == (100, 20)
    assert (first.input, first.output) == ("Hello", 'mail(text="a")')
    assert (call.input, call.output, call.usage) == ('text="a"', "sent a", None)
    assert (last.status, last.input, last.output) == ("succeeded", "sent a", "Done.")
    assert len({each.digest for each in (first, call, last)}) == 3


async def test_a_process_that_lost_its_claim_makes_no_further_request_and_no_call(
    active: ActiveRun,
) -> None:
    mail = Mail()
    with provider() as fake_provider:

        def taken_over(_: Any) -> Answer:
            active.take_over()
            return sends("a")

        fake_provider.script = [taken_over]
        with pytest.raises(FenceRefused):
            await answer(active, fake_provider, mail.tool)
        with pytest.raises(FenceRefused):
            await answer(active, fake_provider, mail.tool)
        assert len(fake_provider.requests) == 1
    assert mail.sent == []
    assert [each.status for each in await recorded(active)] == ["running"]


async def test_after_an_incompatible_migration_an_answer_is_kept_but_no_further_step_starts(
    active: ActiveRun,
) -> None:
    mail, last = Mail(), Answer("Done.")

    def migrated(next_answer: Answer) -> Callable[[Any], Answer]:
        def respond(_: Any) -> Answer:
            active.migrate_incompatibly()
            return next_answer

        return respond

    with provider() as fake_provider:
        fake_provider.script = [migrated(last)]
        assert (await answer(active, fake_provider, mail.tool)).text == "Done."
        active.undo_migration()
        fake_provider.script = [migrated(sends("a"))]
        with pytest.raises(LedgerNewer):
            await answer(active, fake_provider, mail.tool, attempt=2)
        session = ProgramSession("id")
        with journal.recording(active.ledger, active.granted, 3, SYSTEM_CLOCK) as current:
            step = PlannedStep(StepPosition(0, 1, 1), "tool", "mail", {}, "a", repeatable=False)
            await current.report(step)  # the program goes on
            await current.finish(step, StepReply("sent"))
            await current.program_session(session, resumed=False)
    assert mail.sent == []
    active.undo_migration()
    assert [each.kind for each in await recorded(active)] == ["request", "request"]


async def test_a_failed_request_and_a_failed_call_are_recorded_with_their_errors(
    active: ActiveRun,
) -> None:
    def refuse() -> None:
        raise InvalidInput("text", "is rude")

    with provider() as fake_provider:
        fake_provider.script = [sends("a"), HttpStatus(503, "Busy.")]
        with pytest.raises(AgentError):
            await answer(active, fake_provider, Mail(before=refuse).tool)
    _, call, last = await recorded(active)
    assert (call.status, call.error) == ("failed", "text: is rude")
    assert last.status == "failed"
    assert "503" in str(last.error) and "Busy." in str(last.error)


async def test_a_step_without_a_reply_at_the_end_of_its_attempt_is_unknown(
    active: ActiveRun,
) -> None:
    step = PlannedStep(StepPosition(0, 1, 1), "request", "gpt-6-luna", {}, "Hello", repeatable=True)
    with journal.recording(active.ledger, active.granted, 1, SYSTEM_CLOCK):
        current = journal.current()
    assert current is not None
    await current.start(step)

    granted = active.granted
    outcome = Outcome(Status.TIMED_OUT, error="no answer")
    await claims.finish(active.ledger, granted.run_id, granted.fence, outcome)

    (row,) = await recorded(active)
    assert (row.status, row.finished_at is None) == ("unknown", False)


async def test_a_recorded_text_is_bounded_and_has_no_token_of_a_claim(active: ActiveRun) -> None:
    token = f"{TOKEN_PREFIX}{'Ab3_' * 10}xyz"
    with provider() as fake_provider:
        fake_provider.script = [sends(f"{token} {'x' * 5_000}"), Answer(f"{token} done")]
        await answer(active, fake_provider, Mail().tool)
    for step in await recorded(active):
        for text in (step.input or "", step.output or ""):
            assert token not in text
            assert len(text) < step_texts.MAX_TEXT_CHARACTERS + 100


async def test_a_step_shows_cached_tokens_and_costs_less_for_them(active: ActiveRun) -> None:
    # A million tokens in cost 1 $, 0.1 $ if they come from the cache, and a million out 5 $.
    answered = Answer("Done.", input_tokens=1_000_000, output_tokens=200_000, cached=500_000)
    with provider() as fake_provider:
        fake_provider.script = [answered]
        with journal.recording(active.ledger, active.granted, 1, SYSTEM_CLOCK):
            asked = request(journal=journal.current(), timeout=100.0)
            reply = await agent(fake_provider, "anthropic").answer(asked)
    (step,) = await recorded(active)
    assert step.usage == reply.usage
    assert step.usage is not None
    assert step.usage["cache_read_tokens"] == 500_000
    assert step.usage["cost_usd"] == pytest.approx(0.5 + 0.05 + 1.0)
    assert step.usd == pytest.approx(0.5 + 0.05 + 1.0)


async def test_only_the_holder_of_a_run_records_the_session_of_its_program(
    active: ActiveRun,
) -> None:
    with journal.recording(active.ledger, active.granted, 1, SYSTEM_CLOCK) as opened:
        await opened.program_session(ProgramSession("abc-1"), resumed=False)
        async with active.ledger.write() as session:
            row = await rows.get(session, active.granted.run_id)
            assert row.program_session == "abc-1"
            row.fence += 1
            session.add(row)
        with pytest.raises(FenceRefused):
            await opened.program_session(ProgramSession("abc-2"), resumed=False)
    assert active.query("SELECT program_session FROM runs") == [("abc-1",)]


async def test_instructions_are_read_after_a_setup_that_failed_before_them(
    active: ActiveRun,
) -> None:
    setup = PlannedStep(StepPosition(0, 1, 0, 1), "command", "make", {}, "make", repeatable=True)
    with journal.recording(active.ledger, active.granted, 1, SYSTEM_CLOCK) as first:
        await first.report(setup, StepReply("no rule", "make exited with code 2"))
    found = PlannedStep(StepPosition(0, 1, 0), "instructions", "A", {}, "a", repeatable=True)

    async def find() -> tuple[PlannedStep, StepReply]:
        return found, StepReply("text", value="Use spaces.")

    with journal.recording(active.ledger, active.granted, 2, SYSTEM_CLOCK) as second:
        assert await second.keep(found.position, find) == "Use spaces."
