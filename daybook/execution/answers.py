"""Answers in a requested format: text, JSON, or JSON that matches a schema.

::

    ask ──► matches ─────────────────────────────► the answer
      └───► does not ──► ask again, with the       ├► matches: the answer, with a remark
                         question, the first       └► does not: `AgentFailed` with the new mismatch
                         answer and its mismatch

Both requests belong to one attempt and share its timeout and its token limit; their usage is added
up. The second prompt contains all that it refers to, because not every agent gets a history. The
prompt describes the format in words, which every agent understands. `ask` validates the answer
against the schema itself, and accepts text around the JSON (`daybook.json_text`).

No tool that changes something is called twice for one answer, so the second request gets only the
read-only tools. After a call of a tool that may not be repeated, the run asks no other agent, and
the next attempt continues after the call (`execution.journal`). But if the call got no reply, or if
the request has no journal, a temporary error is final. If the request is repeatable, none of these
restrictions applies.

An agent's output is stored in many places. So `ask` first removes the tokens of claims
(`redaction.redact_tokens`) from the output.
"""

from __future__ import annotations

import asyncio
import json
import logging
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from daybook import json_text
from daybook.agents.base import Agent, AgentReply, AgentRequest, Tool
from daybook.agents.journal import Journal, PlannedStep, StepPosition, StepReply
from daybook.errors import (
    AgentError,
    AgentFailed,
    AgentMisconfigured,
    AgentTemporary,
    AgentTimeout,
)
from daybook.execution import handover
from daybook.jobs import answer_schema
from daybook.jobs.actions import OutputFormat
from daybook.json_text import JsonObject
from daybook.ledger.states import Usage
from daybook.redaction import redact_tokens
from daybook.runs import usage
from daybook.runs.usage import Amount

log = logging.getLogger(__name__)

MAX_QUOTED_CHARACTERS = 20_000
"""Maximum length of the first answer in the second prompt, in characters.

A program may get the prompt as an argument, whose length is limited.
"""

QUESTIONS = 2
"""Maximum number of requests to an agent until its answer matches the format."""

MAX_FINISH_SECONDS = 10.0
"""Time for recording the end of a program's answer; it is less than `Timing.timeout_margin`."""


@dataclass(frozen=True)
class AgentAnswer:
    """A reply in the requested format.

    ``remark`` is a note for the run: the mismatch of the first answer if the second answer is used,
    and the reason if the reply was cut. Otherwise it is empty.
    """

    reply: AgentReply
    remark: str = ""


class _Mismatch(Exception):
    pass


async def ask(
    agent: Agent, request: AgentRequest, form: OutputFormat, schema: Mapping[str, Any]
) -> AgentAnswer:
    """Ask ``agent`` until its answer matches the format, at most twice.

    Raise the errors of `Agent.answer`, and `AgentFailed` if the second answer does not match
    either, or if no tokens are left for the second request. Raise `AgentTimeout` if no time is left
    for it. The result or the error has the ``usage`` of both requests.
    """
    calls = _UnrepeatableCalls()
    request = replace(request, tools=tuple(calls.logged(tool) for tool in request.tools))
    try:
        answer = await _ask_agent(agent, request, form, schema)
    except AgentError as error:
        if not request.repeatable:
            error.acted = error.acted or calls.acted
            is_open = calls.unanswered if request.journal else calls.acted
            error.final = error.final or is_open
        error.args = tuple(map(_without_tokens, error.args))
        if isinstance(error, AgentFailed | AgentTimeout):
            error.output = redact_tokens(error.output)
        raise
    reply = answer.reply
    reply = replace(reply, text=redact_tokens(reply.text), result=_without_tokens(reply.result))
    return replace(answer, reply=reply, remark=redact_tokens(answer.remark))


def _without_tokens(value: Any) -> Any:
    match value:
        case str():
            return redact_tokens(value)
        case list():
            return [_without_tokens(each) for each in value]
        case dict():
            return {_without_tokens(name): _without_tokens(each) for name, each in value.items()}
        case _:
            return value


