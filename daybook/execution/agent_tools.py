"""Tools that an agent may call while it answers, from its allow-list (`daybook.agents.base`).

::

    find ──► ToolSelection ──► open_tools ──► tools, with names that models accept ──► closed
     │                           │
     │                           └ a server is unreachable: `AgentTemporary`, no agent was asked
     └ an unknown name: `InvalidInput`, before the run has started

Apart from calls of Daybook's own tools, only `find` and `check` send requests to Prefect. No secret
passes through the model: the arguments of a call are sent as the model wrote them, and a secret
reference in them stays plain text.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Literal

from daybook.agents import base
from daybook.agents.base import Tool
from daybook.errors import (
    AgentMisconfigured,
    AgentTemporary,
    InvalidInput,
    ToolUnreachable,
    UnknownName,
)
from daybook.execution import builtin_tools
from daybook.execution.builtin_tools import ToolContext
from daybook.jobs.actions import WEBHOOK
from daybook.json_text import JsonObject
from daybook.ledger.states import Status
from daybook.owners import Actor, acting_as
from daybook.policies.policy import EVERY_TOOL, matches
from daybook.tools import OCCURRENCE, pool, python_tools
from daybook.tools.base import ToolInfo
from daybook.tools.connection import CallFailed
from daybook.tools.pool import PooledSession, PreloadedSecrets
from daybook.tools.server_blocks import ToolServer, ToolServers

MAX_TOOLS = 128
"""Maximum number of tools in one request; some providers refuse more."""

MAX_DEFINITION_CHARACTERS = 300_000
"""Maximum length of the tool definitions in each request: about 80,000 tokens."""

MAX_NAME_CHARACTERS = 64
_HASH_CHARACTERS = 8
_CALL_GRACE_SECONDS = 30.0  # extra seconds of a call beyond the attempt
_ILLEGAL = re.compile(r"[^a-zA-Z0-9_-]")

OwnTools = Callable[[], Sequence[Tool]]
"""Function that returns Daybook's own tools."""


@dataclass(frozen=True)
class ServerTools:
    """Server, its secrets, and patterns; an agent may call the tools that match a pattern."""

    server: ToolServer
    patterns: tuple[str, ...]
    secrets: PreloadedSecrets


@dataclass(frozen=True)
class ToolSelection:
    """Tools that the agent named ``agent`` may call.

    ``builtin`` are tools of features (`builtin_tools`), by their full names. If ``only`` has
    entries, the agent may call only the tools that one of them names.

    A person has to approve each call of a tool that an entry of ``approve`` names, and, after a
    call of an untrusted tool, of one that an entry of ``approve_after_web`` names. Each entry in
    ``expected``, pairs of a job's field and an entry of it, has to name a tool of the agent.
    """

    agent: str
    servers: tuple[ServerTools, ...] = ()
    python: tuple[ToolInfo, ...] = ()
    own: tuple[Tool, ...] = ()
    builtin: Mapping[str, Tool] = field(default_factory=dict)
    only: tuple[str, ...] = ()
    approve: tuple[str, ...] = ()
    approve_after_web: tuple[str, ...] = ()
    expected: tuple[tuple[str, str], ...] = ()


async def find(
    agent: str, entries: Iterable[str], servers: ToolServers, own: OwnTools, context: ToolContext
) -> ToolSelection:
    """Look up the tools that ``entries`` name. ``context`` is for the tools of features.

    Raise `InvalidInput` for an entry that is unknown or ambiguous, for a server with invalid
    settings and for a missing secret, and the errors of Prefect's client.
    """
    entries = list(dict.fromkeys(entries))
    if not entries:
        return ToolSelection(agent)
    saved, functions = await servers.names(), python_tools.names()
    own_tools: dict[str, Tool] = {}
    builtin: dict[str, Tool] = {}
    python: list[ToolInfo] = []
    patterns: dict[str, list[str]] = {}
    for entry in entries:
        name, _, pattern = entry.partition(".")
        match _source(entry, saved, functions):
            case "own":
                own_tools |= {each.name: each for each in _matching_own(entry, pattern, own())}
            case "builtin":
                builtin |= await builtin_tools.find(entry, context)
            case "python":
                python.append(python_tools.info(entry))
            case _:
                patterns.setdefault(name, []).append(pattern or "*")
    selected = []
    for name, fitting in patterns.items():
        server = await servers.read(name)
        selected.append(
            ServerTools(server, tuple(fitting), await PreloadedSecrets.of(server, servers.secrets))
        )
    return ToolSelection(agent, tuple(selected), tuple(python), tuple(own_tools.values()), builtin)


