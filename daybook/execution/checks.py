"""The gate of a run, asked between claim and begin (requirements 42 and 43).

========  ============================================  ======================================
asked     open                                          closed
========  ============================================  ======================================
tool      true, or `{"action": "run"}`                  false, or `{"action": "skip"}`
prompt    `{"action": "run", "reason": "..."}`          `{"action": "skip", "reason": "..."}`
command   exit code 0                                   exit code 1; its first line is why
========  ============================================  ======================================

Closed, the run ends as skipped, with the reason. Everything else is no answer, and fails the run:
an error of what was asked, other words, JSON of another form, a tool call in the place of an
answer. So a gate that is broken is seen, and nothing happens in silence.

It is asked before the first attempt only, and tried once: an error that may pass fails the run as
well. What it took is the run's. An agent is asked without a conversation and without tools.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from prefect.client.orchestration import get_client

from daybook import owners
from daybook.agents import documents, json_text, process
from daybook.agents.base import Agent, AgentReply, AgentRequest
from daybook.agents.model import ModelAgent
from daybook.errors import AgentError, DaybookError, Unreachable
from daybook.execution import agent_lookup, conversation
from daybook.execution.reachable import guard_of
from daybook.jobs import policy, provenance
from daybook.jobs.checks import Check
from daybook.ledger.states import Status
from daybook.processes import environment, locations
from daybook.resources.secrets import PrefectSecrets
from daybook.runs import usage
from daybook.runs.claim_requests import Granted
from daybook.tools import calls
from daybook.tools.server_blocks import PrefectServers

log = logging.getLogger(__name__)

OPEN, CLOSED = 0, 1
"""What a command's exit codes mean."""
LONGEST_QUOTED = 100
"""Characters of an answer that is not understood, in the error."""
LONGEST_REASON = 500

_ANSWER = (
    "Decide whether there is anything to do. Call no tool and do none of it yourself. Answer with "
    'this JSON only, without any other words: {"action": "run", "reason": "<why, in a sentence>"} '
    'where there is, or {"action": "skip", "reason": "<why, in a sentence>"} where there is not.'
)
_OPENING = re.compile(r"(`{3,}+|~{3,}+)[ \t]*+(?:\w++[ \t]*+)?\r?\n")


@dataclass(frozen=True)
class Verdict:
    """Whether the run may go on, why not, and what it took to find out."""

    opens: bool
    reason: str = ""
    usage: dict[str, Any] | None = None

    def charged(self, granted: Granted) -> Granted:
        """What is granted after this; raises `CheckFailed` where no token is left."""
        if granted.tokens is None:
            return granted
        used = usage.tokens(self.usage)
        left = granted.tokens - used
        if used and left <= 0:
            raise CheckFailed(
                f"tokens: its gate took {used:,} of the {granted.tokens:,} that were left",
                self.usage,
            )
        return replace(granted, tokens=left)


UNASKED = Verdict(opens=True)
"""Of a run that has no gate, or is past it."""

Gate = Callable[[Granted], Awaitable[Verdict]]
"""Asks; raises `CheckFailed`, and what cannot be reached."""


class CheckFailed(DaybookError):
    """The gate gave no answer that is understood. ``usage`` is what it took all the same."""

    code = "check_failed"

    def __init__(self, message: str, usage: dict[str, Any] | None = None) -> None:
        self.usage = usage
        super().__init__(message)


async def of_job(granted: Granted) -> Verdict:
    """Ask what the run's policy says; `UNASKED` where it says nothing."""
    told = policy.of_run(granted.parameters)
    if not told.check:
        return UNASKED
    seconds = told.timeout.total_seconds()
    return await named("check", lambda: _asked(told.check, granted, seconds))


async def named(gate: str, ask: Callable[[], Awaitable[Verdict]]) -> Verdict:
    """What ``ask`` finds; its reasons and its errors begin with the gate's name."""
    try:
        verdict = await ask()
    except Unreachable:  # of Prefect or the ledger, which passes
        raise
    except DaybookError as error:
        raise CheckFailed(f"{gate}: {error}", getattr(error, "usage", None)) from None
    except ValueError as error:
        raise CheckFailed(f"{gate}: {error}") from None
    why = " ".join(verdict.reason.split())[:LONGEST_REASON]
    log.info("the %s is %s: %s", gate, "open" if verdict.opens else "closed", why)
    return replace(verdict, reason=f"{gate}: {why}")


async def _asked(check: Check, granted: Granted, seconds: float) -> Verdict:
    if check.tool:
        return await _tool(check, granted, seconds)
    if check.prompt:
        async with get_client() as client:
            agent = await agent_lookup.agent(client, check.agent or _own_agent(granted))
        return await ask_agent(agent, conversation.rendered(granted, check.prompt), granted)
    return await _command(check, granted, seconds)


def _own_agent(granted: Granted) -> str:
    return str(granted.parameters.get("agent") or documents.DEFAULT)


def _key(granted: Granted) -> str:
    """The occurrence as the gate's: with the run's own it would be told the same as that."""
    return f"{granted.occurrence}#check"


# --- an agent


