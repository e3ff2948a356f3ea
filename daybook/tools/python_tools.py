"""Tools that are Python functions: entry points of the group ``daybook.tools``, and those that
``daybook.tool`` registers in a module of the setting `plugins` (`daybook.registry`).

::

    [project.entry-points."daybook.tools"]          @daybook.tool("reindex")
    reindex = "search_tools.jobs:reindex"           async def reindex(full: bool = False) -> str:

The params are the function's arguments by name, its schema is made from their types, its docstring
is its description, and what it returns is the answer. An ``async def`` is ended by a timeout or a
cancel. Any other function runs in a thread, which nothing can end: it is waited for, so that no
retry begins while it runs, and the worker's hard kill is what ends it.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio.to_thread
from pydantic import PydanticUserError, TypeAdapter
from pydantic_core import ArgsKwargs

from daybook import registry
from daybook.errors import InvalidInput, Temporary
from daybook.ledger.states import Outcome, Status
from daybook.processes.ending import wait_shielded
from daybook.tools import answers
from daybook.tools.base import PYTHON, Called, ToolInfo
from daybook.tools.context import OCCURRENCE

GROUP = registry.TOOLS


def names() -> list[str]:
    """The names of all that are installed or registered, sorted."""
    registry.load_plugins()
    return registry.names(GROUP)


def info(name: str) -> ToolInfo:
    """The tool of that name, which has to be one of `names`; raises `InvalidInput`."""
    function = _load(name)
    try:
        schema = _arguments(function).json_schema()
    except Exception as error:  # pydantic's, and what the annotations themselves raise
        raise _unusable(name, f"no schema can be made of its arguments: {error}") from None
    if schema.get("type") != "object":
        raise _unusable(name, "an argument of it has no name, and params are given by name")
    return ToolInfo(name, inspect.getdoc(function) or "", schema, PYTHON)


async def call(
    name: str,
    params: dict[str, Any],
    occurrence: str,
    *,
    timeout: float,
    hide: answers.Hide = str,
) -> Called:
    """Call it once; ``timeout`` in seconds. What is cut of its answer is cut behind ``hide``, but
    the outcome's words may hold what the params hold.
    """
    function = _load(name)
    work = _Work(_arguments(function), params, occurrence)
    try:
        if inspect.iscoroutinefunction(inspect.unwrap(function)):
            async with asyncio.timeout(timeout):
                value = await work.here()
        else:
            value = await _in_a_thread(work, timeout)
    except _Late as late:
        told = f"{name} did not end within {timeout:g} s"
        return Called(Outcome(Status.TIMED_OUT, str(late), error=told))
    except Temporary as error:
        return Called(Outcome(Status.FAILED, error=str(error)), True, error.retry_after)
    except TimeoutError as error:
        if work.ended:
            return _failed(error)
        told = f"{name} did not end within {timeout:g} s; it was cancelled"
        return Called(Outcome(Status.TIMED_OUT, error=told))
    except (Exception, SystemExit) as error:
        return _failed(error)
    text, result = answers.of_value(value, hide)
    return Called(Outcome(Status.SUCCEEDED, text.remark, output=text.kept, result=result))


class _Late(Exception):
    """It ended after its time."""


class _Work:
    """One call. ``ended``: the function has returned or raised by itself."""

    def __init__(self, function: TypeAdapter[Any], params: dict[str, Any], occurrence: str) -> None:
        self.ended = False
        self._function = function
        self._params = params
        self._occurrence = occurrence

    def there(self) -> Any:
        """In a thread."""
        OCCURRENCE.set(self._occurrence)  # the thread's own
        try:
            return self._function.validate_python(ArgsKwargs((), self._params))
        except SystemExit as error:  # in the thread it would end nothing, and be lost
            raise RuntimeError(f"SystemExit: {error}") from error
        finally:
            self.ended = True

    async def here(self) -> Any:
        token = OCCURRENCE.set(self._occurrence)
        try:
            value = await self._function.validate_python(ArgsKwargs((), self._params))
        except asyncio.CancelledError:
            raise
        except BaseException:
            self.ended = True
            raise
        finally:
            OCCURRENCE.reset(token)
        self.ended = True
        return value


async def _in_a_thread(work: _Work, timeout: float) -> Any:
    """Until the function has ended, also where that is too late, or nobody waits any more."""
    began = time.monotonic()
    in_time = True

    def up() -> None:
        nonlocal in_time
        in_time = False

    timer = asyncio.get_running_loop().call_later(timeout, up)
    try:
        value = await wait_shielded(asyncio.create_task(anyio.to_thread.run_sync(work.there)))
    except Exception as error:
        if in_time:
            raise
        raise _Late(_late(began, f"raised {type(error).__name__}: {error}")) from error
    finally:
        timer.cancel()
    if not in_time:
        raise _Late(_late(began, "returned, which is dropped"))
    return value


def _late(began: float, how: str) -> str:
    after = time.monotonic() - began
    return f"it runs in a thread, which cannot be ended; after {after:.1f} s it {how}"


def _failed(error: BaseException) -> Called:
    return Called(Outcome(Status.FAILED, error=f"{type(error).__name__}: {error}"))


def _load(name: str) -> Callable[..., Any]:
    registry.load_plugins()
    try:
        function = registry.find(GROUP, name)
    except registry.UnusableFunction as error:
        raise _unusable(name, str(error)) from None
    if function is None:
        raise _unusable(name, "it is not installed where this runs")
    is_plain = inspect.isroutine(function) or isinstance(function, partial)
    return function if is_plain else function.__call__  # type: ignore[operator]


def _arguments(function: Callable[..., Any]) -> TypeAdapter[Any]:
    """A call of ``function`` by its arguments, which are made what its annotations say."""
    try:
        return TypeAdapter[Any](function)  # type: ignore[arg-type]  # a call of it is a type here
    except PydanticUserError as error:
        raise TypeError(error.message) from None


def _unusable(name: str, why: str) -> InvalidInput:
    return InvalidInput("tool", f'the Python tool "{name}" cannot be used: {why}')
