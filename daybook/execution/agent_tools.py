"""What an agent may call while it answers, by its allow-list (`daybook.agents.allowed`).

::

    find ──► Offer ──► opened ──► tools, with names that models take ──► closed, however it ends
     │                  │
     │                  └ a server that is not to be reached: `AgentTemporary`, nothing was asked
     └ a name that nobody knows: `InvalidInput`, before the run has begun

`find` is the last that asks Prefect for anything. No secret goes through the model: arguments are
sent as it wrote them, and a reference in them is text.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

from daybook.agents import allowed
from daybook.agents.base import Tool
from daybook.errors import (
    AgentMisconfigured,
    AgentTemporary,
    InvalidInput,
    ToolUnreachable,
    UnknownName,
)
from daybook.ledger.states import Status
from daybook.owners import Actor, acting_as
from daybook.tools import pool, python_tools
from daybook.tools.base import Server, Servers, ToolInfo
from daybook.tools.connection import Failed
from daybook.tools.pool import Held, Read

MOST = 128
"""Tools that one request may offer: more than that some providers refuse."""

LARGEST = 300_000
"""Characters of the definitions of all of them; some eighty thousand tokens, sent each time."""

LONGEST_NAME = 64
_MARK = 8
_SLACK = 30.0  # seconds by which a call's own time is longer than the attempt's
_ILLEGAL = re.compile(r"[^a-zA-Z0-9_-]")

Own = Callable[[], Sequence[Tool]]
"""Gives Daybook's own tools."""


@dataclass(frozen=True)
class Wanted:
    """A server, the patterns of which one has to fit a tool of it, and its secrets."""

    server: Server
    patterns: tuple[str, ...]
    secrets: Read


@dataclass(frozen=True)
class Offer:
    """What the agent of that name may call."""

    agent: str
    servers: tuple[Wanted, ...] = ()
    python: tuple[ToolInfo, ...] = ()
    own: tuple[Tool, ...] = ()


async def find(agent: str, entries: Iterable[str], servers: Servers, own: Own) -> Offer:
    """What ``entries`` name. Raises `InvalidInput` for one that names nothing, or not one thing,
    and what Prefect's client raises.
    """
    entries = list(dict.fromkeys(entries))
    if not entries:
        return Offer(agent)
    saved, functions = await servers.names(), python_tools.names()
    ours: dict[str, Tool] = {}
    python: list[ToolInfo] = []
    patterns: dict[str, list[str]] = {}
    for entry in entries:
        name, _, pattern = entry.partition(".")
        match _source(entry, saved, functions):
            case "own":
                ours |= {each.name: each for each in _own(entry, pattern, own())}
            case "python":
                python.append(python_tools.info(entry))
            case _:
                patterns.setdefault(name, []).append(pattern or "*")
    wanted = []
    for name, fitting in patterns.items():
        server = await servers.read(name)
        wanted.append(Wanted(server, tuple(fitting), await Read.of(server, servers.secrets)))
    return Offer(agent, tuple(wanted), tuple(python), tuple(ours.values()))


async def check(entries: Iterable[str], servers: Servers) -> None:
    """Raise as `find` does for what can be known without asking a server, or Daybook's tools."""
    saved, functions = await servers.names(), python_tools.names()
    for entry in entries:
        _source(entry, saved, functions)


def _source(
    entry: str, saved: Sequence[str], functions: Sequence[str]
) -> Literal["own", "python", "server"]:
    name = entry.partition(".")[0]
    if name == allowed.OWN:
        return "own"
    if entry in functions and name in saved:
        raise InvalidInput(
            "tools",
            f'"{entry}" is ambiguous: a Python tool has that name, and a saved server "{name}"',
            "save the server under another name",
        )
    if entry in functions:
        return "python"
    if name in saved:
        return "server"
    raise UnknownName("tool", entry, [allowed.OWN, *saved, *functions])


def _own(entry: str, pattern: str, tools: Sequence[Tool]) -> list[Tool]:
    found = [each for each in tools if fnmatchcase(each.name, pattern or "*")]
    if not found:
        raise UnknownName("tool", entry, [f"{allowed.OWN}.{each.name}" for each in tools])
    return found


