"""Operations as methods of a client: coroutines, or functions that block."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager
from functools import update_wrapper
from typing import Any, Generic, ParamSpec, Self, TypeVar, overload

from daybook.api import authorization
from daybook.api.blocking import run

P = ParamSpec("P")
R = TypeVar("R")

ActingAs = Callable[[], AbstractContextManager[None]]
"""Function that returns a context manager in which the client's actor is the current one."""


class Operations:
    """Operations that share a client's actor. Each `Operation` of it is a coroutine function."""

    def __init__(self, acting_as: ActingAs) -> None:
        self._acting_as = acting_as


class Blocking:
    """Marks a subclass of `Operations` whose methods block until they have finished."""


class Operation(Generic[P, R]):
    """Descriptor that makes an operation a method, with its signature and docstring."""

    def __init__(self, operation: Callable[P, Awaitable[R]], *, operator_only: bool = True) -> None:
        self._operation, self._operator_only = operation, operator_only
        self.__doc__ = operation.__doc__

    @property
    def __signature__(self) -> inspect.Signature:
        signature = inspect.signature(self._operation)
        self_ = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
        return signature.replace(parameters=[self_, *signature.parameters.values()])

    @overload
    def __get__(self, client: None, owner: type) -> Self: ...
    @overload
    def __get__(self, client: Blocking, owner: type) -> Callable[P, R]: ...
    @overload
    def __get__(self, client: Operations, owner: type) -> Callable[P, Coroutine[Any, Any, R]]: ...

    def __get__(self, client: Any, owner: type) -> Any:
        if client is None:
            return self

        async def call(*args: P.args, **kwargs: P.kwargs) -> R:
            with client._acting_as():
                if self._operator_only:
                    authorization.require_operator()
                return await self._operation(*args, **kwargs)

        def block(*args: P.args, **kwargs: P.kwargs) -> R:
            return run(call(*args, **kwargs))

        method: Any = block if isinstance(client, Blocking) else call
        return update_wrapper(method, self._operation)

    def __call__(self, client: Operations, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Call the method of ``client``, as a function of a class does."""
        return self.__get__(client, type(client))(*args, **kwargs)
