"""The port of agents: a job's request to an agent, and the agent's reply."""

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
    """One message of a conversation, from the user or from the assistant."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True)
class Tool:
    """A tool that an agent may call while it answers, or that a client of Daybook's MCP server may
    call.

    ``schema`` is the JSON schema of its arguments, an object; ``call`` takes the arguments and
    returns its answer as text. ``call`` raises `DaybookError`; the model or client reads that
    message too, so it says what to do instead.

    The flags describe a call: ``read_only`` changes nothing, anywhere; ``destructive`` overwrites
    or removes something; ``idempotent`` changes nothing more if it is repeated; ``open_world``
    affects systems other than Daybook; ``may_wait`` waits before it changes something, so it is
    cancelled if its client disconnects.
    """

    name: str
    description: str
    schema: dict[str, Any] = field(hash=False)
    call: Callable[[dict[str, Any]], Awaitable[str]]
    read_only: bool = False
    destructive: bool = False
    idempotent: bool = False
    open_world: bool = False
    may_wait: bool = False


@dataclass(frozen=True)
class McpServers:
    """The MCP servers that a program may use: its configuration file, and which parts are secret.

    ``variables`` are the environment variables given to the servers, by name; ``secrets`` are other
    secret values.
    """

    config: dict[str, Any] = field(hash=False, repr=False)
    variables: dict[str, str] = field(default_factory=dict, hash=False, repr=False)
    secrets: frozenset[str] = field(default=frozenset(), repr=False)


@dataclass(frozen=True)
class AgentRequest:
    """One question, for one occurrence.

    ``timeout`` is in seconds and limits this attempt. ``occurrence`` is the occurrence key of
    `daybook.runs`; ``job`` is the job's name, None for a run without a job; ``due`` is the due time
    as a timezone-aware instant, None for a run that was not scheduled. ``history`` holds the
    messages before ``prompt``, oldest first, already bounded by the caller. ``model`` is the model
    that the job requests instead of the agent's own, in the format of the agent's setting; empty
    means the agent's own. Agents without a choice of models refuse any (`refuse_model`).
    ``question`` is 1, and 2 if an attempt asks once more because the first answer did not fit.
    ``tools`` are the tools that the agent may call while it answers, ``tokens`` the maximum number
    of tokens of the answer, None without a limit. ``repeatable``: the whole request may be tried
    again after its tools were called. ``servers`` are the MCP servers that an agent that is a
    program may use instead of ``tools``. The agent calls ``took`` before each call of a tool, with
    the usage so far in the format of `AgentReply.usage`.
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
        """Return the idempotency key of an outgoing request for this question.

        The key is the occurrence, the same in every attempt (promise 4: the effect carries the
        occurrence). A second question, or a later ``step`` of one answer, is a different request
        and needs another key: with the same key the receiver could return the first answer again.
        Characters that a header cannot hold are percent-encoded.
        """
        key = quote(self.occurrence, safe=_UNQUOTED)
        key += f"#{self.question}" if self.question > 1 else ""
        return key + (f".{step}" if step > 1 else "")


_UNQUOTED = punctuation.replace("%", "")


@dataclass(frozen=True)
class AgentReply:
    """The answer of an agent.

    ``text`` is the answer and nothing else, ``result`` its JSON value if the agent answers in JSON,
    ``agent`` the agent's name, ``model`` the model's name and ``usage`` the usage of the answer, if
    the agent knows them. ``cut`` says why the text is only the beginning of the answer; empty if
    the text is complete.

    Keys of ``usage``: ``requests``; ``input_tokens`` and ``output_tokens``, None if the provider
    reported none; ``cache_read_tokens`` and ``cache_write_tokens``, which are parts of the input
    tokens, and ``tool_calls``, all left out when 0; ``cost_usd``, in US dollars, None if the price
    is not known.
    """

    text: str
    agent: str
    result: Any = None
    model: str | None = None
    usage: dict[str, Any] | None = None
    cut: str = ""


class Agent(Protocol):
    """Answers prompts. The contract is in the docstring of `daybook.agents`."""

    @property
    def name(self) -> str:
        """The name by which jobs refer to this agent."""
        ...

    async def answer(self, request: AgentRequest) -> AgentReply:
        """Answer once, without retries.

        Raises `AgentTemporary` and `AgentTimeout`, after which the caller may ask the same question
        again, and `AgentFailed` and `AgentMisconfigured`, after which it may not.
        """
        ...


def refuse_model(name: str, kind: str, model: str) -> None:
    """Raise `AgentMisconfigured` if the job requests a model; for agents without a choice of
    models.
    """
    if model:
        raise AgentMisconfigured(
            f'the job requests the model "{model}", but agent "{name}" is {kind} and has no '
            "choice of models; leave out the model, or name a model agent"
        )


OWN_TOOLS = "daybook"
"""Names Daybook's own tools, even if something else has that name."""

MAX_ENTRIES = 50
MAX_ENTRY_LENGTH = 200


def check_tool_entries(entries: list[str]) -> list[str]:
    """Return ``entries``; raises ValueError for an entry that cannot name a tool."""
    if len(entries) > MAX_ENTRIES:
        raise ValueError(f"has too many entries; the maximum is {MAX_ENTRIES}")
    for entry in entries:
        if not entry or len(entry) > MAX_ENTRY_LENGTH or not entry.isprintable() or " " in entry:
            raise ValueError("has an entry that is not a tool name; write server or server.tool")
        if "://" in entry:
            raise ValueError(
                f'"{entry}" is an address; save the server with `daybook tools add` and use that'
            )
    return entries


def check_server_entries(entries: list[str]) -> list[str]:
    """Return ``entries``, for an agent that can use only whole servers; raises ValueError."""
    for entry in check_tool_entries(entries):
        if "." in entry or "*" in entry:
            raise ValueError(
                f'"{entry}" selects some tools of a server, but a program gets all of them; '
                f"write {entry.partition('.')[0].rstrip('*')}"
            )
    return entries