async def ask_agent(
    agent: Agent, prompt: str, granted: Granted, took: dict[str, Any] | None = None
) -> Verdict:
    """Ask an agent whether there is anything to do; ``took`` is what was asked before this.

    Raises `CheckFailed`.
    """
    request = AgentRequest(
        prompt=f"{prompt}\n\n{_ANSWER}",
        timeout=policy.of_run(granted.parameters).timeout.total_seconds(),
        occurrence=_key(granted),
        job=granted.job.row.name if granted.job else None,
        due=granted.due,
        tokens=granted.tokens,
    )
    try:
        reply = await _once(agent).answer(request)
    except AgentError as error:
        raise CheckFailed(str(error), usage.total((took, error.usage))) from None
    took = usage.total((took, reply.usage))
    try:
        return replace(_said(reply), usage=took)
    except CheckFailed as error:
        raise CheckFailed(str(error), took) from None


def _said(reply: AgentReply) -> Verdict:
    if reply.cut:
        raise CheckFailed(f"the answer of agent {reply.agent} was cut: {reply.cut}")
    try:
        value = json_text.read(_unfenced(reply.text))
    except ValueError as error:
        said = _quoted(reply.text)
        told = f"the answer of agent {reply.agent} is no JSON ({error}); it was {said}"
        raise CheckFailed(told) from None
    return _decided(value, f"agent {reply.agent}")


def _once(agent: Agent) -> Agent:
    """The agent without tools, and without a second request where it calls one all the same."""
    if isinstance(agent, ModelAgent):
        settings = agent.settings.model_copy(update={"request_limit": 1})
        return replace(agent, settings=settings)
    return agent


def _unfenced(text: str) -> str:
    """What stands in the fenced block, where the whole text is one."""
    whole = text.strip()
    opening = _OPENING.match(whole)
    if opening is None or not (inside := whole[opening.end() :]).endswith(opening[1]):
        return text
    inside = inside.removesuffix(opening[1]).rstrip(" \t")
    return inside.removesuffix("\n").removesuffix("\r") if inside.endswith("\n") else inside


def _decided(value: Any, whose: str) -> Verdict:
    """What a gate's JSON says; words of another form are no answer."""
    match value:
        case {"action": "run" | "skip" as action}:
            reason = value.get("reason") or ""
            if isinstance(reason, str):
                return Verdict(action == "run", reason or f"{whose} gave no reason")
    legal = 'legal is {"action": "run" or "skip", "reason": "..."}'
    raise CheckFailed(f"the answer of {whose} is not understood: {_quoted(value)}; {legal}")


def _quoted(value: object) -> str:
    said = repr(" ".join(value.split()) if isinstance(value, str) else value)
    return said if len(said) <= LONGEST_QUOTED else f"{said[:LONGEST_QUOTED]}…"


# --- a tool


async def _tool(check: Check, granted: Granted, seconds: float) -> Verdict:
    guard = guard_of(granted, provenance.CHECK)
    async with get_client() as client:
        prepared = await calls.prepare(
            check.tool,
            check.params,
            _key(granted),
            PrefectServers(client),
            PrefectSecrets(client),
            guard,
        )
    outcome = (await calls.call(prepared, timeout=seconds)).outcome
    if outcome.status is not Status.SUCCEEDED:
        raise CheckFailed(outcome.error or outcome.reason)
    said = outcome.result["result"] if isinstance(outcome.result, Mapping) else None
    return _of_tool(said, f"the tool {check.tool}")


def _of_tool(value: Any, whose: str) -> Verdict:
    """Of what a tool gave: a server has no way but an object or a text to say true."""
    match value:
        case bool():
            return Verdict(value, f"{whose} says {'yes' if value else 'no'}")
        case {"result": inner, **rest} if not rest:
            return _of_tool(inner, whose)
        case str():
            try:
                read = json_text.read(value)
            except ValueError:
                read = None
            if isinstance(read, (bool, dict)):
                return _of_tool(read, whose)
        case dict():
            return _decided(value, whose)
    legal = 'legal is true, false, or {"action": "run" or "skip", "reason": "..."}'
    raise CheckFailed(f"{whose} answered {_quoted(value)}; {legal}")


# --- a command


async def _command(check: Check, granted: Granted, seconds: float) -> Verdict:
    """Run the operator's program, in a folder of its own, with the least of our environment."""
    if owners.is_agent(_owner(granted)):
        raise CheckFailed("a command is the operator's to write, and the job is an agent's")
    variables = environment.allowed(environment.DEFAULT)
    name = check.command[0]
    with locations.folder("", prefix="daybook-check-") as folder:
        program = locations.program(name, folder, variables)
        try:
            ended = await process.run(
                [program, *check.command[1:]],
                folder=folder,
                environment=variables,
                stdin=None,
                seconds=seconds,
            )
        except OSError as error:
            raise CheckFailed(f"{program} cannot be run: {error.strerror}") from None
    if ended.timed_out:
        raise CheckFailed(f"{name} did not end within {seconds:g} s; it was ended")
    if ended.code not in (OPEN, CLOSED):
        words = ended.errors.decode(errors="replace").strip()[-LONGEST_REASON:]
        said = f"; it said: {words}" if words else ""
        raise CheckFailed(f"{name} ended with exit code {ended.code}{said}")
    lines = ended.output.decode(errors="replace").strip().splitlines()
    why = lines[0] if lines else f"{name} ended with exit code {ended.code}"
    return Verdict(ended.code == OPEN, why)


def _owner(granted: Granted) -> str:
    return granted.job.row.owner if granted.job else owners.USER
