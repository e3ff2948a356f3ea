"""Tools that are Python functions, installed or registered.

An installed tool is an entry point of the group ``daybook.tools``. ``daybook.tool`` registers a
function, usually in a module of the setting `plugins` (`daybook.registry`).

::

    [project.entry-points."daybook.tools"]          @daybook.tool("reindex")
    reindex = "search_tools.jobs:reindex"           async def reindex(full: bool = False) -> str:

The params are the function's keyword arguments, and the schema is derived from their types. The
docstring is the description, and the return value is the answer. A timeout or a cancellation ends
an ``async def``. Any other function runs in a thread, which only the worker can end, with a
SIGKILL. So the run waits until the function has ended, and no retry starts before that.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio.to_thread
from pydantic import PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import ArgsKwargs

from daybook import registry
from daybook.errors import InvalidInput, Temporary
from daybook.json_text import JsonObject
from daybook.ledger.states import Outcome, Status
from daybook.processes.ending import wait_shielded
from daybook.tools import OCCURRENCE, answers
from daybook.tools.base import PYTHON, CallResult, ToolInfo

GROUP = registry.TOOLS


def names() -> list[str]:
    """Return the names of all installed and registered tools, sorted.

    Raise `InvalidInput` for an invalid setting.
    """
    registry.load_plugins()
    return registry.names(GROUP)


def info(name: str) -> ToolInfo:
    """Return the tool with this name. Raise `InvalidInput` if it is missing or cannot be used."""
    function = _load(name)
    try:
        schema = _arguments(function).json_schema()
    except Exception as error:  # these are pydantic's errors, and errors that the annotations raise
        raise _unusable(name, f"its arguments have no schema: {error}") from None
    if schema.get("type") != "object":
        raise _unusable(name, "it has an argument that cannot be passed by name")
    idempotent = registry.is_idempotent(name)
    return ToolInfo(name, inspect.getdoc(function) or "", schema, PYTHON, idempotent)


async def call(
    name: str,
    params: JsonObject,
    occurrence: str,
    *,
    timeout: float,
    hide: answers.HideSecrets = str,
) -> CallResult:
    """Call the tool once, and return the result.

    If the tool raises an exception, the result is failed. After ``timeout`` seconds an `async def`
    is cancelled; any other function continues until it ends. In both cases, the result is timed
    out. ``hide`` replaces secrets in the answer before it is shortened. The messages of the outcome
    may still contain secrets from the params. Raise `InvalidInput` if the tool cannot be used.
    """
    function = _load(name)
    work = _Work(_arguments(function), params, occurrence)
    try:
        if inspect.iscoroutinefunction(inspect.unwrap(function)):
            async with asyncio.timeout(timeout):
                value = await work.run_async()
        else:
            value = await _run_in_thread(work, timeout)
    except _TooLate as late_error:
        message = f"{name} did not end within {timeout:g} s"
        return CallResult(Outcome(Status.TIMED_OUT, str(late_error), error=message))
    except Temporary as error:
        return CallResult(Outcome(Status.FAILED, error=str(error)), True, error.retry_after)
    except TimeoutError as error:
        if work.ended:
            return _failed_result(error)
        message = f"{name} did not end within {timeout:g} s; it was cancelled"
        return CallResult(Outcome(Status.TIMED_OUT, error=message))
    except (Exception, SystemExit) as error:
        return _failed_result(error)
    text, result = answers.from_python(value, hide)
    return CallResult(Outcome(Status.SUCCEEDED, text.remark, output=text.kept, result=result))


class _TooLate(Exception):
    """The function ended after its timeout."""


class _Work:
    """One call of a function.

    ``ended`` becomes true when the function has returned, or has raised an error of its own.
    """

    def __init__(self, function: TypeAdapter[Any], params: JsonObject, occurrence: str) -> None:
        self.ended = False
        self._function = function
        self._params = params
        self._occurrence = occurrence

    def run_sync(self) -> Any:
        """Run the function. Call this method in a thread.

        Raise the function's errors, and `RuntimeError` in place of `SystemExit` and
        `asyncio.CancelledError`.
        """
        OCCURRENCE.set(self._occurrence)  # the function reads the key in the context of this thread
        try:
            return self._function.validate_python(ArgsKwargs((), self._params))
        except (SystemExit, asyncio.CancelledError) as error:
            # In a thread, Python would ignore the first. The second would cancel the caller.
            raise RuntimeError(f"{type(error).__name__}: {error}") from error
        finally:
            self.ended = True

    async def run_async(self) -> Any:
        token = OCCURRENCE.set(self._occurrence)
        try:
            value = await self._function.validate_python(ArgsKwargs((), self._params))
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            self.ended = True  # the function raised it, and this task was not cancelled
            raise RuntimeError(f"CancelledError: {error}") from error
        except BaseException:
            self.ended = True
            raise
        finally:
            OCCURRENCE.reset(token)
        self.ended = True
        return value


async def _run_in_thread(work: _Work, timeout: float) -> Any:
    """Run the function in a thread until it ends, even after the timeout or a cancellation.

    Raise `_TooLate` if it ends after the timeout.
    """
    began = time.monotonic()
    in_time = True

    def mark_late() -> None:
        nonlocal in_time
        in_time = False

    timer = asyncio.get_running_loop().call_later(timeout, mark_late)
    try:
        value = await wait_shielded(asyncio.create_task(anyio.to_thread.run_sync(work.run_sync)))
    except Exception as error:
        if in_time:
            raise
        ending = f"raised {type(error).__name__}: {_text(error)}"
        raise _TooLate(_late_reason(began, ending)) from error
    finally:
        timer.cancel()
    if not in_time:
        raise _TooLate(_late_reason(began, "returned a result, which was dropped"))
    return value


def _late_reason(began: float, ending: str) -> str:
    after = time.monotonic() - began
    return f"it ran in a thread, which cannot be stopped; after {after:.1f} s it {ending}"


def _failed_result(error: BaseException) -> CallResult:
    return CallResult(Outcome(Status.FAILED, error=f"{type(error).__name__}: {_text(error)}"))


def _text(error: BaseException) -> str:
    """Return the text of an error, without the values that pydantic refused.

    They may contain secrets, of which pydantic shows only parts that `hide` cannot find.
    """
    if not isinstance(error, ValidationError):
        return str(error)
    found = error.errors(include_input=False, include_url=False, include_context=False)
    return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in found)


def _load(name: str) -> Callable[..., Any]:
    registry.load_plugins()
    try:
        function = registry.find(GROUP, name)
    except registry.UnusableFunction as error:
        raise _unusable(name, str(error)) from None
    if function is None:
        raise _unusable(name, "it is not installed in this environment")
    is_plain = inspect.isroutine(function) or isinstance(function, partial)
    return function if is_plain else function.__call__  # type: ignore[operator]


def _arguments(function: Callable[..., Any]) -> TypeAdapter[Any]:
    """Return an adapter that validates arguments by the annotations and calls ``function``.

    Raise `TypeError` if this is impossible.
    """
    try:
        return TypeAdapter[Any](function)  # type: ignore[arg-type]  # a function is a type here
    except PydanticUserError as error:
        raise TypeError(error.message) from None


def _unusable(name: str, why: str) -> InvalidInput:
    return InvalidInput("tool", f'the Python tool "{name}" cannot be used: {why}')
