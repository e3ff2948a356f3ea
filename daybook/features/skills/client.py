"""The operations on skills as the attribute `skills` of a client."""

from __future__ import annotations

from daybook.api.client_methods import Blocking, Operations, operation
from daybook.features.skills import operations


class Skills(Operations):
    """The operations of `daybook skills`.

    Results are the models of `daybook.features.skills.operations`.
    """

    add = operation(operations.add)
    list = operation(operations.list_skills)
    get = operation(operations.show)
    remove = operation(operations.remove)


class SyncSkills(Blocking, Skills):
    """`Skills` without `await`."""
