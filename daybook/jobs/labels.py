"""Tags and metadata of a job: their validation and limits."""

from __future__ import annotations

from collections.abc import Mapping

from daybook.errors import InvalidInput
from daybook.jobs import action_fields
from daybook.json_text import JsonObject
from daybook.validation import raising_pydantic_error

RESERVED_TAG_PREFIX = "daybook:"
"""Prefix of Daybook's own tags (promise 15: a deployment carries the id of its ledger as a tag)."""

MAX_METADATA_LENGTH = 10_000
"""Maximum length, in characters of JSON, of the metadata that a program stores with a job."""


def check_tags(tags: tuple[str, ...]) -> tuple[str, ...]:
    """Return the tags without duplicates. Raise a pydantic error for an invalid tag."""
    if tags == ("",):  # `--tag ''` clears the field
        return ()
    with raising_pydantic_error():
        for tag in tags:
            if not tag.strip():
                raise InvalidInput("tags", "a tag is blank")
            if tag.strip().startswith(RESERVED_TAG_PREFIX):
                raise InvalidInput(
                    "tags",
                    f'"{tag}" is reserved for Daybook',
                    f"do not start a tag with {RESERVED_TAG_PREFIX}",
                )
    return tuple(dict.fromkeys(tag.strip() for tag in tags))


def check_metadata(metadata: object) -> JsonObject:
    """Return the metadata. Raise a pydantic error unless it is a JSON object that can be stored."""
    with raising_pydantic_error():
        if not isinstance(metadata, Mapping):
            hint = 'use an object such as {"team": "blue"}'
            raise InvalidInput("metadata", f"{metadata!r} is not an object", hint)
        values = dict(metadata)
        if not values:
            return values
        action_fields.check_json(values, "metadata", MAX_METADATA_LENGTH)
        if not all(name.strip() for name in values):
            raise InvalidInput("metadata", "has a blank key")
    return values
