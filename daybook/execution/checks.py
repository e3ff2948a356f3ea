"""The check of a run: decides between claim and begin whether the run continues.

========  ============================================  ======================================
check     run                                           skip
========  ============================================  ======================================
tool      true, or `{"action": "run"}`                  false, or `{"action": "skip"}`
prompt    `{"action": "run", "reason": "..."}`          `{"action": "skip", "reason": "..."}`
command   exit code 0                                   exit code 1; the reason is line one
========  ============================================  ======================================

If the check says skip, the run ends as skipped, with the reason. Anything else is not an answer and
fails the run: an error of the check, other words, JSON of another form, a tool call in place of an
answer. So a broken check is visible and never silent.

The check runs before the first attempt only, and once: a temporary error fails the run as well. Its
usage counts for the run. An agent is asked without a conversation and without tools.
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
from daybook.execution.agent_lookup import guard_of
from daybook.jobs import policy, provenance
from daybook.jobs.checks import Check
from daybook.ledger.states import Status
from daybook.processes import environment, locations
from daybook.resources.secrets import PrefectSecretStore
from daybook.runs import usage
from daybook.runs.claim_requests import Granted
from daybook.tools import calls
from daybook.tools.server_blocks import PrefectServers

log = logging.getLogger(__name__)

RUN_EXIT_CODE, SKIP_EXIT_CODE = 0, 1
"""Meaning of a command's exit codes."""
MAX_QUOTED_CHARACTERS = 100
"""Characters of an unreadable answer that the error quotes."""
MAX_REASON_CHARACTERS = 500

_ANSWER = (
    "Decide whether there is anything to do. Call no tool and do none of it yourself. Answer with "
    'this JSON only, without any other words: {"action": "run", "reason": "<why, in a sentence>"} '
    'if there is, or {"action": "skip", "reason": "<why, in a sentence>"} if there is not.'
)
_OPENING = re.compile(r"(`{3,}+|~{3,}+)[ \t]*+(?:\w++[ \t]*+)?\r?\n")


@dataclass(frozen=True)
class Verdict:
    """Whether the run may continue, why not, and the usage of the check."""

    opens: bool
    reason: str = ""
    usage: dict[str, Any] | None = None

    def charged(self, granted: Granted) -> Granted:
        """Return ``granted`` less the check's tokens. Raise `CheckFailed` if none is left."""
        if granted.tokens is None:
            return granted
        used = usage.tokens(self.usage)
        left = granted.tokens - used
        if used and left <= 0:
            raise CheckFailed(
                f"tokens: the check used {used:,} of the {granted.tokens:,} that were left",
                self.usage,
            )
        return replace(granted, tokens=left)


NO_CHECK = Verdict(opens=True)
"""Verdict for a run without a check, or past it."""

CheckCallable = Callable[[Granted], Awaitable[Verdict]]
"""Runs a check. Raises `CheckFailed`, and errors of an unreachable ledger or Prefect."""


class CheckFailed(DaybookError):
    """The check gave no readable answer. ``usage`` is its usage all the same."""

    code = "check_failed"

    def __init__(self, message: str, usage: dict[str, Any] | None = None) -> None:
        self.usage = usage
        super().__init__(message)


async def check_job(granted: Granted) -> Verdict:
    """Run the check of the run's policy; return `NO_CHECK` if there is none."""
    run_policy = policy.policy_from_parameters(granted.parameters)
    if not run_policy.check:
        return NO_CHECK
    seconds = run_policy.timeout.total_seconds()
    return await run_check("check", lambda: _run(run_policy.check, granted, seconds))


async def run_check(name: str, ask: Callable[[], Awaitable[Verdict]]) -> Verdict:
    """Call ``ask``; prefix its reasons and its errors with the name of the check."""
    try:
        verdict = await ask()
    except Unreachable:  # Prefect or the ledger: a temporary error
        raise
    except DaybookError as error:
        raise CheckFailed(f"{name}: {error}", getattr(error, "usage", None)) from None
    except ValueError as error:
        raise CheckFailed(f"{name}: {error}") from None
    why = " ".join(verdict.reason.split())[:MAX_REASON_CHARACTERS]
    log.info("the %s says %s: %s", name, "run" if verdict.opens else "skip", why)
    return replace(verdict, reason=f"{name}: {why}")


async def _run(check: Check, granted: Granted, seconds: float) -> Verdict:
    if check.tool:
        return await _tool(check, granted, seconds)
    if check.prompt:
        async with get_client() as client:
            agent = await agent_lookup.find_agent(client, check.agent or _agent_of_run(granted))
        return await ask_agent(agent, conversation.render_prompt(granted, check.prompt), granted)
    return await _command(check, granted, seconds)


def _agent_of_run(granted: Granted) -> str:
    return str(granted.parameters.get("agent") or documents.DEFAULT_AGENT)


def _key(granted: Granted) -> str:
    """Return the idempotency key of the check; the run's own key would get it the run's answer."""
    return f"{granted.occurrence}#check"


# --- an agent


