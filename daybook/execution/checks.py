"""Check of a run, which decides between claim and begin whether the run continues.

========  ============================================  ======================================
check     run                                           skip
========  ============================================  ======================================
tool      true, or `{"action": "run"}`                  false, or `{"action": "skip"}`
prompt    `{"action": "run", "reason": "..."}`          `{"action": "skip", "reason": "..."}`
command   exit code 0                                   exit code 1
watch     the content has changed                       no change, or seen for the first time
========  ============================================  ======================================

A tool's answer may also be a string with this JSON, or an object whose only field `result` has the
answer. A command's reason is its first line of output. A watch compares the content with the
content at the job's last success (`daybook.runs.watched`). The prompt can contain the findings of a
check as `{{check}}` and `{{change}}`. The findings are stored when the run begins, so that each
attempt has the same prompt.

If the result is skip, the run ends as skipped, with the reason. Any result outside the table fails
the run: an error of the check, other text, JSON of another shape, or a tool call in place of an
answer. So a broken check is never silent.

The check runs before the first attempt and is not retried: even a temporary error of the agent or
the tool fails the run. The check runs again only if Prefect or the ledger is unreachable, or if the
claim is lost, before that attempt begins. The usage of the check is added to the run's usage. An
agent gets no conversation and no tools for a check.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from prefect.client.orchestration import get_client

from daybook import json_text, owners
from daybook.agents import process
from daybook.agents.base import Agent, AgentReply, AgentRequest
from daybook.agents.program_sandbox import to_start
from daybook.clock import SYSTEM_CLOCK
from daybook.errors import AgentError, AgentTimeout, DaybookError, Unreachable
from daybook.execution import agent_lookup, answers, conversation, sandboxing, watches
from daybook.execution.agent_lookup import guard_of
from daybook.http.guard import origin
from daybook.jobs import provenance
from daybook.jobs.actions import DEFAULT_AGENT
from daybook.jobs.payloads import PAYLOAD
from daybook.ledger.states import Status, Usage
from daybook.ledger.texts import sanitize
from daybook.policies.checks import Check
from daybook.processes import environment, group, locations
from daybook.resources.secrets import PrefectSecretStore
from daybook.runs import usage, watched
from daybook.runs.claim_requests import Granted
from daybook.short_text import clip
from daybook.tools import calls
from daybook.tools.server_blocks import PrefectServers

log = logging.getLogger(__name__)

RUN_EXIT_CODE, SKIP_EXIT_CODE = 0, 1
"""Exit codes of a command, for run and for skip."""
MAX_QUOTED_CHARACTERS = 100
"""Maximum length of an invalid answer in the error message, in characters."""
MAX_REASON_CHARACTERS = 500
MAX_WATCHED_CHARACTERS = conversation.MAX_DATA_CHARACTERS
"""Maximum length of the content of a watch, in characters."""

_ANSWER = (
    "Decide whether there is anything to do. Call no tool and do none of it yourself. Answer with "
    'this JSON only, without any other words: {"action": "run", "reason": "<why, in a sentence>"} '
    'if there is, or {"action": "skip", "reason": "<why, in a sentence>"} if there is not.'
)
_OPENING = re.compile(r"(`{3,}+|~{3,}+)[ \t]*+(?:\w++[ \t]*+)?\r?\n")


@dataclass(frozen=True)
class Verdict:
    """Result of a check: whether the run continues, why, the check's usage, and its findings.

    ``found`` has the keys of `daybook.ledger.tables.RunRow.found`.
    """

    opens: bool
    reason: str = ""
    usage: Usage | None = None
    found: Mapping[str, Any] | None = field(default=None, repr=False)

    def apply(self, granted: Granted) -> Granted:
        """Return ``granted`` with the check's findings, and without the tokens that the check used.

        Raise `CheckFailed` if the check used up the tokens.
        """
        if self.found:
            granted = replace(granted, found={**granted.found, **self.found})
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
"""Verdict for a run that has no check, or whose check has already run."""

CheckCallable = Callable[[Granted], Awaitable[Verdict]]
"""Function that runs a check.

