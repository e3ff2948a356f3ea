"""The operations on templates as the attribute `job_templates` of a client."""

from __future__ import annotations

from daybook.api.client_methods import Blocking, Operations, operation
from daybook.features.job_templates import operations


class Templates(Operations):
    """The operations of `daybook new`.

    Results are the models of `daybook.features.job_templates.operations`.
    """

    list = operation(operations.list_templates)
    prepare = operation(operations.prepare)
    add = operation(operations.add)


class SyncTemplates(Blocking, Templates):
    """`Templates` without `await`."""
