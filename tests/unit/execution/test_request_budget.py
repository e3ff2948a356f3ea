"""A run whose budget is used up ends before its next request to the model."""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, cast

import pytest

from daybook.agents.base import AgentReply, AgentRequest
from daybook.agents.journal import Journal, PlannedStep, StepReply
from daybook.clock import SYSTEM_CLOCK
from daybook.errors import (
    AgentError,
    AgentFailed,
    AgentMisconfigured,
    AgentTemporary,
    AgentTimeout,
)
from daybook.execution import answers, journal
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import StepRow
from daybook.runs import claims, steps
from tests.providers import Answer, Cut, Page, Provider, provider
from tests.providers import Status as refused
from tests.servers import free_port
from tests.unit.agents.asking import agent, request
from tests.unit.execution.conftest import ActiveRun
from tests.unit.execution.test_journal import Mail, sends

pytestmark = pytest.mark.anyio

PRICES: dict[str, Any] = {"input_price": 1_000.0, "output_price": 1_000.0}
"""A token costs a tenth of a cent; a request of 120 tokens costs 12 cents."""


def budget(patch: pytest.MonkeyPatch, **table: Any) -> None:
    patch.setenv("DAYBOOK_BUDGET", json.dumps(table))


async def ask(
    active: ActiveRun,
    fake_provider: Provider,
    attempt: int = 1,
    protocol: str = "openai",
    **settings: Any,
) -> AgentReply:
    with journal.recording(active.ledger, active.granted, attempt, SYSTEM_CLOCK):
        asked = request(tools=(Mail().tool,), journal=journal.current(), timeout=100.0)
        options = {"max_tokens": 30}
        return await agent(fake_provider, protocol, options=options, **settings).answer(asked)


async def recorded(active: ActiveRun) -> list[StepRow]:
    async with active.ledger.read() as session:
        return await steps.of_run(session, active.granted.run_id)