It raises `CheckFailed`, and the errors of an unreachable ledger or Prefect.
"""


class CheckFailed(DaybookError):
    """The check failed or gave an invalid answer. ``usage`` is its usage, None if unknown."""

    code = "check_failed"

    def __init__(self, message: str, usage: Usage | None = None) -> None:
        self.usage = usage
        super().__init__(message)


async def check_job(granted: Granted) -> Verdict:
    """Run the check of the run's policy; return its verdict, or `NO_CHECK` if there is none.

    Raise `CheckFailed`, and the errors of an unreachable ledger or Prefect.
    """
    if not granted.policy.check:
        return NO_CHECK
    seconds = granted.policy.timeout.total_seconds()
    return await run_check("check", lambda: _run(granted.policy.check, granted, seconds))


async def run_check(name: str, ask: Callable[[], Awaitable[Verdict]]) -> Verdict:
    """Call ``ask``; return its verdict, with the name of the check before the reason.

    For a `DaybookError` or ValueError, raise `CheckFailed` with the name in the message. Errors of
    an unreachable ledger or Prefect are raised as they are.
    """
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
    if check.is_watch:
        return await _watch(check, granted, seconds)
    if check.tool:
        return await _tool(check, granted, seconds)
    if check.prompt:
        async with get_client() as client:
            name = check.agent or str(granted.parameters.get("agent") or DEFAULT_AGENT)
            agent = await agent_lookup.find_agent(client, name)
        return await ask_agent(agent, conversation.render_prompt(granted, check.prompt), granted)
    return await _command(check, granted, seconds)


def _key(granted: Granted) -> str:
    """Return the check's own key, so that no receiver returns its answer as the run's answer."""
    return f"{granted.occurrence}#check"


# --- an agent


async def ask_agent(
    agent: Agent,
    prompt: str,
    granted: Granted,
    took: Usage | None = None,
    seconds: float = 0.0,
) -> Verdict:
    """Ask an agent whether there is anything to do.

    ``took`` is the usage of the check before this request, and ``seconds`` its time. They share the
    timeout, so that no outer timeout ends the request and loses the usage. Raise `CheckFailed` if
    the agent fails, or if its reply is incomplete or not a valid answer.
    """
    rest = granted.policy.timeout.total_seconds() - seconds
    if rest <= 0:
        raise CheckFailed(str(AgentTimeout(granted.policy.timeout.total_seconds())), took)
    request = AgentRequest(
        prompt=f"{prompt}\n\n{_ANSWER}",
        timeout=rest,
        occurrence=_key(granted),
        job=granted.job.row.name if granted.job else None,
        due=granted.due,
        tokens=granted.tokens,
        work_dir=locations.job_folder(granted.policy.work_dir),
        once=True,
    )
    try:
        reply = await agent.answer(request)
    except AgentError as error:
        used = answers.usage_of(agent, error.usage, error)
        raise CheckFailed(str(error), usage.total((took, used))) from None
    took = usage.total((took, answers.usage_of(agent, reply.usage)))
    try:
        verdict = _verdict_of_reply(reply)
        return replace(verdict, usage=took, found={"check": verdict.reason})
    except CheckFailed as error:
        raise CheckFailed(str(error), took) from None


def _verdict_of_reply(reply: AgentReply) -> Verdict:
    if reply.cut:
        raise CheckFailed(f"the answer of agent {reply.agent} is incomplete: {reply.cut}")
    try:
        value = json_text.read(_unfenced(reply.text))
    except ValueError as error:
        quoted = _quoted(reply.text)
        message = f"the answer of agent {reply.agent} is not JSON ({error}): {quoted}"
        raise CheckFailed(message) from None
    return _verdict_of_json(value, f"agent {reply.agent}")


def _unfenced(text: str) -> str:
    """Return the content of the fenced block if ``text`` is one as a whole; otherwise the text."""
    whole = text.strip()
    opening = _OPENING.match(whole)
    if opening is None or not (inside := whole[opening.end() :]).endswith(opening[1]):
        return text
    inside = inside.removesuffix(opening[1]).rstrip(" \t")
    return inside.removesuffix("\n").removesuffix("\r") if inside.endswith("\n") else inside


def _verdict_of_json(value: Any, whose: str) -> Verdict:
    """Read the verdict from a check's JSON; raise `CheckFailed` for any other form."""
    match value:
        case {"action": "run" | "skip" as action}:
            reason = value.get("reason") or ""
            if isinstance(reason, str):
                return Verdict(action == "run", reason or f"{whose} gave no reason")
    legal = 'expected {"action": "run" or "skip", "reason": "..."}'
    raise CheckFailed(f"{whose} returned an invalid answer: {_quoted(value)}; {legal}")


