"""`daybook.Client.hooks`: the operations of `daybook hooks`, for programs.

They are only for the operator, and raise `InvalidInput` for an agent.
"""

from __future__ import annotations

from daybook.api import hooks
from daybook.api.operation_methods import Blocking, Operation, Operations


class Hooks(Operations):
    """The operations of `daybook hooks`."""

    add = Operation(hooks.add)
    list = Operation(hooks.list_hooks)
    get = Operation(hooks.show)
    rotate = Operation(hooks.rotate)
    test = Operation(hooks.test)
    remove = Operation(hooks.remove)


class SyncHooks(Blocking, Hooks):
    """`Hooks` without `await`."""
