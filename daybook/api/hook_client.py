"""`daybook.Client.hooks`: the operations of `daybook hooks`, for programs.

They are only for the operator, and raise `InvalidInput` for an agent.
"""

from __future__ import annotations

from daybook.api import hooks
from daybook.api.blocking import blocking
from daybook.api.task_client import Operations, operation_method


class Hooks(Operations):
    """The operations of `daybook hooks`."""

    add = operation_method(hooks.add)
    list = operation_method(hooks.list_hooks)
    get = operation_method(hooks.show)
    rotate = operation_method(hooks.rotate)
    test = operation_method(hooks.test)
    remove = operation_method(hooks.remove)


class SyncHooks:
    """`Hooks` without `await`."""

    def __init__(self, client: Hooks) -> None:
        self.client = client

    add = blocking(Hooks.add)
    list = blocking(Hooks.list)
    get = blocking(Hooks.get)
    rotate = blocking(Hooks.rotate)
    test = blocking(Hooks.test)
    remove = blocking(Hooks.remove)
