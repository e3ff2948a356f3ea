"""Markers of fields: facts about a field besides its type, for front ends and checks.

A marker is part of the annotation of its field, so that no other module lists fields by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic.fields import FieldInfo

Syntax = Literal["", "text", "header", "pairs", "command", "seconds"]
"""How an option is written, if not as its type: `cli.field_options` defines each."""

Named = Literal["", "agent", "channel", "job", "secret"]


@dataclass(frozen=True)
class Marker:
    """What is known of a field besides its type, title and description."""

    option: str = ""
    """Name of the option on the command line, if it is not the field's."""
    syntax: Syntax = ""
    names: Named = ""
    """What the value names; a shell completes such names."""
    for_agents: str | None = None
    """The value in words, for the tools of agents; None if they may not set the field there."""
    is_checked: bool = False
    """Whether the value is checked with external systems before it is stored."""
    is_target: bool = False
    """Whether the value is a part of the target that a run reaches, so that its author counts."""
    is_continued: bool = False
    """Whether a run that continues a job's session has the value too."""
    is_long: bool = False
    """Whether the value is a text that usually has more than one line."""
    missing: str = ""
    """What to write if the field is required and missing."""
    placeholder: str = "-"
    """A valid value, with which the other fields are checked if this one is invalid."""


_NONE = Marker()


def of(field: FieldInfo) -> Marker:
    """Return the marker of a field; one without values if the field has none."""
    return next((each for each in field.metadata if isinstance(each, Marker)), _NONE)


def marked(fields: Mapping[str, FieldInfo], attribute: str) -> tuple[str, ...]:
    """Return the fields whose marker has a value for ``attribute``, in their order."""
    absent = getattr(_NONE, attribute)
    return tuple(name for name, each in fields.items() if getattr(of(each), attribute) != absent)
