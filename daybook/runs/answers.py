"""Asking for an answer of a form: text, JSON, or JSON that fits a schema (requirement 28).

::

    ask ──► fits ──────────────────────────────► the answer
      └───► does not ──► ask again, with the     ├► fits: the answer, and the run says so
                         question, the first     └► does not: `AgentFailed` with the mismatch
                         answer and what is
                         wrong with it

Both requests belong to one attempt and share its time, and what both took is told together. All
that the second is about stands in its prompt: not every agent is given a history. The form is
asked for in words, so that every agent understands it; it is judged here, by the schema itself.
Words around the JSON do no harm (`daybook.agents.json_text`).
"""

from __future__ import annotations

import asyncio
import json
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from daybook.agents import json_text
from daybook.agents.base import Agent, AgentReply, AgentRequest
from daybook.errors import AgentError, AgentFailed, AgentTimeout
from daybook.ledger import usage
from daybook.spec import answer_schema
from daybook.spec.actions import OutputFormat

LONGEST_QUOTED = 20_000
"""Characters of the first answer that the second request quotes; an argument has to hold them."""


@dataclass(frozen=True)
class Answer:
    """``reply`` fits the form. ``remark`` is what the run says of it: what was wrong with the first
    one, where it was repaired, and why it is not whole, where it was cut; else empty.
    """

    reply: AgentReply
    remark: str = ""


class _Mismatch(Exception):
    pass


async def ask(
    agent: Agent, request: AgentRequest, form: OutputFormat, schema: Mapping[str, Any]
) -> Answer:
    """Ask until the answer fits, at most twice.

    Raises what `Agent.answer` raises, and `AgentFailed` when the second answer does not fit either.
    ``usage`` of what it returns or raises is that of both requests.
    """
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
    again = replace(request, prompt=prompt, question=2, timeout=end - loop.time())
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
    try:
        return await agent.answer(again)
    except AgentTimeout as error:
        timed_out = AgentTimeout(timeout, error.output or said)
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
