"""Actions of a job by kind: an agent prompt, a webhook, a tool call, or a heartbeat."""

from __future__ import annotations

import json
import math
import re
from typing import Annotated, Any, Literal, Self, TypeAlias
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from daybook.errors import InvalidInput
from daybook.jobs import answer_schema
from daybook.names import validate_line
from daybook.validation import raising_pydantic_error

MAX_KEY_LENGTH = 100
RESERVED_KEY_PREFIXES = ("chat:", "job:", "run:")
"""Prefixes of Daybook's own session keys; a user's key may not start with one."""


MAX_URL_LENGTH = 4_000
MAX_BODY_LENGTH = 500_000
"""Characters. Prefect answers parameters above 512 KiB with 422."""
MAX_TOOL_NAME_LENGTH = 200
"""Characters of a tool's name; the URL of its server has its own limit on top."""
DEFAULT_ORDERS_FILE = "HEARTBEAT.md"
"""File of a heartbeat that names none."""
MAX_DEPTH = 100
"""Nesting levels of a tool's parameters."""

Kind = Literal["agent-prompt", "webhook", "tool-call", "heartbeat"]

CONVERSATION_KINDS = ("agent-prompt", "heartbeat")
"""Kinds whose runs ask an agent and continue a conversation."""

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
"""HTTP methods of a webhook."""


def _not_blank(prompt: str) -> str:
    if not prompt.strip():
        with raising_pydantic_error():
            raise InvalidInput("prompt", "is blank", "write what the agent is asked")
    return prompt


def _agent(name: str) -> str:
    if not name.strip():
        with raising_pydantic_error():
            raise InvalidInput("agent", "is blank", "name an agent, such as default")
    return _checked_length(name, "agent")


def _gate_agent(name: str) -> str:
    return _checked_length(name, "gate_agent")


def _checked_length(name: str, field: str) -> str:
    name = name.strip()
    if len(name) > MAX_KEY_LENGTH:  # it is part of its conversation's key
        with raising_pydantic_error():
            raise InvalidInput(field, "is too long", f"legal: at most {MAX_KEY_LENGTH} characters")
    return name


def _model(name: str) -> str:
    with raising_pydantic_error():
        return validate_line(name, "model")


_TOOL_HINT = "write name, server.tool, or https://host/path#tool"
_PREFECT_KEY = "__prefect_kind"
_NO_TEXT = re.compile("[\0\ud800-\udfff]")

Session = Literal["reuse", "new", "chat"]
"""Conversation that a job's runs continue: their own, none, or the channel's."""

OutputFormat = Literal["text", "json", "structured"]
"""Required format of an answer."""