async def test_a_request_that_would_exceed_the_budget_is_not_sent(
    active: ActiveRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 30 cents two requests use 24; the third would use 12 more."""
    budget(monkeypatch, usd_per_run=0.30)
    with provider() as fake_provider:
        fake_provider.script = [sends("a")]
        with pytest.raises(AgentFailed, match=r"budget: \$0\.24 of \$0\.30 per run") as failed:
            await ask(active, fake_provider, **PRICES)
        assert len(fake_provider.requests) == 2
    assert failed.value.usage is not None
    assert failed.value.usage["cost_usd"] == pytest.approx(0.24)
    assert not failed.value.allows_retry
    requests = [each for each in await recorded(active) if each.kind == "request"]
    assert [(each.tokens, each.usd) for each in requests] == [(120, 0.12), (120, 0.12)]


async def test_an_unknown_price_is_refused_or_counts_as_the_fallback(
    active: ActiveRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    with provider() as fake_provider:
        fake_provider.script = [sends("a")]
        unknown: dict[str, Any] = {"model": "homemade"}
        budget(monkeypatch, usd_per_day=5)
        with pytest.raises(AgentMisconfigured, match="the price of a request to homemade is not"):
            await ask(active, fake_provider, **unknown)
        assert not fake_provider.requests
        budget(monkeypatch, usd_per_day=5, unpriced_usd=2.0)
        with pytest.raises(AgentFailed, match=r"budget: \$4 of \$5 per day of all runs"):
            await ask(active, fake_provider, **unknown)
        assert len(fake_provider.requests) == 2


@pytest.mark.parametrize(
    "answer", [Answer("Done.", usage=False), Answer("Done.", input_tokens=0, output_tokens=0)]
)
async def test_what_the_provider_does_not_report_counts_as_its_estimate(
    active: ActiveRun, monkeypatch: pytest.MonkeyPatch, answer: Answer
) -> None:
    budget(monkeypatch, usd_per_day=5)
    with provider() as fake_provider:
        fake_provider.script = [answer]
        await ask(active, fake_provider, **PRICES)
    (row,) = await recorded(active)
    assert row.usage is not None
    assert row.usage["cost_usd"] is None
    assert row.tokens > 30
    assert row.usd == pytest.approx(row.tokens / 1_000)
    assert row.unpriced == 0


ANTHROPIC_STARTS = (
    'event: message_start\ndata: {"type": "message_start", "message": {"id": "m", '
    '"type": "message", "role": "assistant", "content": [], "model": "claude-haiku-4-5", '
    '"stop_reason": null, "stop_sequence": null, '
    '"usage": {"input_tokens": 25, "output_tokens": 1}}}\n\n'
)
OVERLOADED = (
    'event: error\ndata: {"type": "error", '
    '"error": {"type": "overloaded_error", "message": "Full"}}\n\n'
)


@pytest.mark.parametrize(
    ("protocol", "step", "is_counted"),
    [
        ("openai", Cut(), True),
        ("openai", Page('{"choices": []}', "application/json"), True),
        ("anthropic", Page(ANTHROPIC_STARTS + OVERLOADED, "text/event-stream"), True),
        ("openai", refused(503, "Later."), False),
        ("anthropic", refused(529, "Full.", "overloaded_error"), False),
    ],
)
async def test_a_request_that_may_have_cost_something_counts_as_its_estimate(
    active: ActiveRun,
    monkeypatch: pytest.MonkeyPatch,
    protocol: str,
    step: Cut | Page | refused,
    is_counted: bool,
) -> None:
    budget(monkeypatch, usd_per_day=5)
    with provider() as fake_provider:
        fake_provider.script = [step]
        with pytest.raises(AgentError):
            await ask(active, fake_provider, protocol=protocol, **PRICES)
        assert len(fake_provider.requests) == 1
    (row,) = await recorded(active)
    assert (row.tokens > 30, row.usd > 0.03) == (is_counted, is_counted)
    assert is_counted or row.tokens == 0


async def test_a_request_to_a_provider_that_cannot_be_reached_counts_nothing(
    active: ActiveRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget(monkeypatch, usd_per_day=5)
    with provider() as fake_provider, pytest.raises(AgentTemporary, match="cannot be reached"):
        nobody = f"http://127.0.0.1:{free_port()}"
        await ask(active, fake_provider, base_url=nobody, **PRICES)
    (row,) = await recorded(active)
    assert (row.tokens, row.usd) == (0, 0.0)


class Program:
    """Program that answers without saying what that cost."""

    name, is_program = "cc", True

    def __init__(self, usage: dict[str, Any] | None = None) -> None:
        self.asked = 0
        self._usage = usage

    async def answer(self, _: AgentRequest) -> AgentReply:
        self.asked += 1
        return AgentReply("Done.", self.name, usage=self._usage)


async def test_the_answer_of_a_program_counts_as_one_request_of_unknown_price(
    active: ActiveRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = Program()

    async def answer(of: Program, question: int) -> None:
        with journal.recording(active.ledger, active.granted, 1, SYSTEM_CLOCK):
            asked = replace(request(journal=journal.current()), question=question)
            await answers.ask(of, asked, "text", {})

    await answer(program, 1)
    assert await recorded(active) == []  # no budget in US dollars: no step
    budget(monkeypatch, usd_per_day=5)
    with pytest.raises(AgentMisconfigured, match="the price of a request to cc is not known"):
        await answer(program, 1)
    budget(monkeypatch, usd_per_day=5, unpriced_usd=0.5)
    await answer(program, 1)
    assert program.asked == 2
    outcome = Outcome(Status.FAILED, error="exit code 1")
    await claims.finish(active.ledger, active.granted.run_id, active.granted.fence, outcome)
    assert active.query("SELECT tokens, usd, unpriced FROM attempts") == [(0, 0.0, 1)]


async def test_an_answer_of_a_program_is_one_request_however_many_it_reports(
    active: ActiveRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget(monkeypatch, usd_per_day=5, unpriced_usd=0.5)
    reported = {"requests": 40, "input_tokens": 90, "output_tokens": 10, "cost_usd": None}
    with journal.recording(active.ledger, active.granted, 1, SYSTEM_CLOCK):
        asked = request(journal=journal.current())
        await answers.ask(Program(reported), asked, "text", {})
    (row,) = await recorded(active)
    assert (row.tokens, row.usd, row.unpriced) == (100, 0.0, 1)


class Reserved:
    """Journal of a run whose budget other runs have reserved for ever."""

    async def limits_usd(self) -> bool:
        return True

    async def start(self, _: PlannedStep) -> StepReply | None:
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_program_waits_for_its_budget_no_longer_than_its_timeout() -> None:
    program = Program()
    asked = replace(request(journal=cast("Journal", Reserved())), timeout=0.05)
    with pytest.raises(AgentTimeout):
        await answers.ask(program, asked, "text", {})
    assert program.asked == 0


async def test_a_programs_answer_is_returned_although_the_ledger_cannot_record_its_step(
    active: ActiveRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget(monkeypatch, usd_per_day=5, unpriced_usd=0.5)
    monkeypatch.setattr(answers, "MAX_FINISH_SECONDS", 0.05)

    class Locking(Program):
        async def answer(self, asked: AgentRequest) -> AgentReply:
            locks.enter_context(active.locked())
            return await super().answer(asked)

    with ExitStack() as locks, journal.recording(active.ledger, active.granted, 1, SYSTEM_CLOCK):
        answer = await answers.ask(Locking(), request(journal=journal.current()), "text", {})
    assert answer.reply.text == "Done."
    (row,) = await recorded(active)
    assert (row.status, row.unpriced) == ("running", 1)  # the budget counts its estimate
