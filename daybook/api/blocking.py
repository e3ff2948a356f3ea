"""Blocking methods, made from the async methods of another class."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import update_wrapper
from typing import Any, Concatenate, ParamSpec, TypeVar

from daybook.errors import DaybookError

C = TypeVar("C")
P = ParamSpec("P")
R = TypeVar("R")


def blocking(
    method: Callable[Concatenate[C, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[Any, P], R]:
    """Return a method that runs ``method`` of ``self.client`` and blocks until it has finished."""

    def call(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return run(method(self.client, *args, **kwargs))

    update_wrapper(call, method)
    return call


def run(work: Coroutine[Any, Any, R]) -> R:
    """Run ``work`` in a new event loop; return its result, or raise its error without the cause.

    If a loop already runs in this thread, as in a notebook, run the new one in another thread.
    """
    # Not inside an `except`: every error of `work` would be chained to the one handled there.
    has_loop = _has_loop()
    try:
        if not has_loop:
            return asyncio.run(work)
        with ThreadPoolExecutor(1, "daybook") as thread:
            return thread.submit(copy_context().run, asyncio.run, work).result()
    except DaybookError as error:
        raise error from None  # its text includes the cause


def _has_loop() -> bool:
    """Return whether an event loop runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
