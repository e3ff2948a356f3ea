"""The operations on notebooks as the attribute `memory` of a client."""

from __future__ import annotations

from daybook.api.client_methods import Blocking, Operations, operation
from daybook.features.memory import operations


class Memory(Operations):
    """The operations of `daybook memory`: notebooks in which the runs of jobs keep notes.

    Results are the models of `daybook.features.memory.operations`.
    """

    list = operation(operations.list_notebooks)
    get = operation(operations.show)
    write = operation(operations.write)
    history = operation(operations.history)
    create = operation(operations.create)
    remove = operation(operations.remove)


class SyncMemory(Blocking, Memory):
    """`Memory` without `await`."""
