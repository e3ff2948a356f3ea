"""Steps of an agent's answer, and the interface of the journal that records them.

::

    start ──► None: the request is sent, or the tool is called ──► finish
      └─────► the reply of an earlier attempt, which takes its place

A model agent passes each step to the journal before the step, and the step's reply after it. If the
journal cannot record the start of a step, the step must not happen. A command agent reports steps
that its program has already started (`Journal.report`).
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

Kind = Literal["request", "tool", "instructions", "command"]
"""The kind of a step: a request to a model, a call of a tool, instructions that were read, or a
command of the job."""


@dataclass(frozen=True, order=True)
class StepPosition:
    """Place of a step in a run, the same in each attempt.

    ``agent`` is `AgentRequest.fallback`, and ``question`` is `AgentRequest.question`. ``request``
    is the number of the request within its answer, from 1. ``call`` is the number of the tool call
    within its response, from 1, in the order in which the model wrote the calls. A ``call`` of 0
    means the request itself.

    Positions are ordered. As text, the second call of the third response is `3.2`. The prefix `#2.`
    marks the question that repairs an answer, and `#3.` the next question of a workspace; the
    prefix `~1.` marks the first fallback agent.
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
    def parse(cls, text: str) -> StepPosition:
        """Return the position whose text is ``text``."""
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


_FACTS = {
    "settings": "the settings of the model have",
    "instructions": "the system prompt has",
    "messages": "the prompt, or a message before it, has",
}
"""The facts of a request whose values are digests, as a sentence about a change begins."""


@dataclass(frozen=True)
class PlannedStep:
    """A step before it happens.

    ``name`` is the model's name, the tool's name as the model uses it, or a file's. ``facts`` are
    the parts of the request or call, by name; `digest` is the digest of all facts. ``input`` is the
    request or call as text for people. ``repeatable`` is true if a second equal step has no further
    effect. ``estimate`` is the probable usage of a request, which budgets reserve. Budgets do not
    count a step without an estimate. If ``needs_approval`` is true, the step may happen only after
    a person has approved it.
    """

    position: StepPosition
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

    def difference(self, before: Mapping[str, Any]) -> str:
        """Return a description of how this step differs from one with the facts ``before``."""
        now = self.facts
        if self.kind == "tool":
            return f"it called {before.get('tool', 'a tool')}, and {self.name} is called now"
        words = []
        if before.get("model") != now.get("model"):
            words.append(f"the model was {before.get('model')} and is {now.get('model')}")
        had, has = before.get("tools", {}), now.get("tools", {})
        words += [f"the tool {name} is gone" for name in had.keys() - has.keys()]
        words += [f"the tool {name} is new" for name in has.keys() - had.keys()]
        shared = had.keys() & has.keys()
        words += [f"the tool {name} has changed" for name in shared if had[name] != has[name]]
        for name, what in _FACTS.items():
            if before.get(name) != now.get(name):
                words.append(f"{what} changed")
        return ", ".join(sorted(words)) or "the request has changed"


@dataclass(frozen=True)
class StepReply:
    """The reply to a step: ``output`` is a text for people.

    If the step failed, there is an ``error``. ``usage`` is the usage of a request to a model, in
    the format of `ledger.states.Usage`. ``value`` is the complete reply as JSON, from which a later
    attempt can continue; None if no attempt can. ``may_cost`` is true if a request without a known
    usage may have cost something. Then budgets continue to count its estimate. ``amount`` is the
    amount that budgets count, if it differs from the usage of this step.
    """

    output: str = field(default="", repr=False)
    error: str = ""
    usage: Mapping[str, Any] | None = None
    value: Any = field(default=None, repr=False)
    may_cost: bool = False
    amount: Amount | None = None


def arguments_text(arguments: Mapping[str, Any]) -> str:
    """Return the arguments of a tool call as text for people."""
    return ", ".join(
        f"{name}={json.dumps(value, ensure_ascii=False, default=str)}"
        for name, value in arguments.items()
    )


@dataclass(frozen=True)
class ProgramSession:
    """A program's own conversation.

    - ``id``: the program's id of it; empty until the program has printed it.
    - ``tokens``: counts of tokens of the whole conversation, as the program reported them last;
      None if they are unknown. Only a program that reports such sums has them.
    - ``has_unreported``: true if the conversation may have used more tokens than ``tokens``, in an
      answer that has not ended, or whose program failed.
    - ``is_full``: true if it is too long for the program's model, so it cannot be continued.
    """

    id: str = ""
    tokens: Mapping[str, int] | None = None
    has_unreported: bool = False
    is_full: bool = False


class Journal(Protocol):
    """Journal of one attempt of a run."""

    async def limits_usd(self) -> bool:
        """Return whether a budget in US dollars limits the run."""
        ...

    async def is_limited(self) -> bool:
        """Return whether a budget limits the run."""
        ...

    async def start(self, step: PlannedStep) -> StepReply | None:
        """Record the start of ``step``. Return None if the step may happen now.

        If the step happened or may have happened in an earlier attempt, return the reply to use
        instead. If the requests of other runs have reserved the rest of a budget, wait for those
        requests.

        Raise `ApprovalNeeded` if a person has to decide first. Then the process leaves the attempt,
        which continues at this step after the decision. Raise `LedgerError` if another process took
        over the run, and `AgentFailed` if the attempt has to stop. Raise `AgentMisconfigured` if a
        budget in US dollars limits a request whose price is not known.
        """
        ...

    async def finish(self, step: PlannedStep, reply: StepReply) -> None:
        """Record the reply to the step that was started last at this position.

        If the reply to a request is useless, the agent calls `finish` again, with an error. Then
        the next attempt does not continue from that reply.
        """
        ...

    async def show(self, step: PlannedStep, text: str) -> None:
        """Show the text of the reply so far, until the step ends.

        The text has no effect on any attempt. Raise no error of the ledger.
        """
        ...

    async def report(self, step: PlannedStep, reply: StepReply | None = None) -> None:
        """Record a step that a program has already started.

        No later attempt continues from this step. If ``reply`` is None, the caller calls `finish`
        when the program prints the reply. Raise `LedgerError` if another process took over the run.
        """
        ...

    async def program_session(self, session: ProgramSession, *, resumed: bool) -> None:
        """Record the program's own conversation, in place of the one recorded before.

        If ``resumed``, the answer continues the conversation of `AgentRequest.resume`. Raise
        `LedgerError` if another process took over the run.
        """
        ...

    async def acting_agent(self) -> int | None:
        """Return the agent whose calls in earlier attempts may have had effects.

        The result is a `StepPosition.agent`; None if there were no such calls.
        """
        ...


def digest_of(value: Any) -> str:
    """Return the SHA-256 digest, in hexadecimal, of a JSON value as the ledger stores it."""
    written = json.dumps(texts.sanitize(value), sort_keys=True, default=str)
    return hashlib.sha256(written.encode()).hexdigest()
