"""The operations on hooks as the attribute `hooks` of a client."""

from __future__ import annotations

from daybook.api.client_methods import Blocking, Operations, operation
from daybook.features.hooks import operations


class Hooks(Operations):
    """The operations of `daybook hooks`: signed requests from outside that start a job.

    Results are the models of `daybook.features.hooks.operations`.
    """

    add = operation(operations.add)
    list = operation(operations.list_hooks)
    get = operation(operations.show)
    rotate = operation(operations.rotate)
    test = operation(operations.test)
    remove = operation(operations.remove)


class SyncHooks(Blocking, Hooks):
    """`Hooks` without `await`."""
