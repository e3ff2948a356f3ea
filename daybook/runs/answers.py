"""Asking for an answer of a form: text, JSON, or JSON that fits a schema (requirement 28).

::

    ask ──► fits ──────────────────────────────► the answer
      └───► does not ──► ask again, with the     ├► fits: the answer, and the run says so
                         first answer and what   └► does not: `AgentFailed` with the mismatch
                         is wrong with it

Both requests belong to one attempt and share its time. The form is asked for in words, so that
every agent understands it; it is judged here, by the schema itself.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from daybook.agents.base import Agent, AgentReply, AgentRequest, Message
from daybook.errors import AgentFailed, AgentTimeout
from daybook.spec.job import OutputFormat

_FENCED = re.compile(r"\s*```[\w-]*[ \t]*\n(.*)\n```\s*", re.DOTALL)


@dataclass(frozen=True)
class Answer:
    """``reply`` fits the form; ``repaired`` says what was wrong with the first one, if it was."""

    reply: AgentReply
    repaired: str = ""


class _Mismatch(Exception):
    pass


async def ask(
    agent: Agent, request: AgentRequest, form: OutputFormat, schema: Mapping[str, Any]
) -> Answer:
    """Ask until the answer fits, at most twice. Raises what `Agent.answer` raises, and
    `AgentFailed` when the second answer does not fit either.
    """
    if form == "text":
        return Answer(await agent.answer(request))
    loop = asyncio.get_running_loop()
    end = loop.time() + request.timeout
    first_request = replace(request, prompt=f"{request.prompt}\n\n{_wanted(schema)}")
    first = await agent.answer(first_request)
    try:
        return Answer(_fitting(first, schema))
    except _Mismatch as mismatch:
        wrong = str(mismatch)
    left = end - loop.time()
    if left <= 0:
        raise AgentTimeout(request.timeout, first.text)
    said = (Message("user", first_request.prompt), Message("assistant", first.text))
    again = replace(
        request,
        prompt=f"Your answer does not fit: {wrong}\n\n{_wanted(schema)}",
        history=(*request.history, *said),
        timeout=left,
    )
    second = await agent.answer(again)
    second = replace(second, usage=_sum(first.usage, second.usage))
    try:
        return Answer(_fitting(second, schema), repaired=f"repaired: the first answer {wrong}")
    except _Mismatch as mismatch:
        raise AgentFailed(f"the answer, asked for twice, {mismatch}", second.text) from None


def _wanted(schema: Mapping[str, Any]) -> str:
    if not schema:
        return "Answer with JSON only, without any other words."
    told = json.dumps(schema, ensure_ascii=False)
    return f"Answer with JSON only, without any other words, that fits this JSON schema:\n{told}"


def _fitting(reply: AgentReply, schema: Mapping[str, Any]) -> AgentReply:
    value = reply.result
    if value is None:
        fenced = _FENCED.fullmatch(reply.text)
        try:
            value = json.loads(fenced[1] if fenced else reply.text)
        except ValueError as error:
            raise _Mismatch(f"is no JSON: {error}") from None
    if schema:
        from jsonschema import Draft202012Validator  # heavy, and seldom needed
        from jsonschema.exceptions import best_match

        found = best_match(Draft202012Validator(dict(schema)).iter_errors(value))
        if found is not None:
            raise _Mismatch(f"does not fit the schema at {found.json_path}: {found.message}")
    return replace(reply, result=value)


def _sum(first: dict[str, Any] | None, second: dict[str, Any] | None) -> dict[str, Any] | None:
    """The usage of both; what one of them does not know is not known of the sum (a price)."""
    if first is None or second is None:
        return second if first is None else first
    names = {**first, **second}
    return {name: _plus(first.get(name, 0), second.get(name, 0)) for name in names}


def _plus(one: Any, other: Any) -> Any:
    return None if one is None or other is None else one + other
