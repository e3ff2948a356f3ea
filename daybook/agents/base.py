"""Interface between jobs and agents: a request, the reply, and the protocol `Agent`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from string import punctuation
from typing import Annotated, Any, Literal, Protocol
from urllib.parse import quote

from pydantic import AfterValidator, Field

from daybook.agents.journal import Journal
from daybook.errors import AgentMisconfigured
from daybook.jobs.compression import Compression
from daybook.jobs.markers import Marker
from daybook.tasks import model as task_model
from daybook.validation import raising_pydantic_error


@dataclass(frozen=True)
class Message:
    """One message of a conversation, from the user or from the assistant."""

    role: Literal["user", "assistant"]
    content: str


@dataclass(frozen=True)
class Tool:
    """A tool for an agent that answers a prompt, or for a client of Daybook's MCP server.

    ``schema`` is the JSON schema of its arguments, an object; ``call`` takes the arguments and
    returns its answer as text. ``call`` raises `DaybookError`, whose message the model or the
    client reads, so the message says what to do instead. ``skipped`` is called in place of
    ``call``, with the arguments, if the call is not made because an earlier attempt has made it.

    The flags describe a call: ``read_only`` changes nothing in any system; ``destructive``
    overwrites or removes something; ``idempotent`` changes nothing more if it is repeated;
    ``open_world`` affects systems other than Daybook; ``may_wait`` waits before it changes
    something, so it is cancelled if its client disconnects. ``needs_approval``: a run calls it only
    if a person has approved the call (`daybook.runs.approvals`).
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
    needs_approval: bool = False
    skipped: Callable[[dict[str, Any]], None] = field(default=lambda _: None, compare=False)

    @property
    def is_repeatable(self) -> bool:
        """Whether a repeated call has no second effect."""
        return self.read_only or self.idempotent


@dataclass(frozen=True)
class McpServers:
    """The MCP servers that a program may use.

    ``config`` is the content of the program's configuration file. It contains ``variables``, which
    maps the names of the servers' environment variables to their values, and ``secrets``, other
    secret values.
    """

    config: dict[str, Any] = field(hash=False, repr=False)
    variables: dict[str, str] = field(default_factory=dict, hash=False, repr=False)
    secrets: frozenset[str] = field(default=frozenset(), repr=False)


@dataclass(frozen=True)
class AgentRequest:
    """A prompt for an agent, with its context.

    ``timeout`` is in seconds and limits this attempt. ``occurrence`` is the occurrence key of
    `daybook.runs`; ``job`` is the job's name, None for a run without a job; ``due`` is the due time
    as a timezone-aware instant, None for a run that was not scheduled. ``history`` holds the
    messages before ``prompt``, oldest first, already bounded by the caller. ``model`` is the model
    that the job requests instead of the agent's own, in the format of the agent's setting; empty
    means the agent's own. Agents without a choice of models refuse any (`refuse_model`).
    ``question`` is 2 if the attempt asks again because the first answer did not fit, else 1.
    ``fallback`` is the position of this agent among the job's fallback agents, counted from 1, or 0
    for the job's own agent.
    ``tools`` are the tools that the agent may call while it answers, ``tokens`` the maximum number
    of input and output tokens of all its requests, None without a limit. ``repeatable``: the whole
    request may be retried after its tools were called. ``servers`` are the MCP servers for an agent
    that is a program, which gets no ``tools``. ``work_dir`` is the real path of the job's work
    directory, in which a program runs instead of its own; empty for none. ``once``: the agent
    sends the model one request only, even if the model calls a tool. The agent calls ``took``
    before each call to a tool, with the usage so far in the format of `AgentReply.usage`. The agent
    passes each of its steps to ``journal``, if there is one.
    """

    prompt: str
    timeout: float
    occurrence: str
    job: str | None = None
    due: datetime | None = None
    history: tuple[Message, ...] = ()
    model: str = ""
    question: int = 1
    fallback: int = 0
    tools: tuple[Tool, ...] = ()
    tokens: int | None = None
    repeatable: bool = False
    took: Callable[[dict[str, Any]], None] | None = field(default=None, compare=False)
    servers: McpServers | None = None
    work_dir: str = ""
    once: bool = False
    journal: Journal | None = field(default=None, compare=False, repr=False)

    def idempotency_key(self, step: int = 1) -> str:
        """Return the idempotency key of an outgoing request for this question.

        The key is the occurrence, the same in every attempt (promise 4: the effect carries the
        occurrence). A fallback agent, a second question, or a later ``step`` of one answer needs
        another key: for the same key, the receiver could return the first answer again. Characters
        that a header cannot contain are percent-encoded.
        """
        key = quote(self.occurrence, safe=_UNQUOTED)
        key += f"~{self.fallback}" if self.fallback else ""
        key += f"#{self.question}" if self.question > 1 else ""
        return key + (f".{step}" if step > 1 else "")


