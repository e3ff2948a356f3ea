"""Types of the fields of actions, with the checks of their values.

The checks ensure that databases and Prefect store names, URLs and JSON unchanged, and that their
length is sensible. Other packages decide whether a tool exists (`daybook.tools`) and whether a URL
may be reached (`daybook.http`). The checks raise `InvalidInput`; when a model is built, pydantic
raises an error that contains it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from daybook.errors import InvalidInput
from daybook.json_text import JsonObject
from daybook.markers import Marker
from daybook.names import validate_line
from daybook.validation import raising_pydantic_error

MAX_KEY_LENGTH = 100  # characters of a session key, and of an agent's name in a job
RESERVED_KEY_PREFIXES = ("chat:", "job:", "run:")
"""Prefixes of Daybook's own session keys; a user's key may not start with one."""

MAX_URL_LENGTH = 4_000
MAX_BODY_LENGTH = 500_000
"""Maximum length, in characters, of a body and of a tool's parameters as JSON.

`jobs.model.MAX_PARAMETERS_BYTES` limits all fields together.
"""
MAX_TOOL_NAME_LENGTH = 200
"""Maximum length of a tool's name in characters; the URL of its server has its own limit."""
DEFAULT_ORDERS_FILE = "HEARTBEAT.md"
"""Default file of a heartbeat's standing orders."""
MAX_DEPTH = 100
"""Maximum number of nesting levels of JSON in a field, such as a tool's parameters."""

Method = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
"""HTTP methods of a webhook."""

Session = Literal["reuse", "new", "chat"]
"""Session of a job's runs: the job's own, a new session for each run, or the channel's chat."""

_TOOL_HINT = "use name, server.tool, or https://host/path#tool"
_PREFECT_KEY = "__prefect_kind"
_NO_TEXT = re.compile("[\0\ud800-\udfff]")


# --- agents, models and sessions


def _not_blank(prompt: str) -> str:
    if not prompt.strip():
        with raising_pydantic_error():
            raise InvalidInput("prompt", "is blank", "write a prompt for the agent")
    return prompt


def _agent(name: str) -> str:
    if not name.strip():
        with raising_pydantic_error():
            raise InvalidInput("agent", "is blank", "name an agent, such as default")
    return _checked_length(name, "agent")


def _gate_agent(name: str) -> str:
    return _checked_length(name, "gate_agent")


