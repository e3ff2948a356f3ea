"""The arguments of a tool: their schema, and the parsing of values as models write them.

Every argument is a string or an integer, because some clients drop nested schemas, and some models
write nested values wrongly. If a string has to be JSON, its description requires JSON. An empty
string or null means that the argument was not given.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from daybook import json_text
from daybook.errors import InvalidInput
from daybook.json_text import JsonObject
from daybook.short_text import clip
from daybook.validation import unknown_field

Arguments = dict[str, Any]
"""The parsed arguments by name: the given arguments, and the defaults of the numbers not given."""


@dataclass(frozen=True)
class Argument:
    """One argument of a tool.

    ``default`` is None if the argument is required; if it is an integer, the argument is a number.
    If ``legal`` is not empty, it has the only allowed values. ``write`` is the hint for a missing
    value or invalid JSON. ``is_json`` marks a string with a JSON object; callers may also pass the
    object itself. ``many`` marks comma-separated words; callers may also pass a list, or a list as
    JSON. ``least`` and ``most`` are the bounds of a number. ``longest`` is the maximum number of
    characters of a one-line string; 0 allows any string.
    """

    name: str
    description: str
    default: str | int | None = ""
    legal: tuple[str, ...] = ()
    write: str = ""
    is_json: bool = False
    many: bool = False
    least: int = 1
    most: int = 100
    longest: int = 0

    @property
    def schema(self) -> JsonObject:
        """Return the JSON schema of the argument: a plain type, without nesting or alternatives."""
        number = isinstance(self.default, int)
        schema: JsonObject = {"type": "integer" if number else "string"}
        schema["description"] = self.description
        if self.legal:
            schema["enum"] = list(self.legal)
        if number:
            schema |= {"minimum": self.least, "maximum": self.most}
        return schema if self.default is None else schema | {"default": self.default}

    def read(self, value: object) -> Any:
        """Return the parsed ``value``.

        If it is missing, return the default of a number, otherwise None. Raise `InvalidInput` if
        the value is invalid, or missing but required.
        """
        if value is None or value == "":
            return self._missing()
        if isinstance(self.default, int):
            return self._number(value)
        if self.is_json:
            return self._object(value)
        if self.many:
            value = _with_commas(value)
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)  # the value is, for example, the id of a chat
        if not isinstance(value, str):
            raise InvalidInput(
                self.name, f"{clip(repr(value), 60)} is not a string", "pass a string"
            )
        if not value.strip():
            return self._missing()
        if self.legal and value not in self.legal:
            raise InvalidInput(
                self.name,
                f'"{value}" is not an allowed value',
                f"use one of: {', '.join(self.legal)}",
            )
        if self.longest and (len(value) > self.longest or not value.isprintable()):
            hint = f"use one line of at most {self.longest} characters"
            raise InvalidInput(self.name, "is too long, or not one line", hint)
        return value

    def _missing(self) -> int | None:
        if self.default is None:
            raise InvalidInput(self.name, "is missing", self.write)
        return self.default if isinstance(self.default, int) else None

    def _number(self, value: object) -> int:
        if isinstance(value, str) and value.strip().isdecimal() and len(value) < 10:
            value = int(value)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        hint = f"use {self.least} to {self.most}"
        if not isinstance(value, int) or isinstance(value, bool):
            raise InvalidInput(self.name, f"{clip(repr(value), 60)} is not a whole number", hint)
        if not self.least <= value <= self.most:
            raise InvalidInput(self.name, f"{value} is out of range", hint)
        return value

    def _object(self, value: object) -> JsonObject:
        if isinstance(value, str):
            try:
                value = json_text.read(value)
            except ValueError:
                raise InvalidInput(self.name, "is not JSON", self.write) from None
        if not isinstance(value, dict):
            raise InvalidInput(self.name, "is not a JSON object", self.write)
        return value


def schema(arguments: tuple[Argument, ...]) -> JsonObject:
    """Return the JSON schema of an object with these arguments."""
    result: JsonObject = {
        "type": "object",
        "properties": {each.name: each.schema for each in arguments},
    }
    if required := [each.name for each in arguments if each.default is None]:
        result["required"] = required
    return result | {"additionalProperties": False}


def read(arguments: tuple[Argument, ...], given: Mapping[str, object]) -> Arguments:
    """Return the given arguments by name, and the defaults of the numbers not given.

    Raise `InvalidInput` for an argument that is unknown, invalid, or missing but required.
    """
    names = [each.name for each in arguments]
    for name in given:
        if name not in names:
            raise unknown_field(str(name), names)
    values = {each.name: each.read(given.get(each.name)) for each in arguments}
    return {name: value for name, value in values.items() if value is not None}


def _with_commas(value: object) -> object:
    """Return a list of strings, or its JSON text, as words joined by commas.

    Return any other value unchanged.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        with suppress(ValueError):
            value = json_text.read(value)
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        return ",".join(value)
    return value