_UNQUOTED = punctuation.replace("%", "")


@dataclass(frozen=True)
class AgentReply:
    """The answer of an agent.

    ``text`` is the answer and nothing else; ``result`` is its JSON value if the agent answers in
    JSON. ``model`` is the model's name and ``usage`` the usage of the answer, None if unknown.
    ``cut`` says why the text is only the beginning of the answer; empty if it is complete.

    Keys of ``usage``: ``requests``; ``input_tokens`` and ``output_tokens``, None if the provider
    reported none; ``cache_read_tokens`` and ``cache_write_tokens``, which are parts of the input
    tokens, and ``tool_calls``, each omitted when 0; ``cost_usd``, in US dollars, None if the price
    is not known.
    """

    text: str
    agent: str
    result: Any = None
    model: str | None = None
    usage: dict[str, Any] | None = None
    cut: str = ""


class Agent(Protocol):
    """Interface of agents. The docstring of `daybook.agents` has its contract."""

    @property
    def name(self) -> str:
        """The name by which jobs refer to this agent."""
        ...

    async def answer(self, request: AgentRequest) -> AgentReply:
        """Answer once, without retries.

        After `AgentTemporary` and `AgentTimeout` the caller may repeat the request; after
        `AgentFailed` and `AgentMisconfigured` it may not. After `AgentTemporary` and
        `AgentMisconfigured`, which mean that nothing was done, it may ask another agent.
        """
        ...


class StoredAgent(Agent, Protocol):
    """An agent that its kind built from stored settings (`daybook.agents.kinds`)."""

    @property
    def tools(self) -> list[str]:
        """The tools that the agent may call while it answers, as the operator wrote them."""
        ...

    @property
    def compression(self) -> Compression:
        """What a model gets of the sessions of jobs that do not say it."""
        ...

    @property
    def is_program(self) -> bool:
        """Whether the agent gets tool servers (`AgentRequest.servers`) instead of single tools."""
        ...

    def check_model(self, model: str) -> None:
        """Raise `AgentMisconfigured` for a model that the agent cannot use; empty means its own.

        `answer` raises this error too; this check needs no key. May import pydantic-ai.
        """
        ...


def refuse_model(name: str, kind: str, model: str) -> None:
    """Raise `AgentMisconfigured` if the job requests a model; for agents that offer no choice."""
    if model:
        raise AgentMisconfigured(
            f'the job requests the model "{model}", but agent "{name}" is {kind} and has no '
            "choice of models; remove the model, or use a model agent"
        )


def _check_capabilities(value: list[str]) -> list[str]:
    with raising_pydantic_error():
        return task_model.check_capabilities(value)


OWN_TOOLS = "daybook"
"""Name of Daybook's own tools; a tool server or a Python tool of this name is not used."""

Capabilities = Annotated[
    list[str],
    AfterValidator(_check_capabilities),
    Marker(option="capability"),
    Field(
        title="Capabilities",
        description=(
            "Capabilities of the agent, one per entry, spelled as in task requirements. If a task "
            "starves, Daybook runs a job that has the tag task-worker and whose agent has every "
            "required capability."
        ),
        examples=[["python", "review"]],
    ),
]
"""The setting `capabilities` of each kind of agent.

Daybook compares it with the requirements of a task. The words are unique and sorted.
"""

MAX_ENTRIES = 50
MAX_ENTRY_LENGTH = 200


def check_tool_entries(entries: list[str]) -> list[str]:
    """Return ``entries``; raise ValueError for too many, or for one that cannot name a tool."""
    if len(entries) > MAX_ENTRIES:
        raise ValueError(f"has too many entries; the maximum is {MAX_ENTRIES}")
    for entry in entries:
        if not entry or len(entry) > MAX_ENTRY_LENGTH or not entry.isprintable() or " " in entry:
            raise ValueError("has an entry that is not a tool name; use server or server.tool")
        if "://" in entry:
            raise ValueError(
                f'"{entry}" is a URL; save the server with `daybook tools add`, and use its name'
            )
    return entries


def check_server_entries(entries: list[str]) -> list[str]:
    """Return ``entries``; raise ValueError for an entry that names less than a whole server.

    Also raises the errors of `check_tool_entries`.
    """
    for entry in check_tool_entries(entries):
        if "." in entry or "*" in entry:
            raise ValueError(
                f'"{entry}" selects single tools, but a program gets all tools of a server; '
                f"use {entry.partition('.')[0].rstrip('*')}"
            )
    return entries