@asynccontextmanager
async def opened(
    offer: Offer, occurrence: str, actor: Actor, timeout: float
) -> AsyncIterator[tuple[Tool, ...]]:
    """The tools of ``offer``, which can be called inside, up to ``timeout`` seconds from now.

    Daybook's own work for ``actor``. Raises `AgentTemporary` and `AgentMisconfigured`.
    """
    calls = _Calls(occurrence, timeout)
    async with AsyncExitStack() as stack:
        there = [Held(wanted.server, wanted.secrets) for wanted in offer.servers]
        stack.push_async_callback(pool.closed, there)
        await _reached(offer, there, timeout)
        found: dict[str, Tool] = {}
        for wanted, server in zip(offer.servers, there, strict=True):
            found |= _of_server(offer.agent, wanted, server, calls)
        found |= {each.name: _of_function(each, calls) for each in offer.python}
        own = {f"{allowed.OWN}.{each.name}": _acting(each, actor) for each in offer.own}
        if len(found) + len(own) > MOST:
            raise AgentMisconfigured(
                f'agent "{offer.agent}": its entries name {len(found) + len(own)} tools, and a '
                f"model takes {MOST}; name those that it needs, as server.tool or server.get_*"
            )
        size = sum(len(each.description) + len(str(each.schema)) for each in found.values())
        if size > LARGEST:
            raise AgentMisconfigured(
                f'agent "{offer.agent}": the definitions of its tools have {size:,} characters, '
                f"and {LARGEST:,} are sent; name those that it needs, as server.tool"
            )
        taken = {each.name for each in own.values()}
        names = legal_names(found, taken)
        yield (*own.values(), *(replace(t, name=names[full]) for full, t in found.items()))


async def _reached(offer: Offer, there: list[Held], timeout: float) -> None:
    try:
        async with asyncio.timeout(timeout):
            await pool.opened(there)
    except TimeoutError:
        names = ", ".join(each.name for each in there)
        raise AgentTemporary(
            f"the tools ({names}) were not ready within {timeout:g} s; nothing was asked"
        ) from None
    except ToolUnreachable as error:
        raise AgentTemporary(f"{error}; nothing was asked", error.retry_after) from None
    except InvalidInput as error:
        raise AgentMisconfigured(f'agent "{offer.agent}": {error}') from None


def _of_server(agent: str, wanted: Wanted, server: Held, calls: _Calls) -> dict[str, Tool]:
    found = {}
    for pattern in wanted.patterns:
        fitting = sorted(each for each in server.tools if fnmatchcase(each, pattern))
        if not fitting and pattern != "*":
            has = ", ".join(sorted(server.tools)[:12]) or "none"
            raise AgentMisconfigured(
                f'agent "{agent}": the server "{server.name}" has no tool {pattern} (it has: {has})'
            )
        for name in fitting:
            found[f"{server.name}.{name}"] = _of_one(server, name, calls)
    return found


def _of_one(server: Held, name: str, calls: _Calls) -> Tool:
    described = server.tools[name]

    async def call(arguments: dict[str, Any]) -> str:
        key = calls.key(f"{server.name}.{name}", arguments)
        return await server.call(name, arguments, key, calls.left())

    return Tool(name, described.description, described.schema, call, described.read_only)


def _of_function(info: ToolInfo, calls: _Calls) -> Tool:
    async def call(arguments: dict[str, Any]) -> str:
        key = calls.key(info.name, arguments)
        called = await python_tools.call(info.name, arguments, key, timeout=calls.left())
        outcome = called.outcome
        if outcome.status is not Status.SUCCEEDED:
            raise Failed(pool.told(outcome.error or outcome.reason))
        return pool.told(outcome.output or "")

    return Tool(info.name, info.description, info.schema, call)


def _acting(tool: Tool, actor: Actor) -> Tool:
    async def call(arguments: dict[str, Any]) -> str:
        with acting_as(actor):
            return await tool.call(arguments)

    return replace(tool, call=call)


class _Calls:
    """What calls are known by, and how much time is left for them."""

    def __init__(self, occurrence: str, timeout: float) -> None:
        self._occurrence = occurrence
        self._seen: Counter[str] = Counter()
        self._end = asyncio.get_running_loop().time() + timeout

    def left(self) -> float:
        """Longer than the attempt, which ends a call that hangs and says in which it was."""
        return self._end + _SLACK - asyncio.get_running_loop().time()

    def key(self, tool: str, arguments: dict[str, Any]) -> str:
        """The same for the same call in every attempt; another for the same call once more."""
        written = json.dumps([tool, arguments], sort_keys=True, default=str)
        mark = hashlib.sha256(written.encode(errors="replace")).hexdigest()[:16]
        self._seen[mark] += 1
        again = f".{self._seen[mark]}" if self._seen[mark] > 1 else ""
        return f"{self._occurrence}/{mark}{again}"


def legal_names(full: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """A name for each of ``full`` that every provider takes, and that none other has.

    It is ``server_tool``. Where that is too long, or stands for two, it ends in a mark of the full
    name, so that it does not depend on what else is offered beside these.
    """
    plain = {each: _ILLEGAL.sub("_", each) for each in full}
    count = Counter([*plain.values(), *taken])
    return {
        each: name if count[name] == 1 and len(name) <= LONGEST_NAME else _marked(each, name)
        for each, name in plain.items()
    }


def _marked(full: str, name: str) -> str:
    mark = hashlib.sha256(full.encode(errors="replace")).hexdigest()[:_MARK]
    return f"{name[: LONGEST_NAME - _MARK - 1]}_{mark}"
