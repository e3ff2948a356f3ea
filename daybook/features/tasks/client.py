"""`Client.tasks`: the operations of `daybook task` for programs.

With the client of an agent, a program can use the agent's own task sessions and task runs. All
other operations are only for the operator; for an agent they raise `InvalidInput`.
"""

from __future__ import annotations

from daybook.api.client_methods import ActingAs, Blocking, Operations, operation
from daybook.features.tasks import operations, scheduler_operations


class TaskSessions(Operations):
    """The operations of `daybook task session`."""

    register = operation(operations.register, operator_only=False)
    report = operation(operations.report, operator_only=False)
    list = operation(operations.list_sessions, operator_only=False)
    get = operation(operations.find_session, operator_only=False)
    remove = operation(operations.remove_session, operator_only=False)


class TaskScheduler(Operations):
    """The operations of `daybook task scheduler`."""

    status = operation(scheduler_operations.status)
    pause = operation(scheduler_operations.pause)
    resume = operation(scheduler_operations.resume)
    drain = operation(scheduler_operations.drain)
    backlog = operation(scheduler_operations.backlog)
    cycle = operation(scheduler_operations.cycle)
    rebuild = operation(scheduler_operations.rebuild)


class Tasks(Operations):
    """The operations of `daybook task`. Results are the models of `daybook.features.tasks.views`.

    `sessions` has the operations on task sessions, and `scheduler` the operations on the scheduler.
    """

    def __init__(self, acting_as: ActingAs) -> None:
        super().__init__(acting_as)
        self.sessions = TaskSessions(acting_as)
        self.scheduler = TaskScheduler(acting_as)

    add = operation(operations.add)
    list = operation(operations.list_tasks)
    get = operation(operations.show)
    pause = operation(operations.pause)
    resume = operation(operations.resume)
    retry = operation(operations.retry)
    recover = operation(operations.recover)
    cancel = operation(operations.cancel)
    next = operation(operations.next_run, operator_only=False)
    wait = operation(operations.wait_until_claimable, operator_only=False)
    heartbeat = operation(operations.heartbeat, operator_only=False)
    complete = operation(operations.complete, operator_only=False)
    fail = operation(operations.fail, operator_only=False)
    release = operation(operations.release, operator_only=False)


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
