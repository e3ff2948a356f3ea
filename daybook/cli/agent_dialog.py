"""Dialog of `daybook agents add` without arguments: it offers the agents that this machine has."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NamedTuple

from daybook import api
from daybook.cli import documents, output
from daybook.cli.options import on_interrupt
from daybook.errors import InvalidInput
from daybook.jobs.actions import DEFAULT_AGENT


class NewAgent(NamedTuple):
    """The agent that the user has chosen; with ``replace``, it replaces an offline one."""

    name: str
    kind: str
    settings: Mapping[str, Any]
    replace: bool


async def ask() -> NewAgent:
    """Ask the user for an agent and its name, and for the key of a provider without one.

    Raise `InvalidInput` for an answer that is none.
    """
    offer = await api.agents.offer()
    candidates = offer.found.candidates
    if not candidates:
        output.say("This machine has no provider's key, no known program and no local server.")
    offered = [str(each) for each in candidates]
    offered += [f"{model} (asks for your key)" for model in offer.models]
    for number, line in enumerate(offered, start=1):
        output.say(f"{number:>3}  {line}")
    for note in offer.found.notes:
        output.say(f"! {note}")
    index = _number(_answer("Agent", "1"), len(offered)) - 1
    free = DEFAULT_AGENT if offer.is_default_free else ""
    name = _answer("Name", free)
    if index < len(candidates):
        chosen = candidates[index]
        if chosen.hint:
            output.say(f"! {chosen.hint}")
        kind, settings = chosen.kind, chosen.settings
    else:
        key = documents.read_hidden_value("key", "Key", "key.txt").strip()
        kind, settings = "model", {"model": offer.models[index - len(candidates)], "api_key": key}
    return NewAgent(name, kind, settings, replace=name == free)


def _answer(question: str, default: str) -> str:
    shown = f"{question} [{default}]: " if default else f"{question}: "
    print(shown, end="", file=sys.stderr, flush=True)
    with on_interrupt():
        typed = sys.stdin.readline()
    answer = typed.strip() or (default if typed else "")
    if not answer:
        raise InvalidInput(question.lower(), "nothing was typed", "type an answer at the prompt")
    return answer


def _number(answer: str, most: int) -> int:
    if not (answer.isascii() and answer.isdigit() and 1 <= int(answer) <= most):
        raise InvalidInput("agent", f'"{answer}" is not in the list', f"write 1 to {most}")
    return int(answer)
