"""Methods of the clients: coroutine functions in `Client`, blocking functions in `SyncClient`."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager, suppress
from contextvars import copy_context
from functools import update_wrapper
from types import MethodType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from daybook import api
from daybook.errors import DaybookError, InvalidInput
from daybook.short_text import one_line

P = ParamSpec("P")
R = TypeVar("R")

ActingAs = Callable[[], AbstractContextManager[None]]
"""Function that returns a context manager; inside it, the client's actor is the current actor."""


class Operations:
    """Base class of a client, and of a group of a client's operations.

    It stores the client's actor. Each `ClientMethod` of such a class is a coroutine function,
    unless the class is `Blocking`.
    """

    def __init__(self, acting_as: ActingAs) -> None:
        self._acting_as = acting_as


class Blocking:
    """Marks a subclass of `Operations` whose methods block until their result is known."""


def _check_texts(bound: inspect.BoundArguments) -> None:
    """Raise `InvalidInput` for an argument with the annotation `str` that has another type."""
    for name, value in bound.arguments.items():
        parameter = bound.signature.parameters[name]
        if parameter.annotation != "str":
            continue
        several = parameter.kind is inspect.Parameter.VAR_POSITIONAL
        for each in value if several else (value,):
            if not isinstance(each, str):
                hint = "write each one as its own argument" if several else "write one text"
                raise InvalidInput(name, f"{one_line(repr(each), 60)} is not a text", hint)


class ClientMethod(Generic[P, R]):
    """Descriptor that turns a coroutine function into a method of a client.

    The function runs with the client's actor as the current actor. The method of a `Blocking` class
    blocks until the coroutine has finished. It raises `InvalidInput` for an argument that has to be
    a text and is none, such as a list of names instead of several names.
    """

    def __init__(self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]) -> None:
        signature = inspect.signature(function)

        async def call(client: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
            with suppress(TypeError):  # the call below raises an error for wrong arguments
                _check_texts(signature.bind(client, *args, **kwargs))
            with client._acting_as():
                return await function(client, *args, **kwargs)

        def block(client: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
            return _run(call(client, *args, **kwargs))

        self._call, self._block = update_wrapper(call, function), update_wrapper(block, function)
        update_wrapper(self, function)  # copy the docstring

    @overload
    def __get__(self, client: None, owner: type) -> Self: ...
    @overload
    def __get__(self, client: Blocking, owner: type) -> Callable[P, R]: ...
    @overload
    def __get__(self, client: Operations, owner: type) -> Callable[P, Coroutine[Any, Any, R]]: ...

    def __get__(self, client: Any, owner: type) -> Any:
        if client is None:
            return self
        return MethodType(self._block if isinstance(client, Blocking) else self._call, client)

    def __call__(self, client: Operations, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Call the method of ``client``: `Client.add(client, …)` is `client.add(…)`."""
        return self.__get__(client, type(client))(*args, **kwargs)


def operation(
    function: Callable[P, Awaitable[R]], *, operator_only: bool = True
) -> ClientMethod[P, R]:
    """Return an operation of `daybook.api` as a method with the same signature and docstring.

    With ``operator_only``, the method raises `InvalidInput` for an agent.
    """

    async def call(_: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        if operator_only:
            api.authorization.require_operator()
        return await function(*args, **kwargs)

    signature = inspect.signature(function)
    client = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    update_wrapper(call, function)
    call.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[client, *signature.parameters.values()]
    )
    return ClientMethod(call)


def _run(work: Coroutine[Any, Any, R]) -> R:
    """Run ``work`` in a new event loop. Return its result, or raise its error.

    Raise a `DaybookError` without its cause, because the text of the error includes the cause.
    If a loop already runs in this thread, as in a notebook, run the new loop in another thread.
    """
    import asyncio  # this import is slow, and only blocking methods need it
    from concurrent.futures import ThreadPoolExecutor

    # This is not inside an `except`, because Python would chain every error of `work` to that
    # error.
    has_loop = _has_loop()
    try:
        if not has_loop:
            return asyncio.run(work)
        with ThreadPoolExecutor(1, "daybook") as thread:
            return thread.submit(copy_context().run, asyncio.run, work).result()
    except DaybookError as error:
        raise error from None  # the text of the error includes the cause


def _has_loop() -> bool:
    """Return whether an event loop runs in this thread."""
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
