"""Groups of operations of a client: `tasks` and `sessions`.

Each method calls an operation for the client's actor, and has the operation's signature and
docstring. With the client of an agent, a program can use the agent's own task sessions and task
runs. All other operations are only for the operator; for an agent they raise `InvalidInput`.
"""

from __future__ import annotations

from daybook.api import sessions, task_scheduler, tasks
from daybook.api.client_methods import ActingAs, Blocking, Operations, operation


class TaskSessions(Operations):
    """The operations of `daybook task session`."""

    register = operation(tasks.register, operator_only=False)
    report = operation(tasks.report, operator_only=False)
    list = operation(tasks.list_sessions, operator_only=False)
    get = operation(tasks.find_session, operator_only=False)
    remove = operation(tasks.remove_session, operator_only=False)


class TaskScheduler(Operations):
    """The operations of `daybook task scheduler`."""

    status = operation(task_scheduler.status)
    pause = operation(task_scheduler.pause)
    resume = operation(task_scheduler.resume)
    drain = operation(task_scheduler.drain)
    backlog = operation(task_scheduler.backlog)
    cycle = operation(task_scheduler.cycle)
    rebuild = operation(task_scheduler.rebuild)


class Tasks(Operations):
    """The operations of `daybook task`."""

    def __init__(self, acting_as: ActingAs) -> None:
        super().__init__(acting_as)
        self.sessions = TaskSessions(acting_as)
        self.scheduler = TaskScheduler(acting_as)

    add = operation(tasks.add)
    list = operation(tasks.list_tasks)
    get = operation(tasks.show)
    pause = operation(tasks.pause)
    resume = operation(tasks.resume)
    retry = operation(tasks.retry)
    recover = operation(tasks.recover)
    cancel = operation(tasks.cancel)
    next = operation(tasks.next_run, operator_only=False)
    wait = operation(tasks.wait_until_claimable, operator_only=False)
    heartbeat = operation(tasks.heartbeat, operator_only=False)
    complete = operation(tasks.complete, operator_only=False)
    fail = operation(tasks.fail, operator_only=False)
    release = operation(tasks.release, operator_only=False)


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


class Sessions(Operations):
    """The operations of `daybook session`."""

    list = operation(sessions.list_sessions)
    get = operation(sessions.show)
    send = operation(sessions.send)


class SyncSessions(Blocking, Sessions):
    """`Sessions` without `await`."""
