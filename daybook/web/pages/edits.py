"""Forms that edit something. They store only the user's changes, and keep all changes of others.

A form contains a digest of each text that it showed. With these digests, the server can determine
which fields the user has changed, and which fields another user has changed in the meantime.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from daybook.errors import InvalidInput
from daybook.jobs.views import FieldChange
from daybook.web.pages.fields import Field
from daybook.web.pages.forms import Form

SHOWN = "shown"
"""Name of the hidden field with the digests."""


def digest(text: str) -> str:
    """Return a short digest of the text of a field. Another text has another digest."""
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:12]


def digests(texts: Mapping[str, str]) -> str:
    """Return the value of the hidden field of a form that shows ``texts``."""
    return json.dumps({name: digest(text) for name, text in texts.items()})


def incomplete() -> InvalidInput:
    """Return the error for a form without its hidden fields."""
    return InvalidInput("form", "is incomplete", "open the page again")


class SubmittedEdit:
    """A submitted form: the typed texts, and the digests of the texts that the form had shown.

    ``current`` are the current texts of the ``fields``. The constructor raises `InvalidInput` for a
    form without digests.
    """

    def __init__(self, fields: Sequence[Field], current: Mapping[str, str], form: Form) -> None:
        self.fields, self.current = fields, current
        self._shown = _digests(form.get(SHOWN))
        self._typed = {each.name: each.read(form) for each in fields if form.has(each.name)}

    def is_touched(self, name: str) -> bool:
        """Return whether the user changed the field."""
        return name in self._typed and digest(self._typed[name]) != self._shown.get(name)

    def texts(self) -> dict[str, str]:
        """Return the typed texts of fields that the user changed, and current texts of others."""
        return {
            name: self._typed[name] if self.is_touched(name) else text
            for name, text in self.current.items()
        }

    def changes(self) -> dict[str, object]:
        """Return the fields that the user changed and whose current text differs."""
        texts = self.texts()
        return {
            each.name: each.value(texts[each.name])
            for each in self.fields
            if texts[each.name] != self.current[each.name]
        }

    def changed_meanwhile(self) -> list[tuple[FieldChange, bool]]:
        """Return the fields that another user changed, and whether this user changed them too."""
        return [
            (FieldChange(field=name, old=self._typed.get(name), new=text), self.is_touched(name))
            for name, text in self.current.items()
            if self._shown.get(name) != digest(text)
        ]


def _digests(text: str) -> dict[str, str]:
    try:
        found = json.loads(text)
    except ValueError:
        raise incomplete() from None
    if not isinstance(found, dict):
        raise incomplete()
    return found
