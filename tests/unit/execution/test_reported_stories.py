"""Reports of users of other schedulers about effects that happened twice, and hidden failures.

Each test replays one of them; its docstring says what happened to the user.
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import replace
from typing import Any

import pytest

from daybook.agents.base import Agent, Tool
from daybook.agents.command import CommandAgent, CommandSettings
from daybook.clock import SYSTEM_CLOCK
from daybook.errors import FenceRefused
from daybook.execution import attempt, journal
from daybook.execution.agent_request import PreparedRequest, success_outcome
from daybook.execution.agent_tools import ToolSelection
from daybook.execution.attempt import Act, RetryAt
from daybook.execution.fallback import PreparedAgents
from daybook.execution.handover import Handover
from daybook.ledger.states import Outcome, Status
from daybook.owners import Actor
from daybook.runs import claim_requests, claims, leases
from daybook.runs.claim_requests import ClaimRequest, Granted
from tests.providers import Answer, ModelRequest, provider
from tests.providers import Status as HttpStatus
from tests.unit.agents.asking import agent, request
from tests.unit.execution.conftest import ActiveRun
from tests.unit.execution.test_journal import SCHEMA, Mail, recorded, sends

pytestmark = pytest.mark.anyio


def asks(*agents: Agent, tools: tuple[Tool, ...] = (), timeout: float = 100.0) -> Act:
    """Return the act of a run whose agents are these, the fallback agents last."""

    async def act() -> Outcome:
        prepared = {
            each.name: PreparedRequest(
                each,
                request(timeout=timeout, fallback=position),
                ToolSelection(each.name, own=tools),
                Actor(),
            )
            for position, each in enumerate(agents)
        }
        return success_outcome(await PreparedAgents(prepared).ask(), "Hello")

    return act


async def test_a_retry_of_an_agent_at_its_limit_forgets_no_call_n8n_37779(
    active: ActiveRun,
) -> None:
    """An agent with a limit of rounds and "retry on fail" began its task anew at the limit.

    The retry had forgotten which tools had been called, so it called them again, with a fresh limit
    each time. The run used three requests and two calls instead of one each, and was shown as a
    success. Source: n8n-io/n8n, https://github.com/n8n-io/n8n/issues/37779
    """
    mail = Mail()
    with provider() as fake_provider:
        fake_provider.script = [sends("a"), HttpStatus(503, "Busy."), sends("b"), "Never asked."]
        act = asks(agent(fake_provider, request_limit=2), tools=(mail.tool,))

        async def tried(number: int) -> Outcome | RetryAt:
            return await attempt.run_attempt(
                active.ledger, active.granted, number, act, SYSTEM_CLOCK
            )

        # The provider is busy for a moment. The retry keeps the call, and has one request left.
        assert isinstance(await tried(1), RetryAt)
        active.query("UPDATE runs SET until = queued_at")
        active.granted = await _claimed(active, "f", active.granted.parameters)
        outcome = await tried(await claims.begin(active.ledger, *_held(active.granted)))
        assert len(fake_provider.requests) == 3
    # Three retries are left, and none is used.
    assert isinstance(outcome, Outcome)
    assert (outcome.status, outcome.output) == (Status.FAILED, None)
    assert "request limit" in str(outcome.error)
    assert mail.sent == ["a", "b"]
    assert ((await active.row()).status, (await active.row()).attempts) == ("failed", 2)


async def test_a_call_that_takes_long_is_not_made_beside_itself_langgraph_7417(
    active: ActiveRun,
) -> None:
    """A call of a tool that took longer than three minutes was made again while it still ran.

    The platform took the worker for dead, and began at the last checkpoint once more. Both calls
    succeeded, at two to three times the cost, and nothing said so. Source: langchain-ai/langgraph,
    https://github.com/langchain-ai/langgraph/issues/7417
    """
    began, may_end, made = asyncio.Event(), asyncio.Event(), list[str]()

    async def research(arguments: dict[str, Any]) -> str:
        made.append(arguments["text"])
        began.set()
        await may_end.wait()
        return "found"

    tool = Tool("research", "Takes long.", SCHEMA, research)
    prompts = list[str]()

    def model(asked: ModelRequest) -> Answer:
        if asked.messages[-1][0] == "user":
            return Answer("", tool="research", arguments={"text": "a"})
        prompts.append(asked.prompt)
        return Answer("Done.")

    policy = {"on_lost": "rerun", "retries": 1, "retry_delay": "1s"}
    with provider() as fake_provider:
        fake_provider.script = [model]
        act = asks(agent(fake_provider), tools=(tool,))

        async def begun() -> tuple[Granted, asyncio.Task[Outcome | RetryAt]]:
            granted = await _claimed(active, "long", {"prompt": "Do it", "policy": policy})
            number = await claims.begin(active.ledger, *_held(granted))
            line = os.open(os.devnull, os.O_WRONLY)
            of_worker = Handover("", *_held(granted), "here:1", line)
            running = attempt.run_attempt(
                active.ledger, granted, number, act, SYSTEM_CLOCK, given=of_worker
            )
            return granted, asyncio.create_task(running)

        first, slow = await begun()
        await began.wait()
        # Its worker is silent, so the run is declared lost, and repeated as its job says.
        active.query(
            "UPDATE runs SET lease_until = '2020-01-01', suspected_at = '2020-01-01' "
            f"WHERE id = '{first.run_id}'"
        )
        assert len(await leases.expire_all(active.ledger)) == 1
        active.query("UPDATE runs SET until = queued_at WHERE status = 'waiting'")
        second, repeated = await begun()
        outcome = await repeated
        # The call ends after all. It is the only one, and its process records nothing any more.
        may_end.set()
        with pytest.raises(FenceRefused):
            await slow
    assert isinstance(outcome, Outcome)
    assert (outcome.status, outcome.output) == (Status.SUCCEEDED, "Done.")
    assert made == ["a"]
    assert [journal.UNKNOWN in each for each in prompts] == [True]
    assert len(outcome.warnings) == 1
    seen = ActiveRun(active.path, active.ledger, second)
    row = await seen.row()
    assert (row.status, row.output, row.attempts) == ("succeeded", "Done.", 2)
    calls = [each.status for each in await recorded(seen) if each.kind == "tool"]
    assert calls == ["unknown"]


@pytest.mark.parametrize(
    ("program", "timeout", "status"),
    [
        ("import sys; print('pushing'); sys.exit(1)", 100.0, Status.FAILED),
        ("import signal; signal.pause()", 0.3, Status.TIMED_OUT),
    ],
)
async def test_a_good_report_about_a_failed_script_is_no_success_hermes_36845(
    active: ActiveRun, program: str, timeout: float, status: Status
) -> None:
    """A nightly backup could not push for 24 days, and the scheduler showed `ok` each day.

    Its script failed or timed out; then a model was asked, and wrote a clean report about the
    failure, whose success was recorded as that of the job. Source: NousResearch/hermes-agent,
    https://github.com/NousResearch/hermes-agent/issues/36845
    """
    script = CommandSettings(command=[sys.executable, "-c", program])
    with provider() as fake_provider:
        fake_provider.script = ["The backup could not be pushed."]
        act = asks(
            CommandAgent("backup", script),
            replace(agent(fake_provider), name="reporter"),
            timeout=timeout,
        )
        outcome = await attempt.run_attempt(
            active.ledger,
            active.granted,
            4,
            act,
            SYSTEM_CLOCK,  # the last one that is allowed
        )
        assert fake_provider.requests == []
    assert isinstance(outcome, Outcome)
    row = await active.row()
    assert (outcome.status, row.status, row.agent) == (status, status.value, None)


def _held(granted: Granted) -> tuple[str, int]:
    return granted.run_id, granted.fence


async def _claimed(active: ActiveRun, run: str, given: Any) -> Granted:
    request = ClaimRequest(
        claim_requests.flow_key(run), "agent-prompt", "direct", SYSTEM_CLOCK.now(), "here:1", given
    )
    granted = await claims.claim(active.ledger, request)
    assert isinstance(granted, Granted), granted
    return granted
