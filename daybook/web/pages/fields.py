"""Fields of a form, derived from the fields of a pydantic model.

In a form, each value is one text: a list has one line for each item, and true is `true`. An item
that is no line of its own (it is empty or blank, has line breaks, or starts with a quotation mark)
is written as a JSON string. `text_of` makes this text from a model's JSON value, and `Field.read`
from a submitted form. `Field.value` turns the text into a value that the model validates. If no
control can show a field, the form omits it: `secrets_of` has the secrets, whose values no form
shows, and `pairs_of` the objects of texts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from daybook import markers
from daybook.errors import InvalidInput
from daybook.web.pages.forms import Form

Control = Literal[
    "line", "text", "number", "switch", "choice", "choices", "list", "pairs", "secret"
]

_NUMBERS = (int, float)


@dataclass(frozen=True)
class Field:
    """A field of a form with its control.

    ``names`` is the kind of objects whose names the form offers. A secret that ``can_be_empty`` can
    be deleted.
    """

    name: str
    label: str
    help: str
    control: Control
    choices: tuple[str, ...] = ()
    names: str = ""
    can_be_empty: bool = False

    def read(self, form: Form) -> str:
        """Return the submitted text, with ordered choices, and without blank lines in a list."""
        given = form.all(self.name)
        match self.control:
            case "switch":
                return "true" if "true" in given else "false"
            case "choices":
                return "\n".join(each for each in self.choices if each in given)
            case "list" | "pairs":
                return "\n".join(filter(str.strip, "\n".join(given).split("\n")))
        return form.get(self.name)

    def show(self, value: Any) -> str:
        """Return the text of a value. `read` returns the same text, unless a user changes it."""
        if self.control == "pairs":
            pairs = value.items() if isinstance(value, Mapping) else ()
            return "\n".join(f"{name}: {text_of(each)}" for name, each in pairs)
        text = text_of(value)
        if self.control == "choices":
            return "\n".join(each for each in self.choices if each in text.split("\n"))
        return text

    def value(self, text: str) -> object:
        """Return the value that the model validates: a list of texts, an object, or the text.

        Raise `InvalidInput` for a line that is no pair.
        """
        if self.control == "pairs":
            return dict(self._pair(each) for each in text.split("\n") if each)
        if self.control in ("list", "choices"):
            return [_item(each) for each in text.split("\n") if each]
        return text

    def _pair(self, line: str) -> tuple[str, str]:
        name, colon, value = line.partition(":")
        if not colon:
            raise InvalidInput(self.name, "has a line without a colon", "write Name: value")
        return name.strip(), value.strip()


def text_of(value: Any) -> str:
    """Return a JSON value as text, with a list as lines, and each line break as a line feed.

    Return "" for None.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "\n".join(map(_line, value))
    return str(value).replace("\r\n", "\n").replace("\r", "\n")


def _line(item: Any) -> str:
    text = text_of(item)
    if not text.strip() or "\n" in text or text.startswith('"'):
        return json.dumps(item, ensure_ascii=False)
    return text


def _item(line: str) -> str:
    if not line.startswith('"'):
        return line
    try:
        found = json.loads(line)
        str(found).encode()  # raises for half a surrogate pair
    except ValueError:
        return line
    return found if isinstance(found, str) else line


def fields_of(model: Mapping[str, FieldInfo], names: Iterable[str] | None = None) -> list[Field]:
    """Return the fields of a model that a form can show. ``names`` limits and orders them."""
    found = list[Field]()
    for name in model if names is None else names:
        is_long = markers.of(model[name]).is_long
        if (control := _control(model[name].annotation, is_long=is_long)) is not None:
            found.append(_field(name, model[name], *control))
    return found


def pairs_of(model: Mapping[str, FieldInfo]) -> list[Field]:
    """Return the fields of a model that are objects of texts: a line has the form `Name: value`."""
    return [
        _field(name, each, "pairs")
        for name, each in model.items()
        if each.annotation == dict[str, str]
    ]


def secrets_of(model: Mapping[str, FieldInfo]) -> list[Field]:
    """Return the secret fields of a model."""
    return [
        _field(name, each, "secret") for name, each in model.items() if each.annotation is SecretStr
    ]


def _field(name: str, field: FieldInfo, control: Control, choices: tuple[str, ...] = ()) -> Field:
    label = field.title or name.replace("_", " ").capitalize()
    marker = markers.of(field)
    can_be_empty = control == "secret" and not field.is_required()
    return Field(name, label, field.description or "", control, choices, marker.names, can_be_empty)


def _control(annotation: Any, *, is_long: bool = False) -> tuple[Control, tuple[str, ...]] | None:
    if get_origin(annotation) in (Union, UnionType):
        (annotation, *others) = (each for each in get_args(annotation) if each is not NoneType)
        if others:
            return None
    if get_origin(annotation) is Literal:
        return "choice", get_args(annotation)
    if get_origin(annotation) in (list, tuple):
        inner = _control(get_args(annotation)[0])
        return None if inner is None else ("choices" if inner[1] else "list", inner[1])
    if annotation is bool:
        return "switch", ()
    if annotation in _NUMBERS:
        return "number", ()
    if annotation is str or annotation is timedelta:
        return "text" if is_long else "line", ()
    if get_origin(annotation) is not None and get_args(annotation):
        # The items of a list may be `Annotated`.
        is_annotated = hasattr(annotation, "__metadata__")
        return _control(get_args(annotation)[0], is_long=is_long) if is_annotated else None
    return None
