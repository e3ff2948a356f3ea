"""Fields of a form, derived from the fields of a pydantic model.

In a form, each value is one text: a list has one line for each item, and true is `true`. An item
that is no line of its own (it is empty or blank, has line breaks, or starts with a quotation mark)
is written as a JSON string. `text_of`
makes this text from a model's JSON value, and `Field.read` from a submitted form. `Field.value`
turns the text into a value that the model validates. If no control can show a field (an object, a
secret), the form omits the field.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from daybook import markers
from daybook.web.pages.forms import Form

Control = Literal["line", "text", "number", "switch", "choice", "choices", "list"]

_NUMBERS = (int, float)


@dataclass(frozen=True)
class Field:
    """A field of a form with its control."""

    name: str
    label: str
    help: str
    control: Control
    choices: tuple[str, ...] = ()

    def read(self, form: Form) -> str:
        """Return the submitted text, with ordered choices, and without blank lines in a list."""
        given = form.all(self.name)
        match self.control:
            case "switch":
                return "true" if "true" in given else "false"
            case "choices":
                return "\n".join(each for each in self.choices if each in given)
            case "list":
                return "\n".join(filter(str.strip, "\n".join(given).split("\n")))
        return form.get(self.name)

    def show(self, value: Any) -> str:
        """Return the text of a value. `read` returns the same text, unless a user changes it."""
        text = text_of(value)
        if self.control == "choices":
            return "\n".join(each for each in self.choices if each in text.split("\n"))
        return text

    def value(self, text: str) -> object:
        """Return the value that the model validates: a list of texts, or the text itself."""
        if self.control in ("list", "choices"):
            return [_item(each) for each in text.split("\n") if each]
        return text


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
            kind, choices = control
            label = model[name].title or name.replace("_", " ").capitalize()
            found.append(Field(name, label, model[name].description or "", kind, choices))
    return found


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
