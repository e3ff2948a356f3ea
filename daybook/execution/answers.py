"""Asking for an answer of a form: text, JSON, or JSON that fits a schema (requirement 28).

::

    ask ──► fits ──────────────────────────────► the answer
      └───► does not ──► ask again, with the     ├► fits: the answer, and the run says so
                         question, the first     └► does not: `AgentFailed` with the mismatch
                         answer and what is
                         wrong with it

Both requests belong to one attempt and share its time and its tokens, and what both took is told
together. All that the second is about stands in its prompt: not every agent is given a history. The
form is asked for in words, so that every agent understands it; it is judged here, by the schema
itself. Words around the JSON do no harm (`daybook.agents.json_text`).

Tools that change something are not called twice for one answer: the second request is given those
that only read, and a temporary error after such a call is final. Where the request is repeatable,
both are as without tools.

What an agent says is kept in many places. The token of a claim of it (`daybook.tasks`), should it
say one, is in none of them.
"""

from __future__ import annotations

import asyncio
import json
import logging
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from daybook.agents import json_text
from daybook.agents.base import Agent, AgentReply, AgentRequest, Tool
from daybook.errors import AgentError, AgentFailed, AgentTimeout
from daybook.execution import handover
from daybook.jobs import answer_schema
from daybook.jobs.actions import OutputFormat
from daybook.runs import usage
from daybook.tasks.model import without_tokens

log = logging.getLogger(__name__)

LONGEST_QUOTED = 20_000
"""Characters of the first answer that the second request quotes; an argument has to hold them."""


@dataclass(frozen=True)
class Answer:
    """``reply`` fits the form. ``remark`` is what the run says of it: what was wrong with the first
    one, where it was repaired, and why it is not whole, where it was cut; else empty.
    """

    reply: AgentReply
    remark: str = ""


Usage = dict[str, Any]


class _Mismatch(Exception):
    pass


async def ask(
    agent: Agent, request: AgentRequest, form: OutputFormat, schema: Mapping[str, Any]
) -> Answer:
    """Ask until the answer fits, at most twice.

    Raises what `Agent.answer` raises, and `AgentFailed` when the second answer does not fit either.
    ``usage`` of what it returns or raises is that of both requests.
    """
    acted: list[str] = []
    request = replace(request, tools=tuple(_noted(tool, acted) for tool in request.tools))
    try:
        answer = await _asked(agent, request, form, schema)
    except AgentError as error:
        error.final = error.final or (bool(acted) and not request.repeatable)
        error.args = tuple(map(_tokenless, error.args))
        if isinstance(error, AgentFailed | AgentTimeout):
            error.output = without_tokens(error.output)
        raise
    said = answer.reply
    said = replace(said, text=without_tokens(said.text), result=_tokenless(said.result))
    return replace(answer, reply=said, remark=without_tokens(answer.remark))


def _tokenless(value: Any) -> Any:
    match value:
        case str():
            return without_tokens(value)
        case list():
            return [_tokenless(each) for each in value]
        case dict():
            return {_tokenless(name): _tokenless(each) for name, each in value.items()}
        case _:
            return value


def _beside(first: Usage | None, took: Callable[[Usage], None] | None) -> Callable[[Usage], None]:
    """Tells what the first answer took and what the second takes so far."""

    def tell(used: Usage) -> None:
        if took is not None and (both := usage.total((first, used))) is not None:
            took(both)

    return tell


def _noted(tool: Tool, acted: list[str]) -> Tool:
    """``tool``, which logs its calls and, unless it only reads, adds its name to ``acted`` and
    tells the worker: what may have been done is not done again, however the process ends.
    """

    async def call(arguments: dict[str, Any]) -> str:
        # Not with what: that may be anything.
        log.info("the agent calls %s", tool.name, extra={"action": "agent_tool_called"})
        if not tool.read_only:
            acted.append(tool.name)
            handover.tell(changed=tool.name)  # before it is: it may be killed in the middle
        return await tool.call(arguments)

    return replace(tool, call=call)


async def _asked(
    agent: Agent, request: AgentRequest, form: OutputFormat, schema: Mapping[str, Any]
) -> Answer:
    if form == "text":
        reply = await agent.answer(request)
        return Answer(reply, _cut(reply))
    loop = asyncio.get_running_loop()
    end = loop.time() + request.timeout
    wanted = _wanted(schema)
    first = await agent.answer(replace(request, prompt=f"{request.prompt}\n\n{wanted}"))
    try:
        return Answer(_fitting(first, schema), _cut(first))
    except _Mismatch as mismatch:
        wrong = str(mismatch)
    prompt = f"{request.prompt}\n\n{_said(first.text)}\n\nThat does not fit: it {wrong}\n\n{wanted}"
    again = replace(
        request,
        prompt=prompt,
        question=2,
        timeout=end - loop.time(),
        tools=tuple(each for each in request.tools if each.read_only or request.repeatable),
        tokens=None if request.tokens is None else request.tokens - usage.tokens(first.usage),
        took=_beside(first.usage, request.took),
    )
    try:
        second = await _asked_again(agent, again, request.timeout, first.text)
    except AgentError as error:
        error.usage = usage.total((first.usage, error.usage))
        raise
    second = replace(second, usage=usage.total((first.usage, second.usage)))
    try:
        reply = _fitting(second, schema)
    except _Mismatch as mismatch:
        failed = AgentFailed(f"the answer, asked for twice, {mismatch}", second.text)
        failed.usage = second.usage
        raise failed from None
    remarks = (f"repaired: the first answer {wrong}", _cut(reply))
    return Answer(reply, "; ".join(filter(None, remarks)))


async def _asked_again(agent: Agent, again: AgentRequest, timeout: float, said: str) -> AgentReply:
    """The second answer. Out of time it tells of the whole attempt: its time, and what was said."""
    if again.timeout <= 0:
        raise AgentTimeout(timeout, said)
    if again.tokens is not None and again.tokens <= 0:
        raise AgentFailed(
            "stopped: the token limit is reached, and the first answer did not fit", said
        )
    try:
        return await agent.answer(again)
    except AgentTimeout as error:
        timed_out = AgentTimeout(timeout, error.output or said, error.tool)
        timed_out.usage = error.usage
        raise timed_out from None


def _said(answer: str) -> str:
    """The first answer for the second prompt; indented, so that it cannot pass for the rest."""
    if not answer.strip():
        return "Your first answer to this was empty."
    quoted = textwrap.indent(answer[:LONGEST_QUOTED], "    ")
    if len(answer) > LONGEST_QUOTED:
        quoted += f"\n\n(its first {LONGEST_QUOTED:,} characters)"
    return f"Your first answer to this was, indented:\n\n{quoted}"


def _wanted(schema: Mapping[str, Any]) -> str:
    if not schema:
        return "Answer with JSON only, without any other words."
    told = json.dumps(schema, ensure_ascii=False)
    return f"Answer with JSON only, without any other words, that fits this JSON schema:\n{told}"


def _cut(reply: AgentReply) -> str:
    return f"cut: {reply.cut}" if reply.cut else ""


def _fitting(reply: AgentReply, schema: Mapping[str, Any]) -> AgentReply:
    value = reply.result
    if value is None:
        try:
            value = json_text.read(reply.text) if reply.cut else json_text.find(reply.text)
        except ValueError as error:
            why = f"{error}; it was {_cut(reply)}" if reply.cut else str(error)
            raise _Mismatch(f"is no JSON: {why}") from None
    if schema and (wrong := answer_schema.mismatch(schema, value)):
        raise _Mismatch(wrong)
    return replace(reply, result=value)