async def check(entries: Iterable[str], servers: ToolServers) -> None:
    """Raise `InvalidInput` for an entry whose Python tool or server is unknown or ambiguous.

    Connect to no server. Also raise the errors of Prefect's client.
    """
    saved, functions = await servers.names(), python_tools.names()
    for entry in entries:
        _source(entry, saved, functions)


def _source(
    entry: str, saved: Sequence[str], functions: Sequence[str]
) -> Literal["own", "builtin", "python", "server"]:
    name = entry.partition(".")[0]
    if name == base.OWN_TOOLS:
        return "own"
    known = builtin_tools.words()
    meanings = {
        "a tool of Daybook": name in known,
        "a Python tool": entry in functions,
        f'of the saved server "{name}"': name in saved,
    }
    if sum(meanings.values()) > 1:
        means = " and ".join(meaning for meaning, is_one in meanings.items() if is_one)
        hint = "save the server, or register the Python tool, under another name"
        raise InvalidInput("tools", f'"{entry}" is ambiguous: it is {means}', hint)
    if name in known:
        return "builtin"
    if entry in functions:
        return "python"
    if name in saved:
        return "server"
    raise UnknownName("tool", entry, [base.OWN_TOOLS, *known, *saved, *functions])


def _matching_own(entry: str, pattern: str, tools: Sequence[Tool]) -> list[Tool]:
    matching = [each for each in tools if fnmatchcase(each.name, pattern or "*")]
    if not matching:
        raise UnknownName("tool", entry, [f"{base.OWN_TOOLS}.{each.name}" for each in tools])
    return matching


@asynccontextmanager
async def open_tools(
    selection: ToolSelection, occurrence: str, actor: Actor, timeout: float
) -> AsyncIterator[tuple[Tool, ...]]:
    """Open the tools of ``selection`` for calls inside the block, within ``timeout`` seconds.

    Daybook's own tools act for ``actor``. Raise `AgentTemporary` if a server is unreachable or not
    ready in time, and `AgentMisconfigured` if the user has to change the tools or a server.
    """
    calls = _AttemptCalls(occurrence, timeout)
    async with AsyncExitStack() as stack:
        sessions = [
            PooledSession(selected.server, selected.secrets) for selected in selection.servers
        ]
        stack.push_async_callback(pool.close_all, sessions)
        await _connect(selection, sessions, timeout)
        tools: dict[str, Tool] = {}
        for selected, server in zip(selection.servers, sessions, strict=True):
            tools |= _server_tools(selection.agent, selected, server, calls)
        tools |= {each.name: _python_tool(each, calls) for each in selection.python}
        tools |= {n: _builtin_tool(n, each, calls) for n, each in selection.builtin.items()}
        read = _Read()
        own = {
            f"{base.OWN_TOOLS}.{each.name}": _acting_for(each, actor, selection, read)
            for each in selection.own
        }
        _check_expected(selection, [*own, *tools])
        own = _allowed(selection, own, read)
        tools = _allowed(selection, tools, read)
        offered = [*own.values(), *tools.values()]
        if len(offered) > MAX_TOOLS:
            raise AgentMisconfigured(
                f'agent "{selection.agent}": its entries name {len(offered)} tools, but '
                f"the limit is {MAX_TOOLS}; list only those that it needs, as server.tool or "
                "server.get_*"
            )
        size = sum(len(each.description) + len(str(each.schema)) for each in offered)
        if size > MAX_DEFINITION_CHARACTERS:
            raise AgentMisconfigured(
                f'agent "{selection.agent}": its tool definitions have {size:,} characters, but '
                f"the limit is {MAX_DEFINITION_CHARACTERS:,}; list only the tools that it needs, "
                "as server.tool"
            )
        taken = {each.name for each in own.values()}
        names = legal_names(tools, taken)
        yield (*own.values(), *(replace(t, name=names[full]) for full, t in tools.items()))


