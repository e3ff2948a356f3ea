"""Registry of the Python tools and listeners that programs register with Daybook.

::

    entry points    daybook.tools, daybook.listeners    of installed packages; loaded when called
    decorators      @daybook.tool, @daybook.listener    of imported modules; `load_plugins` imports
                                                        those in the setting `plugins`

Callers of tools and listeners look both up here. A module that cannot be imported is logged once
and does not affect the others.
"""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar, overload

from daybook import settings
from daybook.errors import InvalidInput

log = logging.getLogger(__name__)

TOOLS = "daybook.tools"
LISTENERS = "daybook.listeners"
"""Entry point groups."""

MAX_NAME_LENGTH = 200
"""Maximum length of a name."""

F = TypeVar("F", bound=Callable[..., Any])

_registered: dict[str, dict[str, Callable[..., Any]]] = {TOOLS: {}, LISTENERS: {}}
_failed: dict[str, str] = {}
_loaded: set[str] = set()
_looked_up: set[str] = set()


class UnusableFunction(Exception):
    """A registered or installed function cannot be called; the message says why."""


def tool(name: str) -> Callable[[F], F]:
    """Register a function as a tool that jobs call by this name::

        @daybook.tool("reindex")
        async def reindex(full: bool = False) -> str:
            "Build the index again."

    The job's `params` are its arguments, by name and with their types; its docstring is the tool's
    description; its return value is the answer, and an exception is the run's error. It is called
    where jobs run: name its module in the setting `plugins`. Raises `InvalidInput` for an invalid
    name, or one that another function has.
    """

    def register(function: F) -> F:
        _register(TOOLS, "tool", name, function)
        return function

    return register


@overload
def listener(function: F, /) -> F: ...
@overload
def listener(*, name: str) -> Callable[[F], F]: ...
def listener(function: Any = None, /, *, name: str = "") -> Any:
    """Register a function that is notified of the outcome of every run::

        @daybook.listener
        def log(run: dict[str, Any]) -> None:
            print(run["job"], run["status"])

    It gets the run as a callback does, with its output. All listeners are called, even if one
    fails; an exception is recorded with the run and does not change it. Each listener gets every
    outcome at least once, even if processes die in the meantime: `run["id"]`, `run["status"]` and,
    for a range of due times, `run["count"]` identify it. A listener is identified by ``name``, by
    default the names of its module and function: keep it, and outcomes that were not delivered yet
    arrive after a restart. It may be an `async def`, and has half a minute. It is called where the
    keeper runs: name its module in the setting `plugins`. Raises `InvalidInput` for an invalid
    name, or one that another function has.
    """

    def register(function: F) -> F:
        _register(LISTENERS, "listener", name or qualified_name(function), function)
        return function

    return register if function is None else register(function)


def qualified_name(function: Callable[..., Any]) -> str:
    """Return the names of its module and function; for a script, the file name as the module."""
    module = function.__module__
    if module == "__main__":
        script = getattr(sys.modules["__main__"], "__file__", None)
        module = Path(script).stem if script else "main"
    return f"{module}.{getattr(function, '__qualname__', type(function).__qualname__)}"


def _register(group: str, field: str, name: str, function: Any) -> None:
    if (
        not name.strip()
        or name != name.strip()
        or not name.isprintable()
        or len(name) > MAX_NAME_LENGTH
    ):
        hint = f"use 1 to {MAX_NAME_LENGTH} printable characters, without blanks at the ends"
        raise InvalidInput(field, f"{name!r} is not valid", hint)
    if not callable(function) or isinstance(function, type):
        raise InvalidInput(field, f"{function!r} is not a function", "decorate a function")
    existing = _registered[group].get(name)
    if (
        existing is not None
        and existing is not function
        and qualified_name(existing) != qualified_name(function)
    ):
        both = f"{qualified_name(existing)} and {qualified_name(function)}"
        raise InvalidInput(field, f'two functions have the name "{name}": {both}', "rename one")
    _registered[group][name] = function  # perhaps the same function again: its module was reloaded