async def ask_agent(
    agent: Agent, prompt: str, granted: Granted, took: dict[str, Any] | None = None
) -> Verdict:
    """Ask an agent whether there is anything to do; ``took`` is the usage before this.

    Raise `CheckFailed`.
    """
    request = AgentRequest(
        prompt=f"{prompt}\n\n{_ANSWER}",
        timeout=policy.policy_from_parameters(granted.parameters).timeout.total_seconds(),
        occurrence=_key(granted),
        job=granted.job.row.name if granted.job else None,
        due=granted.due,
        tokens=granted.tokens,
    )
    try:
        reply = await _single_request(agent).answer(request)
    except AgentError as error:
        raise CheckFailed(str(error), usage.total((took, error.usage))) from None
    took = usage.total((took, reply.usage))
    try:
        return replace(_verdict_of_reply(reply), usage=took)
    except CheckFailed as error:
        raise CheckFailed(str(error), took) from None


def _verdict_of_reply(reply: AgentReply) -> Verdict:
    if reply.cut:
        raise CheckFailed(f"the answer of agent {reply.agent} was cut: {reply.cut}")
    try:
        value = json_text.read(_unfenced(reply.text))
    except ValueError as error:
        quoted = _quoted(reply.text)
        message = f"the answer of agent {reply.agent} is not JSON ({error}): {quoted}"
        raise CheckFailed(message) from None
    return _verdict_of_json(value, f"agent {reply.agent}")


def _single_request(agent: Agent) -> Agent:
    """Return the agent limited to one request, so that a tool call gets no second one."""
    if isinstance(agent, ModelAgent):
        settings = agent.settings.model_copy(update={"request_limit": 1})
        return replace(agent, settings=settings)
    return agent


def _unfenced(text: str) -> str:
    """Return the content of a fenced block if the whole text is one; else the text."""
    whole = text.strip()
    opening = _OPENING.match(whole)
    if opening is None or not (inside := whole[opening.end() :]).endswith(opening[1]):
        return text
    inside = inside.removesuffix(opening[1]).rstrip(" \t")
    return inside.removesuffix("\n").removesuffix("\r") if inside.endswith("\n") else inside


def _verdict_of_json(value: Any, whose: str) -> Verdict:
    """Read the verdict of a check's JSON; any other form is not an answer."""
    match value:
        case {"action": "run" | "skip" as action}:
            reason = value.get("reason") or ""
            if isinstance(reason, str):
                return Verdict(action == "run", reason or f"{whose} gave no reason")
    legal = 'expected {"action": "run" or "skip", "reason": "..."}'
    raise CheckFailed(f"{whose} returned an invalid answer: {_quoted(value)}; {legal}")


def _quoted(value: object) -> str:
    text = repr(" ".join(value.split()) if isinstance(value, str) else value)
    return text if len(text) <= MAX_QUOTED_CHARACTERS else f"{text[:MAX_QUOTED_CHARACTERS]}…"


# --- a tool


async def _tool(check: Check, granted: Granted, seconds: float) -> Verdict:
    guard = guard_of(granted, provenance.CHECK_PARTS)
    async with get_client() as client:
        prepared = await calls.prepare(
            check.tool,
            check.params,
            _key(granted),
            PrefectServers(client),
            PrefectSecretStore(client),
            guard,
        )
    outcome = (await calls.call(prepared, timeout=seconds)).outcome
    if outcome.status is not Status.SUCCEEDED:
        raise CheckFailed(outcome.error or outcome.reason)
    result = outcome.result["result"] if isinstance(outcome.result, Mapping) else None
    return _verdict_of_result(result, f"the tool {check.tool}")


def _verdict_of_result(value: Any, whose: str) -> Verdict:
    """Read the verdict of a tool's result; a server can say true only in an object or a text."""
    match value:
        case bool():
            return Verdict(value, f"{whose} says {'yes' if value else 'no'}")
        case {"result": inner, **rest} if not rest:
            return _verdict_of_result(inner, whose)
        case str():
            try:
                parsed = json_text.read(value)
            except ValueError:
                parsed = None
            if isinstance(parsed, (bool, dict)):
                return _verdict_of_result(parsed, whose)
        case dict():
            return _verdict_of_json(value, whose)
    legal = 'expected true, false, or {"action": "run" or "skip", "reason": "..."}'
    raise CheckFailed(f"{whose} answered {_quoted(value)}; {legal}")


# --- a command


async def _command(check: Check, granted: Granted, seconds: float) -> Verdict:
    """Run the operator's program in a temporary folder, with a minimal environment."""
    if owners.is_agent(_owner(granted)):
        raise CheckFailed("only the operator may write a command, and an agent owns the job")
    variables = environment.select(environment.DEFAULT_NAMES)
    name = check.command[0]
    with locations.run_folder("", prefix="daybook-check-") as folder:
        program = locations.find_program(name, folder, variables)
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
        raise CheckFailed(f"{name} did not end within {seconds:g} s and was stopped")
    if ended.code not in (RUN_EXIT_CODE, SKIP_EXIT_CODE):
        errors = ended.errors.decode(errors="replace").strip()[-MAX_REASON_CHARACTERS:]
        suffix = f": {errors}" if errors else ""
        raise CheckFailed(f"{name} exited with code {ended.code}{suffix}")
    lines = ended.output.decode(errors="replace").strip().splitlines()
    why = lines[0] if lines else f"{name} exited with code {ended.code}"
    return Verdict(ended.code == RUN_EXIT_CODE, why)


def _owner(granted: Granted) -> str:
    return granted.job.row.owner if granted.job else owners.USER
