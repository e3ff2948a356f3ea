"""Calls of an agent's tools that wait for a person: none is made before the approval, or twice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from daybook.agents.base import AgentReply, Tool
from daybook.clock import SYSTEM_CLOCK
from daybook.errors import AgentMisconfigured, InvalidInput, LedgerUnreachable
from daybook.execution import (
    agent_request,
    agent_tools,
    attempt,
    claim,
    claim_effects,
    journal,
    lease,
    recording,
)
from daybook.execution.agent_tools import ToolSelection
from daybook.execution.attempt import RetryAt
from daybook.execution.lease import LeaseLost
from daybook.jobs.model import edit, new_job, read_parameters
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import ApprovalRow
from daybook.ledger.views import Approval
from daybook.owners import Actor
from daybook.policies.policy import Policy, matches
from daybook.runs import approvals, claim_requests, claims
from daybook.runs.approvals import ApprovalNeeded
from daybook.runs.claim_requests import ClaimRequest, Granted
from daybook.testing import ManualClock
from daybook.timing import TIMING
from tests.providers import Answer, Provider, Step, provider
from tests.providers import Status as HttpStatus
from tests.unit.agents.asking import agent, request
from tests.unit.execution.conftest import ActiveRun
from tests.unit.execution.test_journal import Mail, recorded, sends

pytestmark = pytest.mark.anyio


class AskingRun:
    """A run whose attempts are made one after the other, as a worker does."""

    def __init__(self, active: ActiveRun, fake_provider: Provider, *tools: Tool) -> None:
        self.active, self.fake_provider = active, fake_provider
        self.tools = tuple(replace(each, needs_approval=lambda: True) for each in tools)
        self.number = 1

    async def act(self) -> Outcome:
        asked = request(tools=self.tools, journal=journal.current(), timeout=100.0)
        reply: AgentReply = await agent(self.fake_provider).answer(asked)
        return Outcome(Status.SUCCEEDED, output=reply.text, usage=reply.usage)

    async def goes_on(self, *script: Step) -> Outcome | RetryAt:
        """Continue the attempt with this script of the provider."""
        if script:
            self.fake_provider.script = list(script)
        active = self.active
        return await attempt.run_attempt(
            active.ledger, active.granted, self.number, self.act, SYSTEM_CLOCK
        )

    async def is_claimed(self) -> None:
        """Let another process claim the run, which is due, and begin."""
        row = await self.active.row()
        given = ClaimRequest(
            claim_requests.flow_key("f"),
            "agent-prompt",
            "direct",
            row.due,
            "there:2",
            row.parameters,
        )
        granted = await claims.claim(self.active.ledger, given)
        assert isinstance(granted, Granted), granted
        self.number = await claims.begin(self.active.ledger, granted.run_id, granted.fence)
        self.active.granted = granted

    async def is_decided(self, approve: bool = True, reason: str = "") -> None:
        await claims.decide_approval(
            self.active.ledger,
            self.active.granted.run_id,
            None,
            approve=approve,
            by="ann (cli)",
            reason=reason,
        )
        await self.is_claimed()

    async def asked(self) -> list[ApprovalRow]:
        async with self.active.ledger.read() as session:
            return await approvals.of_run(session, self.active.granted.run_id)


async def test_a_call_is_made_once_after_its_approval_and_no_request_is_repeated(
    active: ActiveRun,
) -> None:
    mail = Mail()
    with provider() as fake_provider:
        run = AskingRun(active, fake_provider, mail.tool)
        paused = await run.goes_on(sends("a"), "Done.")
        assert isinstance(paused, RetryAt)
        row = await active.row()
        assert (row.status, row.waits_for, row.until) == ("waiting", "approval", paused.until)
        assert mail.sent == [] and len(fake_provider.requests) == 1
        (approval,) = await run.asked()
        assert (approval.tool, approval.input, approval.position) == (
            "mail",
            '{"text": "a"}',
            "1.1",
        )

        await run.is_decided()
        ended = await run.goes_on()
        assert isinstance(ended, Outcome) and ended.output == "Done."
        assert len(fake_provider.requests) == 2
    assert mail.sent == ["a"]
    row = await active.row()
    assert (row.status, row.attempts, row.warnings) == ("succeeded", 1, [])
    assert row.usage is not None and row.usage["requests"] == 2
    assert [(each.position, each.status) for each in await recorded(active)] == [
        *[("1", "succeeded"), ("1.1", "succeeded"), ("2", "succeeded")],
    ]


async def test_a_question_has_all_arguments_and_the_call_is_made_with_them(
    active: ActiveRun,
) -> None:
    """The model chooses the order, so a long first argument must not hide the last one."""
    given = {"body": "x" * 20_000, "text": "to all users"}
    mail = Mail()
    with provider() as fake_provider:
        run = AskingRun(active, fake_provider, mail.tool)
        await run.goes_on(Answer("", tool="mail", arguments=given), "Done.")
        (asked,) = map(Approval.of, await run.asked())
        assert asked.arguments == given
        assert asked.input.splitlines()[1] == 'text="to all users"' and len(asked.input) < 2_100
        assert "x" * 20_000 in asked.full_input
        await run.is_decided()
        await run.goes_on()
    assert mail.sent == [given["text"]]


@pytest.mark.parametrize("size", [65_536, 65_537])
async def test_a_call_whose_arguments_nobody_can_read_is_not_made(
    active: ActiveRun, size: int
) -> None:
    mail = Mail()
    text = "ä" + "x" * (size - len('{"text": ""}') - 2)  # "ä" has two bytes
    with provider() as fake_provider:
        run = AskingRun(active, fake_provider, mail.tool)
        ended = await run.goes_on(sends(text), "I could not.")
        assert isinstance(ended, RetryAt) == (size == 65_536) == bool(await run.asked())
        if size > 65_536:
            assert "its arguments have 65,537 bytes" in fake_provider.requests[-1].prompt
    assert mail.sent == []


async def test_a_direct_call_that_waits_in_its_process_goes_on_soon_after_the_decision(
    active: ActiveRun,
) -> None:
    ledger, times = active.ledger, list[datetime]()

    class DecidedAtTheThirdWait(ManualClock):
        async def wait_until(self, instant: datetime) -> None:
            times.append(instant)
            self.set(instant)
            if len(times) == 3:
                run_id = active.granted.run_id
                await claims.decide_approval(ledger, run_id, None, approve=True, by="ann (cli)")

    with provider() as fake_provider:
        run = AskingRun(active, fake_provider, Mail().tool)
        await run.goes_on(sends("a"))
        row = await active.row()
        key = claim_requests.flow_key("f")
        given = ClaimRequest(key, "agent-prompt", "direct", row.due, "h", row.parameters)
        clock = DecidedAtTheThirdWait(ledger.now())
        granted = await claim.wait_for_claim(ledger, given, clock)
    assert isinstance(granted, Granted)
    assert times[2] - times[0] == 2 * claim_effects.DECISION_INTERVAL


@pytest.mark.parametrize("expired", [False, True])
async def test_the_model_reads_that_a_call_was_refused_and_why(
    active: ActiveRun, expired: bool
) -> None:
    mail = Mail()
    with provider() as fake_provider:
        run = AskingRun(active, fake_provider, mail.tool)
        await run.goes_on(sends("a"), "I did not.")
        if expired:
            active.query("UPDATE approvals SET deadline = asked_at")
            active.query("UPDATE runs SET until = queued_at")
            await run.is_claimed()
        else:
            await run.is_decided(approve=False, reason="wrong address")
        ended = await run.goes_on()
        words = "no person decided" if expired else "ann (cli) rejected it. The reason: wrong"
        assert words in str(fake_provider.requests[-1].body)
        assert len(fake_provider.requests) == 2
    assert isinstance(ended, Outcome) and ended.output == "I did not."
    assert mail.sent == []
    row = await active.row()
    assert row.status == "succeeded" and "mail failed" in row.warnings[0]
    _, call, _ = await recorded(active)
    assert (call.status, call.repeatable) == ("failed", True)


async def test_a_refusal_is_replayed_by_a_retry_and_nobody_is_asked_again(
    active: ActiveRun,
) -> None:
    mail = Mail()
    with provider() as fake_provider:
        run = AskingRun(active, fake_provider, mail.tool)
        await run.goes_on(sends("a"), HttpStatus(503, "Busy."), "Well.")
        await run.is_decided(approve=False)
        assert isinstance(await run.goes_on(), RetryAt)  # the provider was busy
        active.query("UPDATE runs SET until = queued_at")
        await run.is_claimed()
        assert run.number == 2
        ended = await run.goes_on()
    assert isinstance(ended, Outcome) and ended.output == "Well."
    assert mail.sent == [] and len(await run.asked()) == 1


async def test_calls_one_after_the_other_are_asked_about_one_after_the_other(
    active: ActiveRun,
) -> None:
    mail = Mail()
    with provider() as fake_provider:
        run = AskingRun(active, fake_provider, mail.tool)
        await run.goes_on(sends("a"), sends("b"), "Both.")
        await run.is_decided()
        assert isinstance(await run.goes_on(), RetryAt)
        assert mail.sent == ["a"]
        await run.is_decided()
        ended = await run.goes_on()
        assert len(fake_provider.requests) == 3
    assert isinstance(ended, Outcome) and ended.output == "Both."
    assert mail.sent == ["a", "b"]
    assert [each.position for each in await run.asked()] == ["1.1", "2.1"]
    row = await active.row()
    assert row.attempts == 1


async def test_parallel_calls_are_asked_about_in_their_order_and_each_is_made_once(
    active: ActiveRun,
) -> None:
    mail = Mail()
    with provider() as fake_provider:
        run = AskingRun(active, fake_provider, mail.tool)
        await run.goes_on(replace(sends("a"), more=({"text": "b"},)), "Both.")
        assert mail.sent == []
        await run.is_decided()
        assert isinstance(await run.goes_on(), RetryAt)
        assert mail.sent == ["a"]
        await run.is_decided(approve=False)
        assert isinstance(await run.goes_on(), Outcome)
        assert len(fake_provider.requests) == 2
    assert mail.sent == ["a"]
    asked = [(each.position, each.status) for each in await run.asked()]
    assert asked == [("1.1", "approved"), ("1.2", "rejected")]


async def test_another_call_than_the_approved_one_is_asked_about_anew(active: ActiveRun) -> None:
    """The operator changes the model between the question and the decision."""
    mail = Mail()
    with provider() as fake_provider:
        run = AskingRun(active, fake_provider, mail.tool)
        await run.goes_on(sends("a"))
        await run.is_decided()

        async def other_model() -> Outcome:
            asked = request(tools=run.tools, journal=journal.current(), timeout=100.0)
            made = agent(fake_provider, model="openai:gpt-6-sol")
            return Outcome(Status.SUCCEEDED, output=(await made.answer(asked)).text)

        run.act = other_model  # type: ignore[method-assign]
        assert isinstance(await run.goes_on(sends("a"), "Done."), RetryAt)
        assert mail.sent == []  # the same words of another model are another call
        first, second = await run.asked()
        assert (first.status, second.status) == ("approved", "open")
        await run.is_decided()
        ended = await run.goes_on()
    assert isinstance(ended, Outcome) and ended.output == "Done."
    assert mail.sent == ["a"]


class Killed(BaseException):
    """The end of a process, which runs no handler of errors."""


async def test_a_killed_process_asks_again_only_what_was_not_recorded(active: ActiveRun) -> None:
    """The process dies before the question is written, and after the approved call has begun."""
    active.query("UPDATE runs SET parameters = json_set(parameters, '$.policy.on_lost', 'rerun')")
    mail = Mail()
    with provider() as fake_provider:
        run = AskingRun(active, fake_provider, mail.tool)
        fake_provider.script = [sends("a"), "Done."]
        with (
            journal.recording(active.ledger, active.granted, 1, SYSTEM_CLOCK),
            pytest.raises(ApprovalNeeded),
        ):
            await run.act()
        assert await run.asked() == []  # killed here: the old state

        await lost(run)
        await run.goes_on()
        (approval,) = await run.asked()
        assert approval.status == "open" and len(fake_provider.requests) == 1
        await run.is_decided()

        def killed() -> None:
            raise Killed

        run.tools = (replace(Mail(before=killed).tool, needs_approval=lambda: True),)
        with (
            journal.recording(active.ledger, active.granted, run.number, SYSTEM_CLOCK),
            pytest.raises(Killed),
        ):
            await run.act()
        await lost(run)
        run.tools = (replace(mail.tool, needs_approval=lambda: True),)
        await run.goes_on()
        assert journal.UNKNOWN in str(fake_provider.requests[-1].body)
    assert mail.sent == [] and len(await run.asked()) == 1


async def lost(run: AskingRun) -> None:
    granted = run.active.granted
    await claims.holder_died(run.active.ledger, granted.run_id, granted.fence, "killed")
    run.active.query("UPDATE runs SET until = queued_at")
    await run.is_claimed()


async def test_without_a_ledger_nothing_is_called_and_the_run_asks_nobody(
    active: ActiveRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    mail = Mail()

    async def away(*_: Any) -> None:
        raise LedgerUnreachable("here", "it is away")

    monkeypatch.setattr(claims, "wait_for_approval", away)
    monkeypatch.setattr(recording, "FIRST_RETRY_DELAY", TIMING.run_lease * 2)
    with provider() as fake_provider:
        run = AskingRun(active, fake_provider, mail.tool)
        with pytest.raises(recording.OutcomeUnwritten):
            await run.goes_on(sends("a"))
    assert mail.sent == [] and (await active.row()).status == "running"


async def test_a_call_without_a_journal_is_refused(active: ActiveRun) -> None:
    mail = Mail()
    with provider() as fake_provider:
        fake_provider.script = [sends("a"), "No."]
        tool = replace(mail.tool, needs_approval=lambda: True)
        await agent(fake_provider).answer(request(tools=(tool,), timeout=100.0))
        assert "no person can be asked" in str(fake_provider.requests[-1].body)
    assert mail.sent == []


async def test_only_the_agent_whose_call_was_approved_goes_on(active: ActiveRun) -> None:
    mail = Mail()
    with provider() as fake_provider:
        run = AskingRun(active, fake_provider, mail.tool)

        async def fallback() -> Outcome:
            steps = journal.current()
            asked = request(tools=run.tools, journal=steps, timeout=100.0, fallback=1)
            return Outcome(Status.SUCCEEDED, (await agent(fake_provider).answer(asked)).text)

        run.act = fallback  # type: ignore[method-assign]
        await run.goes_on(sends("a"))
        await run.is_decided()
        with journal.recording(active.ledger, active.granted, 1, SYSTEM_CLOCK) as steps:
            assert await steps.acting_agent() == 1


# --- which tools


def test_an_entry_names_a_server_a_tool_or_several() -> None:
    names = ("mail.send", "mail.read", "mailbox.send", "daybook.cron_add", "reindex")
    expected = {
        "mail": ["mail.send", "mail.read"],
        "mail.send": ["mail.send"],
        "*.send": ["mail.send", "mailbox.send"],
        "daybook": ["daybook.cron_add"],
        "reindex": ["reindex"],
        "*": [*names],
    }
    found = {entry: [n for n in names if matches(n, entry)] for entry in expected}
    assert found == expected


async def test_own_tools_need_an_approval_by_their_full_names() -> None:
    own = tuple(replace(Mail().tool, name=name) for name in ("cron_add", "cron_list"))
    selection = ToolSelection("brief", own=own, approve=("daybook.cron_add",))
    async with agent_tools.open_tools(selection, "key", Actor(), 5.0) as tools:
        assert [(each.name, each.needs_approval()) for each in tools] == [
            *[("cron_add", True), ("cron_list", False)],
        ]


async def test_a_misspelled_tool_fails_the_run_before_the_agent_is_asked() -> None:
    selection = ToolSelection("brief", own=(Mail().tool,), expected=(("approve", "daybook.maill"),))
    with pytest.raises(AgentMisconfigured, match=r'"daybook.maill" names no tool .*daybook.mail'):
        async with agent_tools.open_tools(selection, "key", Actor(), 5.0):
            pass


def test_a_program_cannot_wait_for_a_person() -> None:
    refuse = agent_request._refuse_approvals
    with pytest.raises(AgentMisconfigured, match=r"mail\.send cannot be approved"):
        refuse("a", [], ["mail.send"], ["mail.send"])
    with pytest.raises(AgentMisconfigured, match=r"mail\.\* cannot"):
        refuse("a", ["mail"], [], ["mail.*"])  # of the owner's limits
    refuse("a", ["search"], [], ["mail.*"])


def test_the_entries_of_a_job_that_asks_an_agent_name_tools() -> None:
    now = SYSTEM_CLOCK.now()
    given: dict[str, Any] = {"now": now, "on_demand": True, "approve": ["mail.send"]}
    assert new_job(prompt="x", **given).policy.approve == ("mail.send",)
    for wrong in ("https://a.example", "send mail", "x" * 300, "", " "):
        with pytest.raises(InvalidInput, match="approve"):
            new_job(prompt="x", **(given | {"approve": [wrong]}))
        with pytest.raises(InvalidInput, match="approve"):
            new_job(prompt="x", **(given | {"approve": ["mail", wrong]}))
    job = new_job(prompt="x", **given)
    assert edit(job, {"approve": [""]}, now=now).policy.approve == ()  # "pass '' to clear"
    with pytest.raises(InvalidInput, match="approve: is blank"):
        edit(job, {"approve": ["mail", ""]}, now=now)
    with pytest.raises(InvalidInput, match="approve_within"):
        new_job(prompt="x", approve_within="soon", **given)
    _, policy, _ = read_parameters("agent-prompt", {"prompt": "x"})
    assert policy == Policy()


# --- the answer


async def answering(active: ActiveRun, fake_provider: Provider, *script: Step) -> AskingRun:
    """Return a run whose answer is asked about, after the attempt with this script."""
    active.granted = replace(
        active.granted,
        parameters={**active.granted.parameters, "policy": {"approve": ["answer"], "retries": 3}},
    )
    approve = "json_set(parameters, '$.policy.approve', json('[\"answer\"]'))"
    active.query(f"UPDATE runs SET parameters = {approve}")
    run = AskingRun(active, fake_provider)
    paused = await run.goes_on(*script)
    assert isinstance(paused, RetryAt)
    return run


async def test_an_answer_is_recorded_only_after_its_approval_and_nobody_is_asked_twice(
    active: ActiveRun,
) -> None:
    with provider() as fake_provider:
        run = await answering(active, fake_provider, Answer("Sell all.", input_tokens=70))
        row = await active.row()
        assert (row.status, row.waits_for, row.output) == ("waiting", "approval", None)
        (approval,) = await run.asked()
        assert (approval.tool, approval.input, approval.status) == ("answer", "Sell all.", "open")

        await run.is_decided()
        ended = await run.goes_on()
        assert len(fake_provider.requests) == 1
    assert isinstance(ended, Outcome) and ended.output == "Sell all."
    row = await active.row()
    assert (row.status, row.output, row.attempts) == ("succeeded", "Sell all.", 1)
    assert row.usage is not None and row.usage["input_tokens"] == 70
    (approval,) = await run.asked()
    assert approval.outcome is None  # the run has it now


@pytest.mark.parametrize("expired", [False, True])
async def test_a_rejected_answer_fails_the_run_and_is_not_in_its_outcome(
    active: ActiveRun, expired: bool
) -> None:
    with provider() as fake_provider:
        run = await answering(active, fake_provider, "Sell all.")
        if expired:
            active.query("UPDATE approvals SET deadline = asked_at")
            active.query("UPDATE runs SET until = queued_at")
            await run.is_claimed()
        else:
            await run.is_decided(approve=False, reason="too bold")
        await run.goes_on()
        assert len(fake_provider.requests) == 1
    row = await active.row()
    error = "the answer was rejected by ann (cli): too bold"
    if expired:
        error = "the answer was not approved: no person decided before the deadline"
    assert (row.status, row.error, row.output) == ("failed", error, None)
    assert "Sell" not in str([active.query("SELECT body FROM outbox WHERE event = 'failed'")])


async def test_an_answer_whose_lease_is_lost_is_not_recorded_without_an_approval(
    active: ActiveRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The late outcome of an attempt that was judged lost is no way around the approval."""
    with provider() as fake_provider:
        run = AskingRun(active, fake_provider)
        active.granted = replace(
            active.granted, parameters={"policy": {"approve": ["answer"]}, "prompt": "x"}
        )

        @asynccontextmanager
        async def lost_at_the_end(*_: Any) -> AsyncIterator[None]:
            yield
            raise LeaseLost("lost")

        monkeypatch.setattr(lease, "keep_lease", lost_at_the_end)
        with pytest.raises(LeaseLost):
            await run.goes_on("Sell all.")
    row = await active.row()
    assert (row.status, row.output) == ("failed", None)


@pytest.mark.parametrize(
    "given", [{"to\0": "eve", "to\ufffd": "ann"}, {"text": "a\0"}, {"n": 1e999}]
)
async def test_a_call_whose_question_would_differ_from_it_is_not_made(
    active: ActiveRun, given: dict[str, Any]
) -> None:
    mail = Mail()
    with provider() as fake_provider:
        run = AskingRun(active, fake_provider, mail.tool)
        ended = await run.goes_on(Answer("", tool="mail", arguments=given), "I could not.")
        assert isinstance(ended, Outcome) and ended.output == "I could not."
        assert "cannot be stored" in str(fake_provider.requests[-1])
    assert await run.asked() == [] and mail.sent == []
