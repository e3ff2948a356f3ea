"""`daybook.SyncClient`: the client for programs without an event loop.

Each method calls the method of `Client` and blocks until it has finished. It has the same docstring
and returns the same results.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import update_wrapper
from typing import Any, Concatenate, ParamSpec, TypeVar

from daybook.api.client import Client
from daybook.errors import DaybookError

P = ParamSpec("P")
R = TypeVar("R")


def run_blocking(work: Coroutine[Any, Any, R]) -> R:
    """Run ``work`` in its own event loop; return its result.

    If a loop already runs in this thread, as in a notebook, use another thread.
    """
    # Not inside an `except`: every error of `work` would be chained to the one handled there.
    if not _has_loop():
        return asyncio.run(work)
    with ThreadPoolExecutor(1, "daybook") as thread:
        return thread.submit(copy_context().run, asyncio.run, work).result()


def _has_loop() -> bool:
    """Return whether an event loop runs in this thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _sync(
    verb: Callable[Concatenate[Client, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[SyncClient, P], R]:
    def call(self: SyncClient, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return run_blocking(verb(self.client, *args, **kwargs))
        except DaybookError as error:
            raise error from None  # its text includes the cause

    update_wrapper(call, verb)
    return call


class SyncClient:
    """`Client` without `await`: the same methods, arguments, results and errors.

    An example::

        client = daybook.SyncClient()
        job = client.add("Summarise open pull requests", schedule="0 9 * * 1-5")
        print(client.run(job["id"], wait=True)["status"])

    """

    def __init__(self, *, agent: str = "", user: str = "") -> None:
        self.client = Client(agent=agent, user=user)

    add = _sync(Client.add)
    add_webhook = _sync(Client.add_webhook)
    add_tool = _sync(Client.add_tool)
    plugin_job = _sync(Client.plugin_job)
    list = _sync(Client.list)
    get = _sync(Client.get)
    update = _sync(Client.update)
    pause = _sync(Client.pause)
    resume = _sync(Client.resume)
    remove = _sync(Client.remove)
    run = _sync(Client.run)
    runs = _sync(Client.runs)
    run_of = _sync(Client.run_of)
    cancel = _sync(Client.cancel)
    next = _sync(Client.next)