class AgentPrompt(BaseModel):
    """Action of an `agent-prompt` job: ask an agent. The prompt is stored as it was written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: Annotated[str, AfterValidator(_not_blank)] = Field(
        title="Prompt",
        description="What the agent is asked. It may name {{due}}, {{job}} and {{last_output}}.",
    )
    agent: Annotated[str, AfterValidator(_agent)] = Field(
        default="default", title="Agent", description="The name of the agent that is asked."
    )
    model: Annotated[str, AfterValidator(_model)] = Field(
        default="",
        title="Model",
        description="The model that a model agent is to use instead of its own; empty is its own.",
    )
    session: Session = Field(
        default="reuse",
        title="Session",
        description="Whether the job's runs continue one conversation, each begins a new one, or "
        "they continue that of their channel and chat id (chat).",
    )
    session_key: str = Field(
        default="",
        title="Session key",
        description="The name of a conversation that several jobs of one agent share; empty is the "
        "job's own.",
    )
    output_format: OutputFormat = Field(
        default="text",
        title="Output format",
        description="What the answer has to be: text, any JSON, or JSON that fits the schema.",
    )
    output_schema: dict[str, Any] = Field(
        default_factory=dict,
        title="Output schema",
        description="The JSON schema of a structured answer.",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        with raising_pydantic_error():
            _check_session(self.session, self.session_key)
            if self.output_schema and self.output_format != "structured":
                legal = "give output_format structured with it"
                raise InvalidInput("output_schema", "only a structured answer has one", legal)
            if self.output_format == "structured":
                answer_schema.check(self.output_schema)
        return self


def _check_session(session: Session, key: str) -> None:
    if key and session != "reuse":
        raise InvalidInput("session_key", "a named session is always reused", "leave out session")
    if key != key.strip() or len(key) > MAX_KEY_LENGTH:
        legal = f"at most {MAX_KEY_LENGTH} characters, without blanks around"
        raise InvalidInput("session_key", "is not legal", legal)
    if key.startswith(RESERVED_KEY_PREFIXES):
        legal = "not " + "… or ".join(RESERVED_KEY_PREFIXES) + "…"
        raise InvalidInput("session_key", f'"{key}" is Daybook\'s own', legal)


def is_readable(url: str) -> bool:
    """Return whether a URL can be parsed: `http://[/` cannot."""
    try:
        urlsplit(url).hostname  # noqa: B018 - read for what it raises
    except ValueError:
        return False
    return True


def _url(url: str) -> str:
    """Check that the text is a URL; `daybook.http` decides whether it may be reached."""
    if len(url) > MAX_URL_LENGTH or not is_address(url) or not is_readable(url):
        with raising_pydantic_error():
            legal = (
                f"write one such as https://api.example.org/export, at most {MAX_URL_LENGTH:,} long"
            )
            raise InvalidInput("url", "is no web address", legal)
    return url


def _upper_case(method: object) -> object:
    return method.upper() if isinstance(method, str) else method


class Webhook(BaseModel):
    """Action of a `webhook` job: one HTTP request. 2xx is success."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: Annotated[str, AfterValidator(_url)] = Field(
        title="URL", description="The address that is called."
    )
    method: Annotated[Method, BeforeValidator(_upper_case)] = Field(
        default="POST", title="Method", description="The HTTP method."
    )
    headers: dict[str, str] = Field(
        default_factory=dict,
        title="Headers",
        description="Names and values; a secret only as {{secret:name}}.",
    )
    body: str = Field(
        default="",
        max_length=MAX_BODY_LENGTH,
        title="Body",
        description="What is sent, as it stands; JSON unless a Content-Type header says otherwise.",
    )


def _tool(name: str) -> str:
    """Check that the text can name a tool; `daybook.tools` decides whether the tool exists."""
    name = name.strip()
    longest = MAX_TOOL_NAME_LENGTH + (MAX_URL_LENGTH if is_address(name) else 0)
    with raising_pydantic_error():
        if not name or not name.isprintable():
            raise InvalidInput("tool", "is not legal" if name else "is blank", _TOOL_HINT)
        if is_address(name) and not name.partition("#")[2]:
            raise InvalidInput("tool", "is an address that names no tool", _TOOL_HINT)
        if len(name) > longest:
            raise InvalidInput("tool", "is too long", f"legal: at most {longest:,} characters")
        if is_address(name) and not is_readable(name):
            raise InvalidInput("tool", "is no web address", _TOOL_HINT)
    return name


def is_address(tool: str) -> bool:
    """Return whether a tool is named by the URL of its server."""
    return tool.lower().startswith(("http://", "https://"))


def _params(params: dict[str, Any]) -> dict[str, Any]:
    """Check that the parameters are strict JSON, and that Prefect stores them unchanged."""
    with raising_pydantic_error():
        check_json(params, "params", MAX_BODY_LENGTH)
    return params


def check_json(value: object, field: str, longest: int) -> None:
    """Check that ``value`` is JSON of at most ``longest`` characters.

    Every database and Prefect store such a value unchanged. Raises `InvalidInput` naming ``field``.
    """
    _check_json(value, field, 0)
    if len(json.dumps(value)) > longest:
        raise InvalidInput(field, "is too long", f"legal: at most {longest:,} characters")


