"""Steps of an agent's answer, and the interface of the journal that records them.

::

    start ──► None: the request is sent, or the tool is called ──► finish
      └─────► the reply of an earlier attempt, which takes its place

An agent passes each step to the journal before it acts, and its reply afterwards. A step that
cannot be recorded as started must not happen.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

from daybook.ledger import texts
from daybook.runs.usage import Amount

Kind = Literal["request", "tool"]
"""A step is a request to a model, or a call of a tool."""


@dataclass(frozen=True, order=True)
class Position:
    """Place of a step in a run, the same in each attempt.

    ``agent`` and ``question`` are those of `AgentRequest`. ``request`` counts the requests of one
    answer from 1, and ``call`` the tool calls of one response from 1, in the order in which the
    model wrote them; it is 0 for the request itself.

    Positions are ordered. The text of one is `3.2` for the second call of the third response. `#2.`
    before it marks the question that repairs an answer, and `~1.` the first fallback agent.
    """

    agent: int
    question: int
    request: int
    call: int = 0

    def __str__(self) -> str:
        marks = [f"~{self.agent}"] if self.agent else []
        marks += [f"#{self.question}"] if self.question > 1 else []
        numbers = [str(self.request), str(self.call)] if self.call else [str(self.request)]
        return ".".join([*marks, *numbers])

    @classmethod
    def parse(cls, text: str) -> Position:
        """Return the position that has this text."""
        agent, question, numbers = 0, 1, list[int]()
        for part in text.split("."):
            match part[:1]:
                case "~":
                    agent = int(part[1:])
                case "#":
                    question = int(part[1:])
                case _:
                    numbers.append(int(part))
        return cls(agent, question, *numbers)


@dataclass(frozen=True)
class Step:
    """A step before it happens.

    ``name`` is the model, or the tool by the name that the model uses. ``facts`` are what the step
    asks for, by name; `digest` is that of all of them. ``input`` is the same as a text for people.
    ``repeatable``: a repetition has no second effect. ``estimate`` is what a request will probably
    use, which budgets reserve; they do not count a step without one. ``needs_approval``: it may
    happen only if a person has approved it.
    """

    position: Position
    kind: Kind
    name: str
    facts: Mapping[str, Any] = field(repr=False)
    input: str = field(repr=False)
    repeatable: bool
    estimate: Amount | None = None
    needs_approval: bool = False

    @cached_property
    def digest(self) -> str:
        """Return the SHA-256 digest of the facts, in hexadecimal digits."""
        return digest_of(self.facts)


@dataclass(frozen=True)
class StepReply:
    """What came back: ``output`` as a text for people, or an ``error``.

    ``usage`` is that of a request to a model, as in `AgentReply`. ``value`` is the complete reply
    as JSON, from which a later attempt can continue; None if it cannot. ``may_cost``: a request
    without usage may have cost something, so budgets go on counting its estimate. ``amount`` is
    what they count if it is not the usage of this step alone.
    """

    output: str = field(default="", repr=False)
    error: str = ""
    usage: Mapping[str, Any] | None = None
    value: Any = field(default=None, repr=False)
    may_cost: bool = False
    amount: Amount | None = None


def arguments_text(arguments: Mapping[str, Any]) -> str:
    """Return the arguments of a tool call as a text for people."""
    return ", ".join(
        f"{name}={json.dumps(value, ensure_ascii=False, default=str)}"
        for name, value in arguments.items()
    )


class Journal(Protocol):
    """Journal of one attempt of a run."""

    async def limits_usd(self) -> bool:
        """Return whether a budget in US dollars limits the run."""
        ...

    async def start(self, step: Step) -> StepReply | None:
        """Record the start of ``step``, which may happen after that.

        If it must not happen, because it has happened in an earlier attempt or may have, return the
        reply to use instead. If the requests of other runs have reserved the rest of a budget, wait
        for them. Raise `ApprovalNeeded` if a person has to decide first: then the attempt is left,
        and goes on here after the decision. Raise `LedgerError` if the run was taken over,
        `AgentFailed` if the attempt has to stop, and `AgentMisconfigured` if the price of a request
        is not known but limited.
        """
        ...

    async def finish(self, step: Step, reply: StepReply) -> None:
        """Record the reply of the step that was started last at this position.

        A request whose reply turned out to be useless is finished once more, with an error, so
        that the next attempt does not continue from it.
        """
        ...

    async def report(self, step: Step, reply: StepReply | None = None) -> None:
        """Record a step of a program, which has started it already; no later attempt continues it.

        Without ``reply``, `finish` follows when the program says what came back. Raise
        `LedgerError` if the run was taken over.
        """
        ...

    async def acting_agent(self) -> int | None:
        """Return the agent that made calls in earlier attempts which may have had effects.

        It is that of `Position.agent`; None if there were no such calls.
        """
        ...


def digest_of(value: Any) -> str:
    """Return the SHA-256 digest of a JSON value, in hexadecimal digits.

    It is that of the value as the ledger stores it, because a later attempt reads it there.
    """
    written = json.dumps(texts.sanitize(value), sort_keys=True, default=str)
    return hashlib.sha256(written.encode()).hexdigest()
