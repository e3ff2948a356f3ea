"""The Python functions that this Daybook calls: tools, and listeners of outcomes."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from daybook import registry
from daybook.delivery import listeners
from daybook.errors import InvalidInput
from daybook.ledger.engine import open_ledger
from daybook.tools import python_tools


@dataclass(frozen=True)
class PythonFunction:
    """A function by its ``name``. ``about`` is the first paragraph of its docstring.

    ``origin`` is where its code is: the object of an installed distribution, or the module that has
    registered it; empty if only another process has it. ``problem`` is the reason why this process
    cannot call it, or empty. ``present_at`` is the time at which a process last announced a
    listener; None for a tool, and for a listener that no process has announced.
    """

    name: str
    about: str = ""
    origin: str = ""
    problem: str = ""
    present_at: datetime | None = None


@dataclass(frozen=True)
class PythonFunctions:
    """All functions. ``absent`` maps each module of `plugins` that was not imported to a reason."""

    tools: list[PythonFunction]
    listeners: list[PythonFunction]
    absent: dict[str, str]


async def list_functions() -> PythonFunctions:
    """Return the functions that are installed, or that the modules of `plugins` register.

    Also return the listeners of other processes. Raise `InvalidInput` for an invalid setting.
    """
    tools, own, absent = await asyncio.to_thread(_read)
    async with open_ledger() as ledger, ledger.read() as session:
        present = await listeners.present(session)
    names = sorted({*own, *present})
    return PythonFunctions(
        tools=tools,
        listeners=[
            _function(registry.LISTENERS, each, present.get(each))
            if each in own
            else PythonFunction(each, present_at=present[each])
            for each in names
        ],
        absent=absent,
    )


def _read() -> tuple[list[PythonFunction], list[str], dict[str, str]]:
    registry.load_plugins()
    tools = [_tool(each) for each in registry.names(registry.TOOLS)]
    return tools, registry.names(registry.LISTENERS), registry.failed_plugins()


def _tool(name: str) -> PythonFunction:
    found = _function(registry.TOOLS, name)
    try:
        python_tools.info(name)
    except InvalidInput as error:
        return replace(found, problem=str(error))
    return found


def _function(group: str, name: str, present_at: datetime | None = None) -> PythonFunction:
    try:
        function, problem = registry.find(group, name), ""
    except registry.UnusableFunction as error:
        function, problem = None, str(error)
    about = (inspect.getdoc(function) or "").partition("\n\n")[0] if function else ""
    return PythonFunction(name, about, _origin(group, name, function), problem, present_at)


def _origin(group: str, name: str, function: Callable[..., Any] | None) -> str:
    entries = registry.installed(group).get(name, ())
    if entries:
        of = [f" of {each.dist.name} {each.dist.version}" if each.dist else "" for each in entries]
        return ", ".join(f"{each.value}{dist}" for each, dist in zip(entries, of, strict=True))
    return registry.qualified_name(function) if function else ""
