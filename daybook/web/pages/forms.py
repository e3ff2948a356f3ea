"""Submitted forms: their fields, their mistakes, and the messages that follow an action."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from starlette.requests import Request

from daybook.errors import DaybookError, InvalidInput

MESSAGES = {
    "requested": "The run was requested.",
    "paused": "The job is paused.",
    "resumed": "The job is enabled.",
    "skipped": "The next due time is skipped.",
    "unskipped": "No coming due time is skipped any more.",
    "snoozed": "The job is snoozed.",
    "unsnoozed": "The snooze has ended.",
    "selected-paused": "These jobs are paused:",
    "selected-resumed": "These jobs are enabled:",
    "selected-tagged": "These jobs have the tag:",
    "selected-untagged": "These jobs have the tag no more:",
    "muted": "Today leaves out the answers of this job.",
    "unmuted": "Today shows the answers of this job again.",
    "seen": "The answers are marked as read.",
    "removed": "The job was removed. Its history is kept.",
    "resolved": "The conflict is resolved.",
    "applied": "The file was applied:",
    "checked": "All checks were made.",
    "added": "The job was added.",
    "document-added": "It was added. Jobs can use it from now on.",
    "document-edited": "It was changed. Runs use it from now on.",
    "document-removed": "It was removed.",
    "document-tested": "The test succeeded:",
    "secret-rotated": "It has a new secret.",
    "edited": "The job was changed.",
    "unchanged": "Nothing was changed.",
    "synced": "The jobs and their deployments in Prefect agree.",
    "cancelled": "The run is cancelled.",
    "cancelling": "The run has not ended yet. Reload the page to see whether its worker ended it.",
    "retried": "It is sent again now.",
    "read": "Marked as read.",
}
"""Messages that a page shows after an action, by the value of `done` in its address.

The address contains no text to show, because any page can link to any address.
"""


class Form:
    """The fields of a submitted form. A field may occur more than once."""

    withheld: frozenset[str] = frozenset()
    """Names of the fields that `without` has removed and that were not empty."""

    def __init__(self, fields: dict[str, list[str]]) -> None:
        # Browsers send each line break of a text as CR LF.
        self._fields = {
            name: [each.replace("\r\n", "\n") for each in values] for name, values in fields.items()
        }

    def without(self, names: Collection[str]) -> Form:
        """Return the form without these fields, which must not be shown again: secrets."""
        form = Form({each: self._fields[each] for each in self._fields if each not in names})
        form.withheld = frozenset(each for each in names if self.get(each))
        return form

    def digest(self) -> str:
        """Return a digest of all fields."""
        return hashlib.sha256(json.dumps(self._fields).encode()).hexdigest()

    @property
    def names(self) -> list[str]:
        return list(self._fields)

    def get(self, name: str, default: str = "") -> str:
        """Return the first value of a field.

        If the form does not have the field, return ``default``.
        """
        return (self._fields.get(name) or [default])[0]

    def has(self, name: str) -> bool:
        """Return whether the form has the field, even if it is empty."""
        return name in self._fields

    def all(self, name: str) -> list[str]:
        """Return all values of a field."""
        return self._fields.get(name, [])


@dataclass(frozen=True)
class FormError:
    """The reason why an action changed nothing. ``field`` is empty if no field caused it."""

    text: str
    field: str = ""

    @classmethod
    def of(
        cls,
        error: DaybookError,
        fields: Collection[str],
        aliases: Mapping[str, str] = MappingProxyType({}),
    ) -> FormError:
        """Return the mistake that caused ``error``, at the first field that it concerns.

        ``aliases`` maps names in errors to fields.
        """
        named = error.field.split(" and ") if isinstance(error, InvalidInput) else []
        found = (aliases.get(each, each) for each in named)
        return cls(str(error), next((each for each in found if each in fields), ""))


def typed(request: Request) -> Form:
    """Return the submitted form that this page shows again.

    If there is none, return an empty form.
    """
    found: Form = getattr(request.state, "typed", Form({}))
    return found