def usage_adder(
    first: Usage | None, took: Callable[[Usage], None] | None
) -> Callable[[Usage], None]:
    """Return a callback that adds its argument to ``first``, and passes the sum to ``took``."""

    def report(used: Usage) -> None:
        if took is not None and (total := usage.total((first, used))) is not None:
            took(total)

    return report


class _UnrepeatableCalls:
    """The calls of tools that may not be repeated.

    ``acted`` is True if there was such a call, perhaps in an earlier attempt; ``unanswered`` is
    True if such a call got no reply.
    """

    def __init__(self) -> None:
        self.acted = self.unanswered = False

    def logged(self, tool: Tool) -> Tool:
        """Wrap ``tool`` to log its calls, and to record the calls that may not be repeated.

        Report the recorded calls to the worker, too, so that the worker does not retry the attempt
        if it has to end this process during a call.
        """

        async def call(arguments: JsonObject) -> str:
            # Log no arguments, because they may contain anything.
            log.info("the agent calls %s", tool.name, extra={"action": "agent_tool_called"})
            if tool.is_repeatable:
                return await tool.call(arguments)
            self.acted = self.unanswered = True
            handover.report(changed=tool.name)  # before the call, in which the process may die
            try:
                text = await tool.call(arguments)
            except Exception:  # an error is a reply; a cancellation is no reply
                self._replied()
                raise
            self._replied()
            return text

        def skipped(arguments: JsonObject) -> None:
            self.acted = self.acted or not tool.is_repeatable
            tool.skipped(arguments)

        return replace(tool, call=call, skipped=skipped)

    def _replied(self) -> None:
        self.unanswered = False
        handover.report(changed="")


async def _ask_agent(
    agent: Agent, request: AgentRequest, form: OutputFormat, schema: Mapping[str, Any]
) -> AgentAnswer:
    if form == "text":
        reply = await _answer(agent, request)
        return AgentAnswer(reply, _cut_remark(reply))
    loop = asyncio.get_running_loop()
    end = loop.time() + request.timeout
    schema_text = json.dumps(schema, ensure_ascii=False)
    rest = f", that matches this JSON schema:\n{schema_text}" if schema else "."
    instruction = f"Answer with JSON only, without any other words{rest}"
    first = await _answer(agent, replace(request, prompt=f"{request.prompt}\n\n{instruction}"))
    try:
        return AgentAnswer(_checked(first, schema), _cut_remark(first))
    except _Mismatch as mismatch:
        wrong = str(mismatch)
    complaint = f"That does not match: it {wrong}"
    prompt = f"{request.prompt}\n\n{_quote(first.text)}\n\n{complaint}\n\n{instruction}"
    second_request = replace(
        request,
        prompt=prompt,
        question=request.question + 1,
        timeout=end - loop.time(),
        tools=tuple(each for each in request.tools if each.read_only or request.repeatable),
        tokens=None if request.tokens is None else request.tokens - usage.tokens(first.usage),
        took=usage_adder(first.usage, request.took),
    )
    try:
        second = await _ask_again(agent, second_request, request.timeout, first.text)
    except AgentError as error:
        error.usage, error.answered = usage.total((first.usage, error.usage)), True
        raise
    second = replace(
        second,
        usage=usage.total((first.usage, second.usage)),
        warnings=tuple(dict.fromkeys(first.warnings + second.warnings)),
    )
    try:
        reply = _checked(second, schema)
    except _Mismatch as mismatch:
        failed = AgentFailed(f"the second answer {mismatch}", second.text)
        failed.usage = second.usage
        raise failed from None
    remarks = (f"repaired: the first answer {wrong}", _cut_remark(reply))
    return AgentAnswer(reply, "; ".join(filter(None, remarks)))


