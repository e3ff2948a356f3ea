"""What programs register with Daybook: Python tools and listeners.

::

    entry points    daybook.tools, daybook.listeners    of what is installed; loaded when called
    decorators      @daybook.tool, @daybook.listener    of what is imported; `load` imports the
                                                        modules that the setting `plugins` names

Whoever calls a tool or a listener looks here for both. A module that cannot be imported is told
once, and keeps no other from being used.
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
"""The groups of entry points."""

LONGEST = 200
"""Characters of a name."""

F = TypeVar("F", bound=Callable[..., Any])

_registered: dict[str, dict[str, Callable[..., Any]]] = {TOOLS: {}, LISTENERS: {}}
_broken: dict[str, str] = {}
_loaded: set[str] = set()
_looked: set[str] = set()


class Unusable(Exception):
    """A function that is registered, or installed, and cannot be called: why."""


def tool(name: str) -> Callable[[F], F]:
    """Register a function as a tool that jobs call by this name::

        @daybook.tool("reindex")
        async def reindex(full: bool = False) -> str:
            "Build the index again."

    Its arguments, by name and with their types, are the job's `params`; its docstring is what it is
    described with; what it returns is the answer, what it raises the run's error. It is called
    where jobs run: name its module in the setting `plugins`. Raises `InvalidInput` for a name that
    is not legal, or another function's.
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
    """Register a function that is told of the outcome of every run::

        @daybook.listener
        def log(run: dict[str, Any]) -> None:
            print(run["job"], run["status"])

    It gets the run as a callback does, with its output. All listeners are called, also when one
    fails; what one raises is kept beside the run and changes nothing of it. Each is told of every
    outcome at least once, whatever dies meanwhile: `run["id"]`, `run["status"]`, and of due times
    in a row `run["count"]`, say which it was. It is known by ``name``, by default its module's and
    its own: keep that, and what was not told yet arrives after a restart. It may be an `async def`,
    and is given half a minute. It is called where the keeper runs: name its module in the setting
    `plugins`. Raises `InvalidInput` for a name that is not legal, or another function's.
    """

    def register(function: F) -> F:
        _register(LISTENERS, "listener", name or own_name(function), function)
        return function

    return register if function is None else register(function)


def own_name(function: Callable[..., Any]) -> str:
    """Its module's name and its own; of a script the file's."""
    module = function.__module__
    if module == "__main__":
        script = getattr(sys.modules["__main__"], "__file__", None)
        module = Path(script).stem if script else "main"
    return f"{module}.{getattr(function, '__qualname__', type(function).__qualname__)}"


def _register(group: str, field: str, name: str, function: Any) -> None:
    if not name.strip() or name != name.strip() or not name.isprintable() or len(name) > LONGEST:
        legal = f"legal: 1 to {LONGEST} characters that can be printed, no blanks around"
        raise InvalidInput(field, f"{name!r} is not legal", legal)
    if not callable(function) or isinstance(function, type):
        raise InvalidInput(field, f"{function!r} is no function", "write the decorator above one")
    known = _registered[group].get(name)
    if known is not None and known is not function and own_name(known) != own_name(function):
        both = f"{own_name(known)} and {own_name(function)}"
        raise InvalidInput(field, f'"{name}" is registered by two: {both}', "give one another name")
    _registered[group][name] = function  # the same one again: its module was loaded anew


def installed(group: str) -> dict[str, tuple[EntryPoint, ...]]:
    """The entry points of a group by name; several have one name where they say different things.

    Looked up once, until another folder is on the path: it costs some 40 ms.
    """
    return _installed(group, tuple(sys.path))


@cache
def _installed(group: str, path: tuple[str, ...]) -> dict[str, tuple[EntryPoint, ...]]:
    found: dict[str, dict[str, EntryPoint]] = {}
    for each in entry_points(group=group):
        found.setdefault(each.name, {})[each.value] = each
    return {name: tuple(by_value.values()) for name, by_value in found.items()}


@contextmanager
def apart() -> Iterator[None]:
    """What is registered inside is forgotten afterwards, and nothing is known before: for tests."""
    before = {group: dict(known) for group, known in _registered.items()}
    loaded, looked, unusable = set(_loaded), set(_looked), dict(_broken)
    for known in _registered.values():
        known.clear()
    _loaded.clear()
    _looked.clear()
    _broken.clear()
    try:
        yield
    finally:
        for group, known in _registered.items():
            known.clear()
            known.update(before[group])
        for names, were in ((_loaded, loaded), (_looked, looked)):
            names.clear()
            names.update(were)
        _broken.clear()
        _broken.update(unusable)


def load() -> None:
    """Import the modules of the setting `plugins`, each once. Raises `InvalidInput` for the
    settings.
    """
    for module in filter(None, map(str.strip, settings.load().plugins.split(","))):
        if module in _loaded:
            continue
        _loaded.add(module)
        try:
            import_module(module)
        except (Exception, SystemExit) as error:
            _broken[module] = f"{type(error).__name__}: {error}"
            log.exception("the plugin %s cannot be imported", module, extra={"action": "plugin"})


def broken() -> dict[str, str]:
    """The modules of `plugins` that could not be imported, and why."""
    return dict(_broken)


def look() -> None:
    """Find the listeners of this process: import `plugins`, and look up what is installed."""
    load()
    installed(LISTENERS)
    _looked.add(LISTENERS)


def names(group: str) -> list[str]:
    """All names of a group that are known to this process, sorted; it has called `load`."""
    return sorted({*installed(group), *_registered[group]})


def here(group: str) -> list[str]:
    """Those of this process, sorted, as far as they are known: nothing is looked up for it."""
    return names(group) if group in _looked else sorted(_registered[group])


def find(group: str, name: str) -> Callable[..., Any] | None:
    """The function of that name; None where nobody has registered one.

    Raises `Unusable` with why it cannot be used: it cannot be loaded, it is none, or several
    have the name.
    """
    registered = _registered[group].get(name)
    entries = installed(group).get(name, ())
    if len(entries) + (registered is not None and not _is(entries, registered)) > 1:
        said = [each.value for each in entries]
        said += [own_name(registered)] if registered is not None else []
        raise Unusable(f"it is registered by several: {', '.join(sorted(said))}")
    if registered is not None:
        return registered
    for entry in entries:
        try:
            function = entry.load()
        except (Exception, SystemExit) as error:
            told = f"{entry.value} cannot be loaded: {type(error).__name__}: {error}"
            raise Unusable(told) from None
        if isinstance(function, type) or not callable(function):
            raise Unusable(f"{entry.value} is no function")
        found: Callable[..., Any] = function
        return found
    return None


def _is(entries: tuple[EntryPoint, ...], function: Callable[..., Any]) -> bool:
    """Whether the one entry point is the function that was registered as well."""
    return len(entries) == 1 and entries[0].value.replace(":", ".") == own_name(function)


def is_async(function: Callable[..., Any]) -> bool:
    """Whether a call of it is to be awaited."""
    function = inspect.unwrap(function)
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - of an object that can be called
    )
