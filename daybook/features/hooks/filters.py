"""Filters of a hook: ``field == value``, where the field is a path in the payload.

The value is JSON. A value that is not JSON is a string, so `action == opened` needs no quotes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

from daybook import json_text
from daybook.errors import InvalidInput
from daybook.jobs import payloads

MAX_FILTER_LENGTH = 500
_FORM = "write it as: repository.full_name == acme/shop"


@dataclass(frozen=True)
class Filter:
    """One condition: the payload's value at ``field`` equals ``value``.

    A missing value equals null.
    """

    field: str
    value: Any

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the filter that ``text`` describes.

        Raise `InvalidInput` if ``text`` is not a filter.
        """
        field, operator, written = (each.strip() for each in text.partition("=="))
        keys = field.split(".")
        if not operator or not written or len(text) > MAX_FILTER_LENGTH:
            raise InvalidInput("filters", f'"{text}" is not a filter', _FORM)
        if not all(each.isdigit() or each.replace("-", "_").isidentifier() for each in keys):
            raise InvalidInput("filters", f'"{field}" is not a path', _FORM)
        try:
            value = json_text.read(written)
        except ValueError:
            value = written
        return cls(field, value)

    def accepts(self, payload: Any) -> bool:
        """Return whether the payload meets the condition.

        Unlike in Python, `true` does not equal 1.
        """
        found = payloads.value_at(payload, f"{payloads.PAYLOAD}.{self.field}")
        return _canonical(found) == _canonical(self.value)


def first_mismatch(filters: Iterable[str], payload: Any) -> str:
    """Return the first of ``filters`` that the payload does not meet, or "".

    Raise `InvalidInput` for a text that is not a filter.
    """
    return next((each for each in filters if not Filter.parse(each).accepts(payload)), "")


def _canonical(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # 12.0 is 12 in JSON, and -0.0 is 0
    return json.dumps(value, sort_keys=True)
