"""Interface between jobs and agents: a request, the reply, and the protocol `Agent`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from string import punctuation
from typing import Annotated, Any, Literal, Protocol
from urllib.parse import quote

from pydantic import AfterValidator, Field

from daybook import names
from daybook.agents.journal import Journal, ProgramSession
from daybook.agents.pictures import Picture
from daybook.agents.program_sandbox import ProgramSandbox
from daybook.errors import AgentMisconfigured
from daybook.feature import features
from daybook.json_text import JsonObject
from daybook.ledger.states import Usage
from daybook.markers import Marker
from daybook.policies.compression import Compression
from daybook.validation import raising_pydantic_error


@dataclass(frozen=True)
class ChatMessage:
    """One message of a conversation, written by the user or by the assistant."""

    role: Literal["user", "assistant"]
    content: str
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True)
class Tool:
    """A tool for an agent that answers a prompt, or for a client of Daybook's MCP server.

    ``schema`` is the JSON schema of the arguments, which are one JSON object. ``call`` takes the
    arguments and returns the tool's answer as text. If ``call`` raises `DaybookError`, the model or
    the client reads the message, so the message has to contain a fix. If an earlier attempt has
    already made a call, the agent calls ``skipped`` with the arguments instead of ``call``.

    The flags describe a call:

    - ``read_only``: it changes nothing in any system.
    - ``destructive``: it overwrites or removes something.
    - ``idempotent``: a second equal call has no further effect.
    - ``open_world``: it affects systems other than Daybook.
    - ``may_wait``: it may wait before it changes something. If the client disconnects, the server
      cancels it.
    - ``needs_approval`` returns whether a run makes it only after a person has approved it
      (`daybook.runs.approvals`).
    - ``is_untrusted``: its answer may contain texts of strangers, such as a page of the web.
    - ``is_private``: its answer contains private texts, such as mail. After it, a person has to
      approve each call of a tool that ``can_leak``.
    - ``can_leak``: its call can carry a text to any address, which a stranger's text may name.
    """

    name: str
    description: str
    schema: JsonObject = field(hash=False)
    call: Callable[[JsonObject], Awaitable[str]]
    read_only: bool = False
    destructive: bool = False
    idempotent: bool = False
    open_world: bool = False
    may_wait: bool = False
    needs_approval: Callable[[], bool] = field(default=lambda: False, compare=False)
    is_untrusted: bool = False
    is_private: bool = False
    can_leak: bool = False
    skipped: Callable[[JsonObject], None] = field(default=lambda _: None, compare=False)

    @property
    def is_repeatable(self) -> bool:
        """Return whether a second equal call has no further effect."""
        return self.read_only or self.idempotent


@dataclass(frozen=True)
class McpServers:
    """The MCP servers that a program may use.

    ``config`` is the content of the program's configuration file. ``variables`` has the servers'
    environment variables in ``config``, by name. ``secrets`` are other values in ``config`` that
    are secret.
    """

    config: JsonObject = field(hash=False, repr=False)
    variables: dict[str, str] = field(default_factory=dict, hash=False, repr=False)
    secrets: frozenset[str] = field(default=frozenset(), repr=False)


@dataclass(frozen=True)
class ProgramFolder:
    """A folder of files for a program, such as a skill.

    ``name`` is the folder's name. ``files`` maps the path of each file, relative to the folder and
    with `/`, to its content; ``digest`` is their digest.
    """

    name: str
    digest: str
    files: Mapping[str, bytes] = field(hash=False, repr=False)


@dataclass(frozen=True)
class AgentRequest:
    """A prompt for an agent, with its context.

    - ``timeout``: limit of this attempt, in seconds.
    - ``occurrence``: occurrence key of the run.
    - ``job``: the job's name; None for a run without a job.
    - ``due``: the due time, timezone-aware; None for a run that was not scheduled.
    - ``pictures``: pictures that belong to ``prompt``; a program gets them as ``folders`` instead.
    - ``history``: messages before ``prompt``, oldest first; the caller has limited their length.
    - ``model``: model that the job requests, in the format of the agent's setting; empty for the
      agent's own model. An agent without a choice of models refuses any model (`refuse_model`).
    - ``question``: 1, or 2 if the attempt asks again because the first answer did not match the
      schema of the job. The next question of a workspace has 3 and 4, and so on.
    - ``fallback``: position of this agent among the job's fallback agents, from 1; 0 for the job's
      own agent.
    - ``tools``: tools that the agent may call while it answers.
    - ``tokens``: maximum sum of the input and output tokens of all requests; None without a limit.
    - ``repeatable``: true if the whole request may be retried after its tools were called.
    - ``took``: function that gets the usage so far, in the format of `ledger.states.Usage`. A model
      agent calls it before each tool call, and a command agent whenever the usage changes.
    - ``servers``: MCP servers for an agent that is a program; such an agent gets no ``tools``.
    - ``folders``: folders that such an agent finds while it runs (`agents.program_folders`).
    - ``work_dir``: real path of the job's work directory. A program runs there. If it is empty, the
      program runs in the agent's own work directory.
    - ``sandbox``: the sandbox of an agent that is a program; None for none.
    - ``instructions``: instructions that a model gets after the agent's own system prompt.
    - ``once``: true if the agent may send only one request to the model, even if the model calls a
      tool.
    - ``run_id``, ``attempt``: the run, "" if there is none, and the number of its attempt.
    - ``resume``: a program's own conversation that ends with the last message of ``history``; None
      if there is none.
    - ``journal``: journal to which the agent passes each of its steps; None for no journal.
    """

    prompt: str
    timeout: float
    occurrence: str
    job: str | None = None
    due: datetime | None = None
    pictures: tuple[Picture, ...] = ()
    history: tuple[ChatMessage, ...] = ()
    model: str = ""
    question: int = 1
    fallback: int = 0
    tools: tuple[Tool, ...] = ()
    tokens: int | None = None
    repeatable: bool = False
    took: Callable[[Usage], None] | None = field(default=None, compare=False)
    servers: McpServers | None = None
    folders: tuple[ProgramFolder, ...] = field(default=(), repr=False)
    work_dir: str = ""
    sandbox: ProgramSandbox | None = None
    instructions: str = field(default="", repr=False)
    once: bool = False
    run_id: str = ""
    attempt: int = 1
    resume: ProgramSession | None = None
    journal: Journal | None = field(default=None, compare=False, repr=False)

    def idempotency_key(self, step: int = 1) -> str:
        """Return the idempotency key of an outgoing request for this question, percent-encoded.

        It is the same in every attempt (promise 4: the effect carries the occurrence). A fallback
        agent, a second question and a later ``step`` each have another key, because for the same
        key a receiver could return the first answer again.
        """
        key = quote(self.occurrence, safe=_UNQUOTED)
        key += f"~{self.fallback}" if self.fallback else ""
        key += f"#{self.question}" if self.question > 1 else ""
        return key + (f".{step}" if step > 1 else "")


_UNQUOTED = punctuation.replace("%", "")


@dataclass(frozen=True)
class AgentReply:
    """The answer of an agent.

    ``text`` is the answer and nothing else. If the agent answers in JSON, ``result`` is the JSON
    value of the answer. ``model`` is the model's name, and ``usage`` is the usage of the answer;
    each is None if it is unknown. If ``text`` is only the beginning of the answer, ``cut`` is the
    reason; otherwise it is empty. ``warnings`` are remarks about the reply for the run.
    """

    text: str
    agent: str
    result: Any = None
    model: str | None = None
    usage: Usage | None = None
    cut: str = ""
    warnings: tuple[str, ...] = ()


class Agent(Protocol):
    """Interface of agents. The docstring of `daybook.agents` contains its contract."""

    @property
    def name(self) -> str:
        """Return the name by which jobs refer to this agent."""
        ...

    async def answer(self, request: AgentRequest) -> AgentReply:
        """Answer once, without retries.

        After `AgentTemporary` and `AgentTimeout`, the caller may repeat the request, unless
        `AgentError.allows_retry` is false. After `AgentTemporary` and `AgentMisconfigured`, it may
        ask another agent, unless `AgentError.allows_fallback` is false. After `AgentFailed`, it
        must do neither. Raise also the errors of the request's journal.
        """
        ...


class StoredAgent(Agent, Protocol):
    """An agent that its kind built from stored settings (`daybook.agents.kinds`)."""

    @property
    def tools(self) -> list[str]:
        """Return the tools that the agent may call while it answers, as the operator wrote them."""
        ...

    @property
    def compression(self) -> Compression:
        """Return which part of a session a model gets, for jobs without a setting of their own."""
        ...

    @property
    def is_program(self) -> bool:
        """Return whether the agent gets tool servers (`AgentRequest.servers`), not single tools."""
        ...

    def takes_pictures(self, model: str) -> bool:
        """Return whether the agent gets the pictures of a prompt, if the job requests ``model``.

        An agent that is a program gets them as files.
        """
        ...

    def check_model(self, model: str) -> None:
        """Raise `AgentMisconfigured` if the agent cannot use ``model``.

        An empty ``model`` means the agent's own model. `answer` raises this error too, but this
        check needs no key. It may import pydantic-ai.
        """
        ...


def refuse_model(name: str, kind: str, model: str) -> None:
    """Raise `AgentMisconfigured` if a job requests a ``model``, of which the agent has no choice.

    ``kind`` describes the agent, such as "a command".
    """
    if model:
        raise AgentMisconfigured(
            f'the job requests the model "{model}", but agent "{name}" is {kind} and has no '
            "choice of models; remove the model, or use a model agent"
        )


def _check_capabilities(value: list[str]) -> list[str]:
    with raising_pydantic_error():
        return names.validate_capabilities(value)


OWN_TOOLS = "daybook"
"""Name that means Daybook's own tools, even if a tool server or Python tool has this name."""

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

Daybook compares the capabilities with the requirements of a task. The value is sorted and has no
duplicates.
"""

MAX_ENTRIES = 50
MAX_ENTRY_LENGTH = 200


def check_tool_entries(entries: list[str]) -> list[str]:
    """Return ``entries``. Raise ValueError if there are too many, or if one is not a tool name."""
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


def is_folder_entry(entry: str) -> bool:
    """Return whether an entry names folders that a feature offers to programs, and no server."""
    words = {word for each in features() for word, _ in each.program_folders}
    return entry.partition(".")[0] in words


def check_server_entries(entries: list[str]) -> list[str]:
    """Return ``entries``. Raise ValueError if an entry names neither a server nor folders.

    Raise also the errors of `check_tool_entries`.
    """
    for entry in check_tool_entries(entries):
        if ("." in entry or "*" in entry) and not is_folder_entry(entry):
            raise ValueError(
                f'"{entry}" selects single tools, but a program gets all tools of a server; '
                f"use {entry.partition('.')[0].rstrip('*')}"
            )
    return entries
