"""`daybook.Client.tasks`: the operations of `daybook task`, for programs.

Each method calls an operation for the client's actor, and has the operation's signature and
docstring. An agent's client may use its own sessions and runs, as over MCP; all other operations
are only for the operator, and raise `InvalidInput` for an agent.
"""

from __future__ import annotations

from daybook.api import task_scheduler, tasks
from daybook.api.operation_methods import ActingAs, Blocking, Operation, Operations


class TaskSessions(Operations):
    """The operations of `daybook task session`."""

    register = Operation(tasks.register, operator_only=False)
    report = Operation(tasks.report, operator_only=False)
    list = Operation(tasks.list_sessions, operator_only=False)
    get = Operation(tasks.find_session, operator_only=False)
    remove = Operation(tasks.remove_session, operator_only=False)


class TaskScheduler(Operations):
    """The operations of `daybook task scheduler`."""

    status = Operation(task_scheduler.status)
    pause = Operation(task_scheduler.pause)
    resume = Operation(task_scheduler.resume)
    drain = Operation(task_scheduler.drain)
    backlog = Operation(task_scheduler.backlog)
    cycle = Operation(task_scheduler.cycle)
    rebuild = Operation(task_scheduler.rebuild)


class Tasks(Operations):
    """The operations of `daybook task`."""

    def __init__(self, acting_as: ActingAs) -> None:
        super().__init__(acting_as)
        self.sessions = TaskSessions(acting_as)
        self.scheduler = TaskScheduler(acting_as)

    add = Operation(tasks.add)
    list = Operation(tasks.list_tasks)
    get = Operation(tasks.show)
    pause = Operation(tasks.pause)
    resume = Operation(tasks.resume)
    retry = Operation(tasks.retry)
    recover = Operation(tasks.recover)
    cancel = Operation(tasks.cancel)
    next = Operation(tasks.next_run, operator_only=False)
    wait = Operation(tasks.wait_until_claimable, operator_only=False)
    heartbeat = Operation(tasks.heartbeat, operator_only=False)
    complete = Operation(tasks.complete, operator_only=False)
    fail = Operation(tasks.fail, operator_only=False)
    release = Operation(tasks.release, operator_only=False)


class SyncTaskSessions(Blocking, TaskSessions):
    """`TaskSessions` without `await`."""


class SyncTaskScheduler(Blocking, TaskScheduler):
    """`TaskScheduler` without `await`."""


class SyncTasks(Blocking, Tasks):
    """`Tasks` without `await`."""

    sessions: SyncTaskSessions
    scheduler: SyncTaskScheduler

    def __init__(self, acting_as: ActingAs) -> None:
        super().__init__(acting_as)
        self.sessions = SyncTaskSessions(acting_as)
        self.scheduler = SyncTaskScheduler(acting_as)