async def _answer(agent: Agent, request: AgentRequest) -> AgentReply:
    """Ask the agent once.

    If a budget in US dollars limits the run, record the answer of a program as a step. The step is
    one request, whose price is unknown unless the program reports it. Raise `AgentTimeout` if other
    requests reserve the budget for the whole time.
    """
    steps = request.journal
    if steps is None or not getattr(agent, "is_program", False) or not await steps.limits_usd():
        return await agent.answer(request)
    position = StepPosition(request.fallback, request.question, 0)
    unpriced = Amount(unpriced=1)
    step = PlannedStep(position, "request", agent.name, {}, "", repeatable=True, estimate=unpriced)
    loop = asyncio.get_running_loop()
    end = loop.time() + request.timeout
    try:
        async with asyncio.timeout_at(end):  # the start waits while others reserve the budget
            await steps.start(step)
    except TimeoutError:
        raise AgentTimeout(request.timeout) from None
    try:
        reply = await agent.answer(replace(request, timeout=end - loop.time()))
    except AgentError as error:
        await _finish(steps, step, _counted(error.usage, str(error)))
        raise
    await _finish(steps, step, _counted(reply.usage))
    return reply


async def _finish(steps: Journal, step: PlannedStep, reply: StepReply) -> None:
    """Record the end of a program's answer. If the ledger stays unreachable, log that.

    The budgets then count the estimate of the step. The caller can still spool the outcome.
    """
    try:
        async with asyncio.timeout(MAX_FINISH_SECONDS):
            await steps.finish(step, reply)
    except TimeoutError:
        log.warning(
            "the end of step %s is not recorded", step.position, extra={"action": "step_open"}
        )


def usage_of(agent: Agent, used: Usage | None, error: AgentError | None = None) -> Usage | None:
    """Return the usage of an answer: ``used``, or one unpriced request if a program reports none.

    A program that could not be started has used nothing.
    """
    if used is not None or not getattr(agent, "is_program", False):
        return used
    if isinstance(error, AgentMisconfigured | AgentTemporary):
        return None
    return {"requests": 1, "input_tokens": None, "output_tokens": None, "cost_usd": None}


def _counted(used: Usage | None, error: str = "") -> StepReply:
    """Return the reply for a program's answer, without the usage, which other steps show."""
    amount = None if used is None else Amount.of(used)
    if amount is not None and amount.unpriced:  # the program may report more than one request
        amount = replace(amount, unpriced=1)
    return StepReply(error=error, may_cost=True, amount=amount)


async def _ask_again(
    agent: Agent, request: AgentRequest, timeout: float, first_answer: str
) -> AgentReply:
    """Return the second answer. A timeout reports the time and the output of the whole attempt.

    Raise `AgentTimeout` if no time is left, and `AgentFailed` if no tokens are left.
    """
    if request.timeout <= 0:
        raise AgentTimeout(timeout, first_answer)
    if request.tokens is not None and request.tokens <= 0:
        raise AgentFailed(
            "stopped: the token limit is reached, and the first answer did not match the format",
            first_answer,
        )
    try:
        return await _answer(agent, request)
    except AgentTimeout as error:
        timed_out = AgentTimeout(timeout, error.output or first_answer, error.tool)
        timed_out.usage = error.usage
        raise timed_out from None


def _quote(answer: str) -> str:
    """Quote the first answer for the second prompt, indented, so that its end is clear."""
    if not answer.strip():
        return "Your first answer to this was empty."
    quoted = textwrap.indent(answer[:MAX_QUOTED_CHARACTERS], "    ")
    if len(answer) > MAX_QUOTED_CHARACTERS:
        quoted += f"\n\n(its first {MAX_QUOTED_CHARACTERS:,} characters)"
    return f"Your first answer to this was, indented:\n\n{quoted}"


def _cut_remark(reply: AgentReply) -> str:
    return f"cut: {reply.cut}" if reply.cut else ""


def _checked(reply: AgentReply, schema: Mapping[str, Any]) -> AgentReply:
    value = reply.result
    if value is None:
        try:
            value = json_text.read(reply.text) if reply.cut else json_text.find(reply.text)
        except ValueError as error:
            why = f"{error}; it was {_cut_remark(reply)}" if reply.cut else str(error)
            raise _Mismatch(f"is not JSON: {why}") from None
    if schema and (wrong := answer_schema.mismatch(schema, value)):
        raise _Mismatch(wrong)
    return replace(reply, result=value)