def _fallback_agents(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names without blank ones; a list with only a blank name clears the field."""
    checked = (_checked_length(name, "fallback_agents") for name in names)
    return tuple(filter(None, checked))


def _model(name: str) -> str:
    with raising_pydantic_error():
        return validate_line(name, "model")


def _checked_length(name: str, field: str) -> str:
    name = name.strip()
    if len(name) > MAX_KEY_LENGTH:  # the name is part of the session's id
        with raising_pydantic_error():
            raise InvalidInput(field, "is too long", f"use at most {MAX_KEY_LENGTH} characters")
    return name


Prompt = Annotated[str, AfterValidator(_not_blank)]
AgentName = Annotated[
    str,
    AfterValidator(_agent),
    Marker(names="agent", is_checked=True, is_continued=True),
    Field(title="Agent", description="Agent that runs the prompt; see `daybook agents list`."),
]
FallbackAgents = Annotated[
    tuple[str, ...],
    AfterValidator(_fallback_agents),
    Marker(
        option="fallback-agent",
        names="agent",
        for_agents="list of names",
        is_checked=True,
        is_continued=True,
    ),
    Field(
        title="Fallback agents",
        description="Agent that answers if the agents before it are unavailable.",
    ),
]
ModelName = Annotated[
    str,
    AfterValidator(_model),
    Marker(is_checked=True, is_continued=True),
    Field(title="Model", description="Model to use instead of the agent's own."),
]
SessionChoice = Annotated[
    Session,
    Field(
        title="Session",
        description="Session that runs use: `reuse` continues the job's own, `new` starts one per "
        "run, `chat` continues that of the channel and chat id.",
    ),
]
SessionKey = Annotated[
    str,
    Field(
        title="Session key",
        description="Name of a session to share with other jobs of the same agent.",
    ),
]
"""The types from `AgentName` to `SessionKey` are for all kinds of jobs that ask an agent."""

GateAgentName = Annotated[str, AfterValidator(_gate_agent), Marker(names="agent", is_checked=True)]


def check_fallback_agents(agent: str, fallback_agents: tuple[str, ...]) -> None:
    """Raise `InvalidInput` if a fallback agent is the job's own agent, or is listed twice."""
    for position, name in enumerate(fallback_agents):
        if name == agent:
            problem = f'"{name}" is the job\'s own agent'
            raise InvalidInput("fallback_agents", problem, "name other agents")
        if name in fallback_agents[:position]:
            problem = f'"{name}" is listed twice'
            raise InvalidInput("fallback_agents", problem, "name each agent once")


def check_session(session: Session, key: str) -> None:
    """Raise `InvalidInput` for an invalid key, or a key with a ``session`` other than `reuse`."""
    if key and session != "reuse":
        problem = f"cannot be combined with session {session}"
        raise InvalidInput("session_key", problem, "set session to reuse")
    if key != key.strip() or len(key) > MAX_KEY_LENGTH:
        hint = f"use at most {MAX_KEY_LENGTH} characters, without spaces at the ends"
        raise InvalidInput("session_key", "is not a valid key", hint)
    if key.startswith(RESERVED_KEY_PREFIXES):
        prefixes = ", ".join(RESERVED_KEY_PREFIXES)
        hint = f"do not start it with one of {prefixes}"
        raise InvalidInput("session_key", f'"{key}" is reserved for Daybook', hint)


# --- URLs, tools and files


def is_readable(url: str) -> bool:
    """Return whether a URL can be parsed; for example, `http://[/` cannot be parsed."""
    try:
        urlsplit(url).hostname  # noqa: B018 - for the error that it raises
    except ValueError:
        return False
    return True


def is_address(tool: str) -> bool:
    """Return whether a tool is named by the URL of its server."""
    return tool.lower().startswith(("http://", "https://"))


def _url(url: str) -> str:
    """Check that the string is a URL; `daybook.http` decides whether it may be reached.

    Raise pydantic's error that contains `InvalidInput`.
    """
    if len(url) > MAX_URL_LENGTH or not is_address(url) or not is_readable(url):
        with raising_pydantic_error():
            hint = (
                "use a URL such as https://api.example.org/export, of at most "
                f"{MAX_URL_LENGTH:,} characters"
            )
            raise InvalidInput("url", "is not a valid URL", hint)
    return url


def _upper_case(method: object) -> object:
    return method.upper() if isinstance(method, str) else method


def _tool(name: str) -> str:
    """Check that the string can name a tool; `daybook.tools` decides whether the tool exists.

    Raise pydantic's error that contains `InvalidInput`.
    """
    name = name.strip()
    longest = MAX_TOOL_NAME_LENGTH + (MAX_URL_LENGTH if is_address(name) else 0)
    with raising_pydantic_error():
        if not name or not name.isprintable():
            raise InvalidInput("tool", "has invalid characters" if name else "is blank", _TOOL_HINT)
        if is_address(name) and not name.partition("#")[2]:
            raise InvalidInput("tool", "is a URL without a tool", _TOOL_HINT)
        if len(name) > longest:
            raise InvalidInput("tool", "is too long", f"use at most {longest:,} characters")
        if is_address(name) and not is_readable(name):
            raise InvalidInput("tool", "is not a valid URL", _TOOL_HINT)
    return name


def _file(file: str) -> str:
    file = file.strip()
    with raising_pydantic_error():
        if not file or not file.isprintable() or len(file) > MAX_URL_LENGTH:
            raise InvalidInput(
                "file", f"{file!r} is not a file name", f"use one such as {DEFAULT_ORDERS_FILE}"
            )
    return file


Url = Annotated[str, AfterValidator(_url)]
HttpMethod = Annotated[Method, BeforeValidator(_upper_case)]
ToolName = Annotated[str, AfterValidator(_tool)]
OrdersFile = Annotated[str, AfterValidator(_file)]


# --- JSON


def _params(params: JsonObject) -> JsonObject:
    """Check that the parameters are strict JSON, and that Prefect stores them unchanged."""
    with raising_pydantic_error():
        check_json(params, "params", MAX_BODY_LENGTH)
    return params


def check_json(value: object, field: str, longest: int) -> None:
    """Check that ``value`` is JSON of at most ``longest`` characters.

    Every database and Prefect store such a value unchanged. Raise `InvalidInput` naming ``field``.
    """
    _check_json(value, field, 0)
    if len(json.dumps(value)) > longest:
        raise InvalidInput(field, "is too long", f"use at most {longest:,} characters")


def check_texts(value: object, field: str) -> None:
    """Raise `InvalidInput` if a string in ``value`` has characters that no database can store.

    The ledger would replace them, so the stored value would differ from the given one.
    """
    left = [value]
    while left:
        match left.pop():
            case str() as text if _NO_TEXT.search(text):
                problem = "contains characters that a database cannot store"
                raise InvalidInput(field, problem, "remove NUL characters and surrogates")
            case Mapping() as each:
                left += [*each, *each.values()]
            case list() | tuple() | set() | frozenset() as each:
                left += each


def _check_json(value: object, field: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise InvalidInput(field, "is nested too deeply", f"use at most {MAX_DEPTH} levels")
    match value:
        case dict():
            for name, each in value.items():
                if not isinstance(name, str):
                    raise InvalidInput(
                        field, f"the key {name!r} is not a string", "use strings as keys"
                    )
                _check_json(name, field, depth)
                if name == _PREFECT_KEY:
                    raise InvalidInput(
                        field, f'the key "{name}" is reserved for Prefect', "remove it"
                    )
                _check_json(each, field, depth + 1)
        case list():
            for each in value:
                _check_json(each, field, depth + 1)
        case float() if not math.isfinite(value):
            raise InvalidInput(field, f"{value} is not valid JSON", "use a finite number, or null")
        case int() if not -(2**63) <= value < 2**63:
            raise InvalidInput(field, f"{value} has more than 64 bits", "use a string instead")
        case str():
            check_texts(value, field)
        case float() | int() | None:
            pass
        case _:
            raise InvalidInput(
                field, f"{value!r} is not valid JSON", "use strings, numbers, booleans and null"
            )


Arguments = Annotated[JsonObject, AfterValidator(_params)]
"""Arguments of a tool."""