def _check_json(value: object, field: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise InvalidInput(field, "is nested too deeply", f"legal: at most {MAX_DEPTH} levels")
    match value:
        case dict():
            for name, each in value.items():
                if not isinstance(name, str):
                    raise InvalidInput(field, f"{name!r} is no name", "write a text")
                _check_json(name, field, depth)
                if name == _PREFECT_KEY:
                    raise InvalidInput(field, f'"{name}" is Prefect\'s own word', "leave it out")
                _check_json(each, field, depth + 1)
        case list():
            for each in value:
                _check_json(each, field, depth + 1)
        case float() if not math.isfinite(value):
            raise InvalidInput(field, f"{value} is no JSON", "write a number, or null")
        case int() if not -(2**63) <= value < 2**63:
            raise InvalidInput(field, f"{value} has more than 64 bits", "write it as a text")
        case str() if _NO_TEXT.search(value):
            raise InvalidInput(
                field, "a text holds what no database keeps", "no NUL, no surrogates"
            )
        case str() | float() | int() | None:
            pass
        case _:
            raise InvalidInput(field, f"{value!r} is no JSON", "write texts, numbers, true, null")


class ToolCall(BaseModel):
    """Action of a `tool-call` job: call a tool once, with exactly these parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tool: Annotated[str, AfterValidator(_tool)] = Field(
        title="Tool",
        description="A Python tool's name, server.tool of a saved tool server, or an MCP server's "
        "address with the tool after #.",
    )
    params: Annotated[dict[str, Any], AfterValidator(_params)] = Field(
        default_factory=dict,
        title="Parameters",
        description="What it is called with, by name; a secret only as {{secret:name}}.",
    )


def _file(file: str) -> str:
    file = file.strip()
    with raising_pydantic_error():
        if not file or not file.isprintable() or len(file) > MAX_URL_LENGTH:
            raise InvalidInput(
                "file", f"{file!r} is no file's name", f"write one such as {DEFAULT_ORDERS_FILE}"
            )
    return file


class Heartbeat(BaseModel):
    """Action of a `heartbeat` job: ask an agent to do what a file of standing orders says.

    The agent is asked only if the file has text and the gate decides that there is something to do.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: Annotated[str, AfterValidator(_file)] = Field(
        default=DEFAULT_ORDERS_FILE,
        title="File",
        description="What the agent is to look after, in words. A relative name is one in "
        "Daybook's home. Where there is no such file, or it is blank, nobody is asked.",
    )
    agent: Annotated[str, AfterValidator(_agent)] = Field(
        default="default", title="Agent", description="The name of the agent that is asked."
    )
    gate_agent: Annotated[str, AfterValidator(_gate_agent)] = Field(
        default="",
        title="Gate's agent",
        description="The agent that is asked first whether there is anything to do, a fast one; "
        "empty is the same agent.",
    )
    model: Annotated[str, AfterValidator(_model)] = Field(
        default="",
        title="Model",
        description="The model that a model agent is to use instead of its own; empty is its own.",
    )
    session: Session = Field(
        default="reuse",
        title="Session",
        description="Whether its runs continue one conversation, each begins a new one, or they "
        "continue that of its channel and chat id (chat). The gate has none.",
    )
    session_key: str = Field(
        default="",
        title="Session key",
        description="The name of a conversation that several jobs of one agent share; empty is the "
        "heartbeat's own.",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        with raising_pydantic_error():
            _check_session(self.session, self.session_key)
        return self


Action: TypeAlias = AgentPrompt | Webhook | ToolCall | Heartbeat
ACTIONS: dict[str, type[AgentPrompt | Webhook | ToolCall | Heartbeat]] = {
    "agent-prompt": AgentPrompt,
    "webhook": Webhook,
    "tool-call": ToolCall,
    "heartbeat": Heartbeat,
}
"""Action model of each kind of job."""

DEFAULT_POLICIES: dict[str, dict[str, object]] = {
    "agent-prompt": {},
    "webhook": {"timeout": "30s", "retries": 0},
    "tool-call": {"retries": 0},
    "heartbeat": {"retries": 0, "catch_up": "none"},
}
"""Defaults of a kind's policy that differ from those of `Policy`.

A failed webhook or tool call may have had its effect, and the next heartbeat comes soon.
"""

KIND_ALIASES = {
    "send_message": "agent-prompt",
    "call_webhook": "webhook",
    "call_tool": "tool-call",
}
"""Names of other schedulers for a kind, accepted on import."""


def subject(action: Action) -> str:
    """Return the subject of the action for a name: the prompt, the host, or the tool."""
    match action:
        case AgentPrompt():
            return action.prompt
        case Webhook():
            return urlsplit(action.url).hostname or action.url
        case ToolCall():
            return action.tool.rpartition("#")[2] if is_address(action.tool) else action.tool
        case Heartbeat():
            return "heartbeat"
