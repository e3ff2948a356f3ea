"""Markers of fields: facts about a field besides its type, and pairs of texts about fields.

A marker is part of the annotation of its field, so that no other module lists fields by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from pydantic.fields import FieldInfo

Syntax = Literal["", "text", "header", "pairs", "command", "seconds"]
"""Special syntax of an option on the command line; `cli.field_options` defines each syntax."""

Named = Literal["", "agent", "channel", "job", "secret"]

Uses: TypeAlias = list[tuple[str, str]]
"""Pairs of a field's name and a name or URL in this field that an action or a check uses."""

Facts: TypeAlias = list[tuple[str, str]]
"""Pairs of a label and a value; an action's pair with an empty value is not shown."""


@dataclass(frozen=True)
class Marker:
    """Facts about a field besides its type, title and description."""

    option: str = ""
    """Name of the option on the command line, if it differs from the field's name."""
    syntax: Syntax = ""
    names: Named = ""
    """Kind of object that the value names; a shell completes such names."""
    for_agents: str | None = None
    """The value in words, for agents' tools; None if their argument `options` lacks the field."""
    is_checked: bool = False
    """Whether Daybook checks the value with external systems before it stores the value."""
    is_target: bool = False
    """Whether the value is part of a run's target, so that `provenance` records its author."""
    is_continued: bool = False
    """Whether a run that continues a session of the job uses the job's value."""
    is_long: bool = False
    """Whether the value is a text that usually has more than one line."""
    is_internal: bool = False
    """Whether only Daybook sets the value, so that no form and no file has the field."""
    gets_secrets: bool = False
    """Whether the secrets of the same settings document are sent to the value, a URL or a host."""
    port: str = ""
    """Name of the field with the port, if the value is a host that `gets_secrets`."""
    missing: str = ""
    """Hint for the user if the required field is missing."""
    folder: Literal["", "changed", "made"] = ""
    """Whether the value is a folder that Daybook changes, or also makes if it is missing.

    A service at boot may write only to such folders.
    """
    at_start: bool = False
    """Whether a process keeps the value of this setting that it reads when it starts.

    A process reads any other setting each time it uses it, so a change needs no restart.
    """
    placeholder: str = "-"
    """Valid value that replaces an invalid one while the other fields are checked."""


_NONE = Marker()


def of(field: FieldInfo) -> Marker:
    """Return the marker of a field; an empty marker if the field has none."""
    return next((each for each in field.metadata if isinstance(each, Marker)), _NONE)


def marked(fields: Mapping[str, FieldInfo], attribute: str) -> tuple[str, ...]:
    """Return the names of the fields whose marker sets ``attribute``, in the fields' order."""
    absent = getattr(_NONE, attribute)
    return tuple(name for name, each in fields.items() if getattr(of(each), attribute) != absent)
