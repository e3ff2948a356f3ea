"""`daybook.Client.tasks`: the operations of `daybook task`, for programs.

Each method calls an operation for the client's actor, and has the operation's signature and
docstring. An agent's client may use its own sessions and runs, as over MCP; all other operations
are only for the operator, and raise `InvalidInput` for an agent.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager
from functools import update_wrapper
from typing import Any, Concatenate, ParamSpec, TypeVar

from daybook.api import authorization, task_scheduler, tasks
from daybook.api.blocking import blocking

P = ParamSpec("P")
R = TypeVar("R")

ActingAs = Callable[[], AbstractContextManager[None]]
"""Function that returns a context manager in which the client's actor is the current one."""


class Operations:
    """Operations that share a client's actor."""

    def __init__(self, acting_as: ActingAs) -> None:
        self._acting_as = acting_as


def operation_method(
    operation: Callable[P, Awaitable[R]], *, operator_only: bool = True
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]:
    """Return a method for a subclass of `Operations` that calls ``operation`` as its actor."""

    async def call(self: Operations, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with self._acting_as():
            if operator_only:
                authorization.require_operator()
            return await operation(*args, **kwargs)

    update_wrapper(call, operation)
    signature = inspect.signature(operation)
    self_ = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    parameters = [self_, *signature.parameters.values()]
    vars(call)["__signature__"] = signature.replace(parameters=parameters)
    return call


class TaskSessions(Operations):
    """The operations of `daybook task session`."""

    register = operation_method(tasks.register, operator_only=False)
    report = operation_method(tasks.report, operator_only=False)
    list = operation_method(tasks.list_sessions, operator_only=False)
    get = operation_method(tasks.find_session, operator_only=False)
    remove = operation_method(tasks.remove_session, operator_only=False)


class TaskScheduler(Operations):
    """The operations of `daybook task scheduler`."""

    status = operation_method(task_scheduler.status)
    pause = operation_method(task_scheduler.pause)
    resume = operation_method(task_scheduler.resume)
    drain = operation_method(task_scheduler.drain)
    backlog = operation_method(task_scheduler.backlog)
    cycle = operation_method(task_scheduler.cycle)
    rebuild = operation_method(task_scheduler.rebuild)


class Tasks(Operations):
    """The operations of `daybook task`."""

    def __init__(self, acting_as: ActingAs) -> None:
        super().__init__(acting_as)
        self.sessions = TaskSessions(acting_as)
        self.scheduler = TaskScheduler(acting_as)

    add = operation_method(tasks.add)
    list = operation_method(tasks.list_tasks)
    get = operation_method(tasks.show)
    pause = operation_method(tasks.pause)
    resume = operation_method(tasks.resume)
    retry = operation_method(tasks.retry)
    recover = operation_method(tasks.recover)
    cancel = operation_method(tasks.cancel)
    next = operation_method(tasks.next_run, operator_only=False)
    wait = operation_method(tasks.wait_until_claimable, operator_only=False)
    heartbeat = operation_method(tasks.heartbeat, operator_only=False)
    complete = operation_method(tasks.complete, operator_only=False)
    fail = operation_method(tasks.fail, operator_only=False)
    release = operation_method(tasks.release, operator_only=False)


class SyncTaskSessions:
    """`TaskSessions` without `await`."""

    def __init__(self, client: TaskSessions) -> None:
        self.client = client

    register = blocking(TaskSessions.register)
    report = blocking(TaskSessions.report)
    list = blocking(TaskSessions.list)
    get = blocking(TaskSessions.get)
    remove = blocking(TaskSessions.remove)


class SyncTaskScheduler:
    """`TaskScheduler` without `await`."""

    def __init__(self, client: TaskScheduler) -> None:
        self.client = client

    status = blocking(TaskScheduler.status)
    pause = blocking(TaskScheduler.pause)
    resume = blocking(TaskScheduler.resume)
    drain = blocking(TaskScheduler.drain)
    backlog = blocking(TaskScheduler.backlog)
    cycle = blocking(TaskScheduler.cycle)
    rebuild = blocking(TaskScheduler.rebuild)


class SyncTasks:
    """`Tasks` without `await`."""

    def __init__(self, client: Tasks) -> None:
        self.client = client
        self.sessions = SyncTaskSessions(client.sessions)
        self.scheduler = SyncTaskScheduler(client.scheduler)

    add = blocking(Tasks.add)
    list = blocking(Tasks.list)
    get = blocking(Tasks.get)
    pause = blocking(Tasks.pause)
    resume = blocking(Tasks.resume)
    retry = blocking(Tasks.retry)
    recover = blocking(Tasks.recover)
    cancel = blocking(Tasks.cancel)
    next = blocking(Tasks.next)
    wait = blocking(Tasks.wait)
    heartbeat = blocking(Tasks.heartbeat)
    complete = blocking(Tasks.complete)
    fail = blocking(Tasks.fail)
    release = blocking(Tasks.release)