@dataclass
class _Read:
    """Which tools the answer has called, in this attempt or an earlier one."""

    untrusted: bool = False
    private: bool = False

    def add(self, tool: Tool) -> None:
        self.untrusted |= tool.is_untrusted
        self.private |= tool.is_private


def _check_expected(selection: ToolSelection, names: Sequence[str]) -> None:
    """Raise `AgentMisconfigured` for an expected entry that names no tool."""
    for field_name, entry in selection.expected:
        if entry != EVERY_TOOL and not any(matches(name, entry) for name in names):
            has = ", ".join(sorted(names)[:12]) or "none"
            raise AgentMisconfigured(
                f'{field_name}: "{entry}" names no tool of agent "{selection.agent}" '
                f"(it has: {has})"
            )


def _allowed(selection: ToolSelection, tools: dict[str, Tool], read: _Read) -> dict[str, Tool]:
    """Return the tools that the job allows, each with its rule for approvals."""
    only = selection.only
    return {
        name: _with_rule(name, tool, selection, read)
        for name, tool in tools.items()
        if not only or any(matches(name, each) for each in only)
    }


def _with_rule(name: str, tool: Tool, selection: ToolSelection, read: _Read) -> Tool:
    always = any(matches(name, each) for each in selection.approve)
    after_web = any(matches(name, each) for each in selection.approve_after_web)

    def needs_approval() -> bool:
        return always or (after_web and read.untrusted) or (tool.can_leak and read.private)

    async def call(arguments: JsonObject) -> str:
        read.add(tool)
        return await tool.call(arguments)

    def skipped(arguments: JsonObject) -> None:
        read.add(tool)
        tool.skipped(arguments)

    return replace(tool, needs_approval=needs_approval, call=call, skipped=skipped)


async def _connect(selection: ToolSelection, sessions: list[PooledSession], timeout: float) -> None:
    try:
        async with asyncio.timeout(timeout):
            await pool.open_all(sessions)
    except TimeoutError:
        names = ", ".join(each.name for each in sessions)
        raise AgentTemporary(
            f"the tool servers ({names}) were not ready within {timeout:g} s; "
            "the agent was not asked"
        ) from None
    except ToolUnreachable as error:
        raise AgentTemporary(f"{error}; the agent was not asked", error.retry_after) from None
    except InvalidInput as error:
        raise AgentMisconfigured(f'agent "{selection.agent}": {error}') from None


def _server_tools(
    agent: str, selected: ServerTools, server: PooledSession, calls: _AttemptCalls
) -> dict[str, Tool]:
    tools = {}
    for pattern in selected.patterns:
        matching = sorted(each for each in server.tools if fnmatchcase(each, pattern))
        if not matching and pattern != "*":
            has = ", ".join(sorted(server.tools)[:12]) or "none"
            raise AgentMisconfigured(
                f'agent "{agent}": the server "{server.name}" has no tool {pattern} (it has: {has})'
            )
        for name in matching:
            tools[f"{server.name}.{name}"] = _server_tool(server, name, calls)
    return tools


def _server_tool(server: PooledSession, name: str, calls: _AttemptCalls) -> Tool:
    described = server.tools[name]

    async def call(arguments: JsonObject) -> str:
        key = calls.key(f"{server.name}.{name}", arguments)
        return await server.call(name, arguments, key, calls.left())

    return Tool(
        name,
        described.description,
        described.schema,
        call,
        read_only=described.read_only,
        idempotent=described.idempotent,
        skipped=lambda arguments: calls.skip(f"{server.name}.{name}", arguments),
    )


