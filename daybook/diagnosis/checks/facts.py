"""Facts that several checks need. During one `doctor`, each fact is read once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_facts: ContextVar[dict[object, asyncio.Task[Any]] | None] = ContextVar("facts", default=None)


@contextmanager
def read_once() -> Iterator[None]:
    """Let each function marked with `fact` run only once for the same arguments.

    This applies while the block runs.
    """
    token = _facts.set({})
    try:
        yield
    finally:
        _facts.reset(token)


def fact(read: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Mark a function whose result several checks need, for `read_once`."""

    @wraps(read)
    async def reading(*args: P.args, **kwargs: P.kwargs) -> T:
        facts = _facts.get()
        if facts is None:
            return await read(*args, **kwargs)
        key = (read, args, tuple(kwargs.items()))
        if key not in facts:
            facts[key] = asyncio.ensure_future(read(*args, **kwargs))
        result: T = await facts[key]
        return result

    return reading