def _quoted(value: object) -> str:
    text = repr(" ".join(value.split()) if isinstance(value, str) else value)
    return clip(text, MAX_QUOTED_CHARACTERS)


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
            payload=granted.found.get(PAYLOAD),
        )
    outcome = (await calls.call(prepared, timeout=seconds)).outcome
    if outcome.status is not Status.SUCCEEDED:
        raise CheckFailed(outcome.error or outcome.reason)
    result = outcome.result["result"] if isinstance(outcome.result, Mapping) else None
    text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
    verdict = _verdict_of_result(result, f"the tool {check.tool}")
    return replace(verdict, found={"check": conversation.stored_data(text)})


def _verdict_of_result(value: Any, whose: str) -> Verdict:
    """Return the verdict in a tool's result: true, false, an object, or one of these as JSON text.

    A tool of a server returns an object or a text. Raise `CheckFailed` for any other result.
    """
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
    ended = await _run_program(check.command, granted, seconds, (RUN_EXIT_CODE, SKIP_EXIT_CODE))
    printed = ended.output.decode(errors="replace").strip()
    why = printed.partition("\n")[0] or f"{check.command[0]} exited with code {ended.code}"
    return Verdict(
        ended.code == RUN_EXIT_CODE, why, found={"check": conversation.stored_data(printed)}
    )


async def _run_program(
    command: Sequence[str], granted: Granted, seconds: float, codes: Collection[int]
) -> process.ProgramResult:
    """Run the operator's program in the job's work directory, or else in a temporary folder.

    The program's environment is minimal. Raise `CheckFailed` unless the program exits in time with
    one of ``codes``, or if an agent owns the job, and `InvalidInput` if the work directory cannot
    be used.
    """
    owner = granted.job.row.owner if granted.job else owners.USER
    if owners.is_agent(owner):
        raise CheckFailed("an agent owns the job, but only the operator may set a command")
    variables = environment.select(environment.DEFAULT_NAMES)
    name, sandbox = command[0], sandboxing.of_run(granted)
    work_dir = locations.job_folder(granted.policy.work_dir)
    with locations.run_folder(work_dir, prefix="daybook-check-") as folder:
        program = locations.find_program(name, folder, variables)
        try:
            ended = await process.run(
                [to_start(name, program, sandbox), *command[1:]],
                folder=folder,
                environment=variables,
                stdin=None,
                seconds=seconds,
                sandbox=sandbox,
            )
        except OSError as error:
            raise CheckFailed(f"{program} cannot be run: {error.strerror}") from None
    if ended.timed_out:
        raise CheckFailed(f"{name} did not end within {seconds:g} s and was stopped")
    if ended.code not in codes:
        errors, output = (
            each.decode(errors="replace").strip()[-MAX_REASON_CHARACTERS:]
            for each in (ended.errors, ended.output)
        )
        said = group.describe_prints(errors, output)
        raise CheckFailed(f"{name} {group.describe_exit(ended.code)}; {said}")
    return ended


# --- a watch


async def _watch(check: Check, granted: Granted, seconds: float) -> Verdict:
    if granted.job is None:
        raise CheckFailed("only a job can watch; a direct call has nothing to compare with")
    if check.watch_url:
        guard = guard_of(granted, provenance.CHECK_PARTS)
        content = await watches.fetch(check.watch_url, guard, seconds)
        whose = f"the page of {origin(guard.check(check.watch_url))}"
    else:
        ended = await _run_program(check.watch_command, granted, seconds, (0,))
        content = ended.output.decode(errors="replace").strip()
        whose = f"the output of {check.watch_command[0]}"
    content = sanitize(content)
    if len(content) > MAX_WATCHED_CHARACTERS:
        limit = f"more than the {MAX_WATCHED_CHARACTERS:,} that can be compared"
        raise CheckFailed(f"{whose} has {len(content):,} characters, {limit}")
    looked_at = SYSTEM_CLOCK.now().isoformat()
    found = {"check": content, "source": watched.source_of(check), "at": looked_at}
    if granted.seen is None:
        why = f"{whose} is recorded; the job runs when it changes"
        return Verdict(opens=False, reason=why, found=found)
    if granted.seen == content:
        return Verdict(opens=False, reason=f"{whose} has not changed")
    found["change"] = conversation.stored_data(watches.difference(granted.seen, content))
    return Verdict(opens=True, reason=f"{whose} has changed", found=found)