def _python_tool(info: ToolInfo, calls: _AttemptCalls) -> Tool:
    async def call(arguments: JsonObject) -> str:
        key = calls.key(info.name, arguments)
        called = await python_tools.call(info.name, arguments, key, timeout=calls.left())
        outcome = called.outcome
        if outcome.status is not Status.SUCCEEDED:
            raise CallFailed(pool.truncate(outcome.error or outcome.reason))
        return pool.truncate(outcome.output or "")

    return Tool(
        info.name,
        info.description,
        info.schema,
        call,
        idempotent=info.idempotent,
        skipped=lambda arguments: calls.skip(info.name, arguments),
    )


def _builtin_tool(name: str, tool: Tool, calls: _AttemptCalls) -> Tool:
    async def call(arguments: JsonObject) -> str:
        token = OCCURRENCE.set(calls.key(name, arguments))
        try:
            return await tool.call(arguments)
        finally:
            OCCURRENCE.reset(token)

    def skipped(arguments: JsonObject) -> None:
        calls.skip(name, arguments)
        tool.skipped(arguments)

    return replace(tool, call=call, skipped=skipped)


def _acting_for(tool: Tool, actor: Actor, selection: ToolSelection, read: _Read) -> Tool:
    """Return a tool of Daybook's own that acts for ``actor``.

    After the answer has read the web or mail, jobs that the tool adds or changes inherit the
    approvals that the answer itself then needs. After mail, so do the requests of webhooks.
    """
    leaks = (*(name for name, each in selection.builtin.items() if each.can_leak), WEBHOOK)

    async def call(arguments: JsonObject) -> str:
        after_web = selection.approve_after_web if read.untrusted else ()
        after_mail = leaks if read.private else ()
        with acting_as(replace(actor, approve=(*actor.approve, *after_web, *after_mail))):
            return await tool.call(arguments)

    return replace(tool, call=call)


class _AttemptCalls:
    """Idempotency keys of an attempt's calls, and the time left for them."""

    def __init__(self, occurrence: str, timeout: float) -> None:
        self._occurrence = occurrence
        self._key_counts: Counter[str] = Counter()
        self._end = asyncio.get_running_loop().time() + timeout

    def left(self) -> float:
        """Return the seconds left for a call: 30 more than for the attempt.

        So the attempt's timeout, whose error names the tool, ends a call that hangs.
        """
        return self._end + _CALL_GRACE_SECONDS - asyncio.get_running_loop().time()

    def key(self, tool: str, arguments: JsonObject) -> str:
        """Return the call's idempotency key, which is the same in every attempt.

        A call that repeats an earlier call of the same attempt gets another key.
        """
        written = json.dumps([tool, arguments], sort_keys=True, default=str)
        digest = hashlib.sha256(written.encode(errors="replace")).hexdigest()[:16]
        self._key_counts[digest] += 1
        repeat = f".{self._key_counts[digest]}" if self._key_counts[digest] > 1 else ""
        return f"{self._occurrence}/{digest}{repeat}"

    def skip(self, tool: str, arguments: JsonObject) -> None:
        """Use up the key of a call that an earlier attempt has made."""
        self.key(tool, arguments)


def legal_names(full: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """Return a unique name that every provider accepts, for each name of ``full``.

    The result maps each full name to its new name, which is not in ``taken``.

    The new name is ``server_tool``. If this name is too long or not unique, the new name ends in a
    hash of the full name. So the new name does not depend on the order of the tools.
    """
    plain = {each: _ILLEGAL.sub("_", each) for each in full}
    count = Counter([*plain.values(), *taken])
    return {
        each: name
        if count[name] == 1 and len(name) <= MAX_NAME_CHARACTERS
        else _with_hash(each, name)
        for each, name in plain.items()
    }


def _with_hash(full: str, name: str) -> str:
    digest = hashlib.sha256(full.encode(errors="replace")).hexdigest()[:_HASH_CHARACTERS]
    return f"{name[: MAX_NAME_CHARACTERS - _HASH_CHARACTERS - 1]}_{digest}"
