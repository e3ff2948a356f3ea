"""The port: what a job asks an agent, and what comes back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from string import punctuation
from typing import Any, Literal, Protocol
from urllib.parse import quote

from daybook.errors import AgentMisconfigured


@dataclass(frozen=True)
class Message:
    """One message of a conversation: the prompt's side or the answer's."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True)
class Tool:
    """A tool that is offered to an agent while it answers, or to a client of ours.

    ``schema`` is the JSON schema of its arguments, an object's; ``call`` takes them and gives what
    is read, as text. It raises `DaybookError`, whose words are read as well: they say what to do
    instead. ``read_only``: it changes nothing, wherever.
    """

    name: str
    description: str
    schema: dict[str, Any] = field(hash=False)
    call: Callable[[dict[str, Any]], Awaitable[str]]
    read_only: bool = False


@dataclass(frozen=True)
class McpServers:
    """The MCP servers that a program may use: what stands in its file, and what of it is secret.

    ``variables`` are those that the servers are given, by their names; ``secrets`` other values.
    """

    config: dict[str, Any] = field(hash=False, repr=False)
    variables: dict[str, str] = field(default_factory=dict, hash=False, repr=False)
    secrets: frozenset[str] = field(default=frozenset(), repr=False)


@dataclass(frozen=True)
class AgentRequest:
    """One question, for one occurrence.

    ``timeout`` is in seconds and bounds this attempt. ``occurrence`` is the occurrence key of
    `daybook.runs`; ``job`` the job's name, None for a run without a job; ``due`` the due time as a
    timezone-aware instant, None for a run that nobody scheduled. ``history`` is what was said
    before ``prompt``, oldest first, already bounded by the caller. ``model`` is the model that the
    job wants in place of the agent's own, written as the agent's setting is; empty is its own.
    Agents that have no model to choose refuse any (`refuse_model`). ``question`` is 1, and 2 where
    an attempt asks once more because the first answer did not fit. ``tools`` are what the agent may
    call meanwhile, ``tokens`` the most that the answer may take, None where nothing limits it.
    ``repeatable`` says that the whole may be tried again after its tools were called. ``servers``
    are what an agent that is a program may use in place of ``tools``. ``took`` is told what the
    answer has taken so far, as `AgentReply.usage` has it, before each call of a tool.
    """

    prompt: str
    timeout: float
    occurrence: str
    job: str | None = None
    due: datetime | None = None
    history: tuple[Message, ...] = ()
    model: str = ""
    question: int = 1
    tools: tuple[Tool, ...] = ()
    tokens: int | None = None
    repeatable: bool = False
    took: Callable[[dict[str, Any]], None] | None = field(default=None, compare=False)
    servers: McpServers | None = None

    def idempotency_key(self, step: int = 1) -> str:
        """What an outgoing request of this question is known by: rule 4 of promise.md.

        It is the occurrence, the same in every attempt. A second question of it, or a later
        ``step`` of one answer, says something else: with the same key it would be told the first
        answer once more. What no header can hold is written as ``%`` and two digits.
        """
        key = quote(self.occurrence, safe=_SENT_AS_IT_IS)
        key += f"#{self.question}" if self.question > 1 else ""
        return key + (f".{step}" if step > 1 else "")


_SENT_AS_IT_IS = punctuation.replace("%", "")


@dataclass(frozen=True)
class AgentReply:
    """The answer.

    ``text`` is the answer and nothing else, ``result`` its JSON value when the agent answers in
    JSON, ``agent`` the agent's name, ``model`` the model's name and ``usage`` what the answer took,
    where the agent knows them. ``cut`` says why the text is only the beginning of the answer; empty
    when it is the whole.

    The keys of ``usage``: ``requests``; ``input_tokens`` and ``output_tokens``, None when the other
    side told none; ``cache_read_tokens`` and ``cache_write_tokens``, parts of the input's, and
    ``tool_calls``, all left out when 0; ``cost_usd``, US dollars, None when the price is not known.
    """

    text: str
    agent: str
    result: Any = None
    model: str | None = None
    usage: dict[str, Any] | None = None
    cut: str = ""


class Agent(Protocol):
    """Answers prompts. The contract stands in the docstring of `daybook.agents`."""

    @property
    def name(self) -> str:
        """The name by which jobs refer to this agent."""
        ...

    async def answer(self, request: AgentRequest) -> AgentReply:
        """Answer once, without retries of its own.

        Raises `AgentTemporary` and `AgentTimeout`, after which the same question may be asked
        again, and `AgentFailed` and `AgentMisconfigured`, after which it may not.
        """
        ...


def refuse_model(name: str, kind: str, model: str) -> None:
    """For agents without a model: raise `AgentMisconfigured` where the job wants a certain one."""
    if model:
        raise AgentMisconfigured(
            f'the job wants the model "{model}", but agent "{name}" is {kind} and has none '
            "to choose; leave out the model, or name a model agent"
        )
