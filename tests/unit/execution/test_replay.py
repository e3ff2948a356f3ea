"""Replay within one run: a further attempt continues from the steps of the earlier ones.

Three reports of duplicated effects are replayed here: `agno-agi/agno` issue 10366 (retries execute
calls again that had succeeded), `openclaw/openclaw` issue 43482 (a fallback model repeats the calls
of the agent before it) and `pydantic/pydantic-ai` issue 6907 (tool results that never replay).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from daybook.agents.base import AgentReply, Tool
from daybook.agents.model import ModelAgent
from daybook.clock import SYSTEM_CLOCK
from daybook.errors import AgentFailed, AgentMisconfigured, AgentTemporary
from daybook.execution import journal
from daybook.execution.agent_request import PreparedRequest
from daybook.execution.agent_tools import ToolSelection
from daybook.execution.fallback import PreparedAgents
from daybook.owners import Actor
from daybook.runs import claim_requests, claims
from daybook.runs.claim_requests import Granted
from tests.providers import Answer, Cut, Provider, Step, provider
from tests.providers import Status as HttpStatus
from tests.unit.agents.asking import agent, request
from tests.unit.execution.conftest import ActiveRun
from tests.unit.execution.test_journal import Mail, recorded, sends

pytestmark = pytest.mark.anyio

BUSY = HttpStatus(503, "Busy.")


async def attempted(
    active: ActiveRun,
    number: int,
    fake_provider: Provider,
    *script: Step,
    tools: tuple[Tool, ...] = (),
    protocol: str = "openai",
    repeatable: bool = False,
    **settings: Any,
) -> AgentReply:
    """Make one attempt with this script."""
    fake_provider.script = list(script)
    with journal.recording(active.ledger, active.granted, number, SYSTEM_CLOCK):
        current = journal.current()
        asked = request(tools=tools, repeatable=repeatable, journal=current, timeout=100.0)
        return await agent(fake_provider, protocol, **settings).answer(asked)


async def failed_after_a_call(active: ActiveRun, fake_provider: Provider, mail: Mail) -> None:
    """Make a first attempt that sends a mail, then finds the provider busy."""
    with pytest.raises(AgentTemporary):
        await attempted(active, 1, fake_provider, sends("a"), BUSY, tools=(mail.tool,))
    assert mail.sent == ["a"]
    fake_provider.requests.clear()


async def test_a_retry_continues_after_the_calls_of_the_first_attempt_agno_10366(
    active: ActiveRun,
) -> None:
    mail = Mail()
    with provider() as fake_provider:
        await failed_after_a_call(active, fake_provider, mail)
        active.query("UPDATE steps SET started_at = '2999-01-01 00:00:00'")  # the clock moved

        reply = await attempted(active, 2, fake_provider, "Done.", tools=(mail.tool,))

        assert [each.prompt for each in fake_provider.requests] == ["sent a"]
    assert (reply.text, mail.sent) == ("Done.", ["a"])
    # The first attempt has paid for the first request.
    assert reply.usage is not None
    assert (reply.usage["requests"], reply.usage["input_tokens"]) == (1, 10)
    assert "tool_calls" not in reply.usage
    assert [(each.position, each.attempt, each.status) for each in await recorded(active)] == [
        ("1", 1, "succeeded"),
        ("1.1", 1, "succeeded"),
        ("2", 1, "failed"),
        ("2", 2, "succeeded"),
    ]


async def test_the_result_of_a_tool_is_replayed_and_not_the_call_pydantic_ai_6907(
    active: ActiveRun,
) -> None:
    """A failed call is replayed too: the model has read its error."""
    calls: list[str] = []

    async def call(arguments: dict[str, Any]) -> str:
        calls.append(arguments["text"])
        if arguments["text"] == "bad":
            raise AgentFailed("no such address")
        return "x" * 10_000

    tool = Tool("mail", "", {"type": "object"}, call)
    with provider() as fake_provider:
        script = (sends("bad"), sends("good"), BUSY)
        with pytest.raises(AgentTemporary):
            await attempted(active, 1, fake_provider, *script, tools=(tool,))
        await attempted(active, 2, fake_provider, "Done.", tools=(tool,))
        first, *_, last = fake_provider.requests[2:]
        assert first.body["messages"] == last.body["messages"]
        assert "no such address" in str(last.body)
        assert "x" * 10_000 in str(last.body)
    assert calls == ["bad", "good"]


async def test_a_reply_that_the_ledger_cannot_store_as_it_is_is_no_divergence(
    active: ActiveRun,
) -> None:
    async def call(arguments: dict[str, Any]) -> str:
        return "nul \x00"

    tool = Tool("mail", "", {"type": "object"}, call)
    with provider() as fake_provider:
        with pytest.raises(AgentTemporary):
            await attempted(active, 1, fake_provider, sends("a"), sends("b"), BUSY, tools=(tool,))
        fake_provider.requests.clear()
        await attempted(active, 2, fake_provider, "Done.", tools=(tool,))
        assert len(fake_provider.requests) == 1
    assert not any(each.diverged for each in await recorded(active))


async def test_the_agent_that_made_calls_continues_and_no_other_openclaw_43482(
    active: ActiveRun,
) -> None:
    mail = Mail()
    with provider() as first, provider() as second:

        def prepared(name: str, fake_provider: Provider, position: int) -> PreparedRequest:
            made = ModelAgent(name, agent(fake_provider).settings)
            asked = request(timeout=100.0, fallback=position)
            return PreparedRequest(made, asked, ToolSelection(name, own=(mail.tool,)), Actor())

        agents = PreparedAgents({"a": prepared("a", first, 0), "b": prepared("b", second, 1)})
        first.script, second.script = [BUSY], [sends("a"), BUSY]
        with (
            journal.recording(active.ledger, active.granted, 1, SYSTEM_CLOCK),
            pytest.raises(AgentTemporary) as busy,
        ):
            await agents.ask()
        assert busy.value.allows_retry

        removed = PreparedAgents({"a": agents.agents["a"], "b": AgentMisconfigured("removed")})
        with (
            journal.recording(active.ledger, active.granted, 2, SYSTEM_CLOCK),
            pytest.raises(AgentMisconfigured, match="removed"),
        ):
            await removed.ask()

        first.script, second.script = [sends("again")], ["Done."]
        with journal.recording(active.ledger, active.granted, 2, SYSTEM_CLOCK):
            answer = await agents.ask()
        assert len(first.requests) == 1
    assert (answer.reply.text, answer.reply.agent, mail.sent) == ("Done.", "b", ["a"])


async def test_another_run_makes_all_requests_anew(active: ActiveRun) -> None:
    mail = Mail()
    with provider() as fake_provider:
        await failed_after_a_call(active, fake_provider, mail)
        given = claim_requests.ClaimRequest(
            claim_requests.flow_key("next"),
            "agent-prompt",
            "direct",
            SYSTEM_CLOCK.now(),
            "here:1",
            active.granted.parameters,
        )
        granted = await claims.claim(active.ledger, given)
        assert isinstance(granted, Granted)
        await claims.begin(active.ledger, granted.run_id, granted.fence)
        other = ActiveRun(active.path, active.ledger, granted)
        await attempted(other, 2, fake_provider, sends("a"), "Done.", tools=(mail.tool,))
        assert len(fake_provider.requests) == 2
    assert mail.sent == ["a", "a"]


async def test_a_response_that_caused_the_failure_is_not_replayed(active: ActiveRun) -> None:
    with provider() as fake_provider:
        with pytest.raises(AgentTemporary, match="complete"):
            script = Cut(length=False)
            await attempted(active, 1, fake_provider, script, protocol="anthropic")
        reply = await attempted(active, 2, fake_provider, "Complete.", protocol="anthropic")
        assert len(fake_provider.requests) == 2
    assert reply.text == "Complete."


# --- divergence


async def test_another_model_before_any_call_is_asked_anew_and_the_run_says_why(
    active: ActiveRun,
) -> None:
    look = Mail(read_only=True)
    with provider() as fake_provider:
        await failed_after_a_call(active, fake_provider, look)
        settings: dict[str, Any] = {"model": "openai:gpt-6-sol"}
        script = (sends("b"), "Done.")
        await attempted(active, 2, fake_provider, *script, tools=(look.tool,), **settings)
        assert len(fake_provider.requests) == 2
    assert look.sent == ["a", "b"]
    diverged = [each for each in await recorded(active) if each.diverged]
    assert [each.diverged for each in diverged] == [
        "attempt 1 asked otherwise: the model was openai:gpt-6-luna and is openai:gpt-6-sol"
    ]
    assert [(each.position, each.replaced) for each in await recorded(active)] == [
        *[("1", True), ("1.1", True), ("2", True)],
        *[("1", False), ("1.1", False), ("2", False)],
    ]


@pytest.mark.parametrize("idempotent", [False, True])
async def test_after_a_divergence_a_call_that_could_repeat_an_effect_stops_the_run(
    active: ActiveRun, idempotent: bool
) -> None:
    mail = Mail()
    with provider() as fake_provider:
        await failed_after_a_call(active, fake_provider, mail)
        given: dict[str, Any] = {"tools": (mail.tool,), "system_prompt": "Be brief."}
        script = (sends("b"), "Done.")
        if idempotent:
            await attempted(active, 2, fake_provider, *script, repeatable=True, **given)
        else:
            words = r"stopped before step 1\.1: .*the system prompt has changed.*had called mail"
            with pytest.raises(AgentFailed, match=words) as stopped:
                await attempted(active, 2, fake_provider, *script, **given)
            assert not stopped.value.allows_retry
    assert mail.sent == (["a", "b"] if idempotent else ["a"])


async def test_a_tool_that_is_gone_and_one_that_is_new_are_named(active: ActiveRun) -> None:
    mail = Mail()
    with provider() as fake_provider:
        await failed_after_a_call(active, fake_provider, mail)
        other = replace(mail.tool, name="letter")
        with pytest.raises(AgentFailed, match="the tool letter is new, the tool mail is gone"):
            script = Answer("", tool="letter", arguments={"text": "b"})
            await attempted(active, 2, fake_provider, script, tools=(other,))
    assert mail.sent == ["a"]


# --- calls without a reply


async def interrupted(active: ActiveRun, fake_provider: Provider, mail: Mail, number: int) -> None:
    """Make an attempt whose process dies during the call."""

    class Killed(BaseException):
        pass

    async def call(arguments: dict[str, Any]) -> str:
        await mail.call(arguments)
        raise Killed

    with pytest.raises(Killed):
        tools = (replace(mail.tool, call=call),)
        await attempted(active, number, fake_provider, sends("a"), tools=tools)
    active.query("UPDATE steps SET status = 'unknown' WHERE status = 'running'")


async def test_a_call_without_a_reply_is_not_repeated_and_the_model_reads_that(
    active: ActiveRun,
) -> None:
    mail = Mail()
    with provider() as fake_provider:
        await interrupted(active, fake_provider, mail, 1)
        # The model tries the same again, then something else.
        script = (sends("a"), sends("b"), BUSY)
        with pytest.raises(AgentTemporary):
            await attempted(active, 2, fake_provider, *script, tools=(mail.tool,))
        await attempted(active, 3, fake_provider, "Done.", tools=(mail.tool,))
        prompts = [each.prompt for each in fake_provider.requests[1:]]
    assert [journal.UNKNOWN in each or each for each in prompts] == [True, True, "sent b", "sent b"]
    assert mail.sent == ["a", "b"]


async def test_an_idempotent_call_without_a_reply_is_made_once_more(active: ActiveRun) -> None:
    mail = Mail(idempotent=True)
    with provider() as fake_provider:
        await interrupted(active, fake_provider, mail, 1)
        await interrupted(active, fake_provider, mail, 2)
        await attempted(active, 3, fake_provider, "Done.", tools=(mail.tool,))
        assert journal.NOT_ANSWERED.format(count=2) in fake_provider.requests[-1].prompt
    assert mail.sent == ["a", "a"]
