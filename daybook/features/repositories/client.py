"""The operations on changes as the attribute `repositories` of a client."""

from __future__ import annotations

from daybook.api.client_methods import Blocking, Operations, operation
from daybook.features.repositories import operations


class Repositories(Operations):
    """The operations of `daybook review`: changes that runs have made to repositories.

    Results are the models of `daybook.features.repositories.operations`.
    """

    list = operation(operations.list_changes)
    get = operation(operations.show)
    land = operation(operations.land)
    ask = operation(operations.ask)
    discard = operation(operations.discard)
    worktrees = operation(operations.list_worktrees)


class SyncRepositories(Blocking, Repositories):
    """`Repositories` without `await`."""