def installed(group: str) -> dict[str, tuple[EntryPoint, ...]]:
    """Return the entry points of a group by name; several share a name if their objects differ.

    They are looked up once for each import path, because a lookup costs some 40 ms.
    """
    return _installed(group, tuple(sys.path))


@cache
def _installed(group: str, path: tuple[str, ...]) -> dict[str, tuple[EntryPoint, ...]]:
    by_name: dict[str, dict[str, EntryPoint]] = {}
    for each in entry_points(group=group):
        by_name.setdefault(each.name, {})[each.value] = each
    return {name: tuple(by_value.values()) for name, by_value in by_name.items()}


@contextmanager
def isolated() -> Iterator[None]:
    """For tests: start with an empty registry, and restore the previous one afterwards."""
    before = {group: dict(functions) for group, functions in _registered.items()}
    loaded, looked_up, failed = set(_loaded), set(_looked_up), dict(_failed)
    for functions in _registered.values():
        functions.clear()
    _loaded.clear()
    _looked_up.clear()
    _failed.clear()
    try:
        yield
    finally:
        for group, functions in _registered.items():
            functions.clear()
            functions.update(before[group])
        for names, previous in ((_loaded, loaded), (_looked_up, looked_up)):
            names.clear()
            names.update(previous)
        _failed.clear()
        _failed.update(failed)


def load_plugins() -> None:
    """Import the modules of the setting `plugins`, each once. Raises `InvalidInput`."""
    for module in filter(None, map(str.strip, settings.load().plugins.split(","))):
        if module in _loaded:
            continue
        _loaded.add(module)
        try:
            import_module(module)
        except (Exception, SystemExit) as error:
            _failed[module] = f"{type(error).__name__}: {error}"
            log.exception("cannot import the plugin %s", module, extra={"action": "plugin"})


def failed_plugins() -> dict[str, str]:
    """Return the modules of `plugins` that could not be imported, with the reason."""
    return dict(_failed)


def find_listeners() -> None:
    """Find the listeners of this process: import `plugins`, and look up the installed ones."""
    load_plugins()
    installed(LISTENERS)
    _looked_up.add(LISTENERS)


def names(group: str) -> list[str]:
    """Return all names of a group, sorted. Call `load_plugins` first."""
    return sorted({*installed(group), *_registered[group]})


def known_names(group: str) -> list[str]:
    """Return the names of a group that this process already knows, sorted; looks nothing up."""
    return names(group) if group in _looked_up else sorted(_registered[group])


def find(group: str, name: str) -> Callable[..., Any] | None:
    """Return the function with this name; None if no function is registered under it.

    Raises `UnusableFunction` if it cannot be loaded, is not a function, or if several have the
    name.
    """
    registered = _registered[group].get(name)
    entries = installed(group).get(name, ())
    if len(entries) + (registered is not None and not _is_same_function(entries, registered)) > 1:
        candidates = [each.value for each in entries]
        candidates += [qualified_name(registered)] if registered is not None else []
        raise UnusableFunction(f"several functions have its name: {', '.join(sorted(candidates))}")
    if registered is not None:
        return registered
    for entry in entries:
        try:
            function = entry.load()
        except (Exception, SystemExit) as error:
            problem = f"cannot load {entry.value}: {type(error).__name__}: {error}"
            raise UnusableFunction(problem) from None
        if isinstance(function, type) or not callable(function):
            raise UnusableFunction(f"{entry.value} is not a function")
        loaded: Callable[..., Any] = function
        return loaded
    return None


def _is_same_function(entries: tuple[EntryPoint, ...], function: Callable[..., Any]) -> bool:
    """Return whether the only entry point is the registered function itself."""
    return len(entries) == 1 and entries[0].value.replace(":", ".") == qualified_name(function)


def is_async(function: Callable[..., Any]) -> bool:
    """Return whether the result of a call has to be awaited."""
    function = inspect.unwrap(function)
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - of an object that can be called
    )
