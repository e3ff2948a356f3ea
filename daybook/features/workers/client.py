"""The operations on workers as the attribute `workers` of a client."""

from __future__ import annotations

from daybook.api.client_methods import Blocking, Operations, operation
from daybook.features.workers import operations


class Workers(Operations):
    """The operations of `daybook workers`.

    Results are the models of `daybook.features.workers.operations`.
    """

    list = operation(operations.list_workers)
    drain = operation(operations.drain)
    resume = operation(operations.resume)


class SyncWorkers(Blocking, Workers):
    """`Workers` without `await`."""
