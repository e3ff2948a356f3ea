"""Registry of the Python tools and listeners that programs register with Daybook.

::

    entry points    daybook.tools, daybook.listeners    of installed packages; loaded when called
    decorators      @daybook.tool, @daybook.listener    of imported modules; `load_plugins` imports
                                                        those in the setting `plugins`

The code that calls tools and listeners finds them in this registry. If a module in `plugins` cannot
be imported, `load_plugins` logs the error once, and imports the other modules.
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
"""Maximum length of a name in characters."""

F = TypeVar("F", bound=Callable[..., Any])

_registered: dict[str, dict[str, Callable[..., Any]]] = {TOOLS: {}, LISTENERS: {}}
_idempotent: set[str] = set()
_failed: dict[str, str] = {}
_loaded: set[str] = set()
_looked_up: set[str] = set()


class UnusableFunction(Exception):
    """A registered or installed function cannot be called; the message has the reason."""


def tool(name: str, *, idempotent: bool = False) -> Callable[[F], F]:
    """Register a function as a tool that jobs call by this name::

        @daybook.tool("reindex")
        async def reindex(full: bool = False) -> str:
            "Build the index again."

    The function gets the job's `params` as keyword arguments of the annotated types. Its docstring
    is the tool's description; its return value is the answer, and an exception is the run's error.
    The processes of runs call the function, so add its module to the `plugins` setting on each
    machine with a worker. If ``idempotent`` is true, a repeated call with the same arguments has no
    further effect: an agent's run may then repeat a call that got no reply. The decorator raises
    `InvalidInput` for an invalid name, for the name of another tool, and for an object that is not
    a function.
    """

    def register(function: F) -> F:
        _register(TOOLS, "tool", name, function)
        (_idempotent.add if idempotent else _idempotent.discard)(name)
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

    The function gets the run in the format of a callback, always with its output. All listeners are
    called, even if one of them fails; an exception is recorded with the run, and does not change
    the run's outcome. Each listener gets every outcome at least once, even if a process dies:
    `run["id"]`, `run["status"]` and, for a range of due times, `run["count"]` identify an outcome.
    A listener is identified by ``name``, by default the names of its module and function. Keep the
    name, so that outcomes that were not delivered yet arrive after a restart. A listener may be an
    `async def`, and must end within 30 seconds. The keeper calls the listeners, so add their
    modules to the `plugins` setting on each machine with a keeper. The decorator raises
    `InvalidInput` for an invalid name, for the name of another listener, and for an object that is
    not a function.
    """

    def register(function: F) -> F:
        _register(LISTENERS, "listener", name or qualified_name(function), function)
        return function

    return register if function is None else register(function)


def qualified_name(function: Callable[..., Any]) -> str:
    """Return ``<module>.<function>``; for a script, the module is its file name."""
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
        hint = f"use 1 to {MAX_NAME_LENGTH} printable characters, without spaces at the ends"
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


def is_idempotent(name: str) -> bool:
    """Return whether the tool of this name is registered as idempotent."""
    return name in _idempotent


def installed(group: str) -> dict[str, tuple[EntryPoint, ...]]:
    """Return a mapping of each name in a group to its entry points.

    A name has several if they refer to different objects. The lookup takes about 40 ms, so the
    result is cached for each value of `sys.path`.
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
    """Empty the registry inside the context, and restore its content afterwards; for tests."""
    before = {group: dict(functions) for group, functions in _registered.items()}
    loaded, looked_up, failed = set(_loaded), set(_looked_up), dict(_failed)
    idempotent = set(_idempotent)
    for functions in _registered.values():
        functions.clear()
    _loaded.clear()
    _looked_up.clear()
    _failed.clear()
    _idempotent.clear()
    try:
        yield
    finally:
        for group, functions in _registered.items():
            functions.clear()
            functions.update(before[group])
        for names, previous in (
            (_loaded, loaded),
            (_looked_up, looked_up),
            (_idempotent, idempotent),
        ):
            names.clear()
            names.update(previous)
        _failed.clear()
        _failed.update(failed)


def load_plugins() -> None:
    """Import the modules of the setting `plugins`, each once.

    `failed_plugins` returns the modules that cannot be imported. Raise `InvalidInput` for an
    invalid setting.
    """
    for module in filter(None, map(str.strip, settings.load().plugins.split(","))):
        if module in _loaded:
            continue
        try:
            import_module(module)
        except (Exception, SystemExit) as error:
            _failed[module] = f"{type(error).__name__}: {error}"
            if module not in _loaded:
                message = f"cannot import the plugin {module}: {_failed[module]}"
                log.warning(message, extra={"action": "plugin"})
        _loaded.add(module)  # afterwards, so that another thread waits for the import


def failed_plugins() -> dict[str, str]:
    """Return the modules of `plugins` that could not be imported, each with the reason."""
    return dict(_failed)


def find_listeners() -> None:
    """Find the listeners of this process: import `plugins`, and look up the installed listeners.

    Raise `InvalidInput` for an invalid setting.
    """
    load_plugins()
    installed(LISTENERS)
    _looked_up.add(LISTENERS)


def names(group: str) -> list[str]:
    """Return all names of a group, installed or registered, sorted. Call `load_plugins` first."""
    return sorted({*installed(group), *_registered[group]})


def known_names(group: str) -> list[str]:
    """Return the names of a group that this process has already found, sorted, without a lookup."""
    return names(group) if group in _looked_up else sorted(_registered[group])


def find(group: str, name: str) -> Callable[..., Any] | None:
    """Return the function with this name; None if none is installed or registered.

    Raise `UnusableFunction` if the function cannot be loaded, if the object is not a function, or
    if several functions have this name.
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
    """Return whether there is only one entry point, and it refers to the registered function."""
    return len(entries) == 1 and entries[0].value.replace(":", ".") == qualified_name(function)


def is_async(function: Callable[..., Any]) -> bool:
    """Return whether the result of a call to the function has to be awaited."""
    function = inspect.unwrap(function)
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - of an object that can be called
    )
