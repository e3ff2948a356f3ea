"""`daybook.SyncClient`: the client for programs without an event loop.

Each method calls the method of `Client` with the same name, blocks until that has finished, and
returns its result. The docstrings are the same.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from daybook.api.blocking import blocking
from daybook.api.client import Client

if TYPE_CHECKING:
    from daybook.api.hook_client import SyncHooks
    from daybook.api.session_client import SyncSessions
    from daybook.api.task_client import SyncTasks


class SyncClient:
    """`Client` without `await`: the same methods, arguments, results and errors.

    An example::

        client = daybook.SyncClient()
        job = client.add("Summarise open pull requests", schedule="0 9 * * 1-5")
        print(client.run(job.id, wait=True).status)

    """

    def __init__(self, *, agent: str = "", user: str = "") -> None:
        self.client = Client(agent=agent, user=user)

    add = blocking(Client.add)
    add_webhook = blocking(Client.add_webhook)
    add_tool = blocking(Client.add_tool)
    plugin_job = blocking(Client.plugin_job)
    list = blocking(Client.list)
    get = blocking(Client.get)
    update = blocking(Client.update)
    pause = blocking(Client.pause)
    resume = blocking(Client.resume)
    remove = blocking(Client.remove)
    run = blocking(Client.run)
    retry = blocking(Client.retry)
    runs = blocking(Client.runs)
    run_of = blocking(Client.run_of)
    cancel = blocking(Client.cancel)
    next = blocking(Client.next)
    plan_maintenance = blocking(Client.plan_maintenance)
    maintenance = blocking(Client.maintenance)
    remove_maintenance = blocking(Client.remove_maintenance)
    apply = blocking(Client.apply)
    diff = blocking(Client.diff)
    export = blocking(Client.export)

    @cached_property
    def tasks(self) -> SyncTasks:
        """The operations of `daybook task`; `tasks.sessions` and `tasks.scheduler` have the rest.

        Results are the models of `daybook.tasks.views`.
        """
        from daybook.api.task_client import SyncTasks

        return SyncTasks(self.client._as_actor)

    @cached_property
    def sessions(self) -> SyncSessions:
        """The operations of `daybook session`: conversations, and `send`, which continues one.

        Results are the models of `daybook.api.sessions`; `send` returns the run.
        """
        from daybook.api.session_client import SyncSessions

        return SyncSessions(self.client._as_actor)

    @cached_property
    def hooks(self) -> SyncHooks:
        """The operations of `daybook hooks`: signed requests from outside that start a job.

        Results are the models of `daybook.api.hooks`.
        """
        from daybook.api.hook_client import SyncHooks

        return SyncHooks(self.client._as_actor)
