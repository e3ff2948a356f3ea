"""Options of the command line, derived from the fields of models.

The description of a field is the help of its option; its marker (`daybook.jobs.markers`) says how
the option is called and written, if not like the field. A secret has no option with its value,
because every user of the machine can read arguments: it is read from standard input, or from an
environment variable that an option names.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from keyword import iskeyword
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_origin

from cyclopts import Group, Parameter
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from daybook.cli import completion
from daybook.cli.options import header, metadata, parse_json_object, split_command, text_or_file
from daybook.errors import InvalidInput
from daybook.jobs import markers

_SYNTAX = {
    "text": "Write the text, or @file.",
    "header": 'Write "Name: value".',
    "pairs": "Write name=value, or a JSON object.",
    "command": "Quotes work as in a shell. Pass '' to remove the check.",
    "object": "Write a JSON object, or @file.",
}
"""How to write a value, where the type of the field does not show it."""

_COMPLETERS = {
    "agent": completion.agents,
    "channel": completion.channels,
    "job": completion.jobs,
}
_VARIABLE_NAME = re.compile("[A-Z]+(_[A-Z]+)+")

_Options = TypeVar("_Options", bound="type[FieldOptions]")


@dataclass(frozen=True)
class FieldOption:
    """The option of a field.

    ``help`` replaces the field's description, ``more`` follows it, and ``default`` is shown.
    ``is_flag`` marks an option that is only given to be true.
    """

    name: str
    field: FieldInfo
    help: str = ""
    more: str = ""
    default: str = ""
    is_flag: bool = False

    @property
    def type(self) -> Any:
        """The type of the option: bool, int, float, str or list[str]."""
        annotation, syntax = self.field.annotation, markers.of(self.field).syntax
        if self.is_flag or annotation in (bool, int, float):
            return bool if self.is_flag else annotation
        if annotation in (int | None, float | None):
            return get_args(annotation)[0]
        is_list = get_origin(annotation) in (tuple, list) or syntax in ("header", "pairs")
        return list[str] if is_list and syntax != "command" else str

    @property
    def is_object(self) -> bool:
        """Whether the option takes an object as JSON."""
        return get_origin(self.field.annotation) is dict and not markers.of(self.field).syntax

    @property
    def spelling(self) -> str:
        return "--" + (markers.of(self.field).option or self.name).replace("_", "-")

    def parameter(self, group: Group) -> Parameter:
        """Return the option, with its description, choices and default."""
        marker = markers.of(self.field)
        if self.help:
            return Parameter(name=self.spelling, group=group, help=self.help)
        syntax = _SYNTAX.get("object" if self.is_object else marker.syntax, "")
        texts = [self.field.description or "", syntax, self.more]
        if self.is_object:
            texts[1:] = [self.more, syntax]
        if self.type == list[str]:
            texts.append("Repeatable.")
        completer: Callable[..., Any] | None = _COMPLETERS.get(marker.names)
        # `Parameter.choices` would refuse '', which clears.
        if choices := _choices(self.field.annotation):
            texts.append(f"[choices: {', '.join(choices)}]")
            completer = completion.of_choices(choices)
        if self.default:
            texts.append(f"[default: {self.default}]")
        has_negative = self.type is bool and not self.is_flag
        return Parameter(
            name=self.spelling,
            group=group,
            help=" ".join(filter(None, texts)),
            negative=f"--no-{self.spelling[2:]}" if has_negative else (),
            completer=completer,
        )

    def parse(self, value: Any) -> object:
        """Return the value of the field. Raise `InvalidInput` for one that cannot be parsed."""
        match markers.of(self.field).syntax:
            case "header":
                return dict(header(each) for each in value)
            case "pairs":
                parts = [metadata(each) for each in value if each]
                return {key: part[key] for part in parts for key in part}
            case "text":
                return text_or_file(self.name, value)
            case "command":
                return split_command(self.name, value)
        return parse_json_object(self.name, value) if self.is_object else value


def _choices(annotation: Any) -> tuple[str, ...]:
    """Return the legal values of a field, or of each of its items; empty if it has no choices."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return _choices(get_args(annotation)[0]) if get_origin(annotation) is tuple else ()


class FieldOptions:
    """Base of classes whose attributes are options for fields; None means not given."""

    _options: ClassVar[dict[str, FieldOption]]
    """The options by attribute, without those of secrets."""
    _secrets: ClassVar[dict[str, FieldOption]]
    """The secrets by their option without `-env` and `-stdin`."""

    if TYPE_CHECKING:

        def __init__(self, **given: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...

    def given(self) -> dict[str, Any]:
        """Return the given values by field; read the files, secrets and variables that they name.

        Raise `InvalidInput` for a value that cannot be parsed, a file that cannot be read, and a
        secret whose source is empty, or that has two sources.
        """
        found = {
            option.name: option.parse(value)
            for attribute, option in self._options.items()
            if (value := getattr(self, attribute)) is not None and (value or not option.is_flag)
        }
        for name, option in self._secrets.items():
            variable, from_stdin = getattr(self, f"{name}_env"), getattr(self, f"{name}_stdin")
            if (secret := _read_secret(name, variable, from_stdin)) is not None:
                found[option.name] = secret
        return found


def with_options(
    groups: Mapping[str, Iterable[FieldOption]],
) -> Callable[[_Options], _Options]:
    """Return a class decorator that adds an option for each field, in its first group only.

    The class may have options of its own, which are not among the `given` ones.
    """

    def decorate(cls: _Options) -> _Options:
        cls._options, cls._secrets = {}, {}
        annotations: dict[str, Any] = dict(vars(cls).get("__annotations__", {}))

        def add(attribute: str, kind: Any, parameter: Parameter, default: bool | None) -> None:
            annotations[attribute] = Annotated[kind, parameter]
            setattr(cls, attribute, default)

        for position, (title, options) in enumerate(groups.items(), start=1):
            group = Group(title, sort_key=position)
            for option in options:
                attribute = f"{option.name}_" if iskeyword(option.name) else option.name
                if attribute in annotations:
                    continue
                if option.field.annotation is SecretStr:
                    name = markers.of(option.field).option or option.name
                    cls._secrets[name] = option
                    add(f"{name}_env", str | None, _variable_parameter(option, group), None)
                    add(f"{name}_stdin", bool, _stdin_parameter(option, group), False)
                    continue
                cls._options[attribute] = option
                kind = bool if option.is_flag else option.type | None
                add(attribute, kind, option.parameter(group), False if option.is_flag else None)
        cls.__annotations__ = annotations
        dataclass(frozen=True, kw_only=True)(cls)
        return cls

    return decorate


def options_of(fields: Mapping[str, FieldInfo], *names: str) -> list[FieldOption]:
    """Return the options for the fields with these names."""
    return [FieldOption(name, fields[name], default=_default(fields[name])) for name in names]


def _default(field: FieldInfo) -> str:
    """Return a field's default as text; empty for one that means that nothing is set."""
    value = None if field.is_required() else field.get_default(call_default_factory=True)
    return default_text(value) if value and not isinstance(value, SecretStr | list) else ""


def default_text(value: object) -> str:
    """Return a default as text."""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _variable_parameter(option: FieldOption, group: Group) -> Parameter:
    noun = option.field.title or option.name
    help_text = f"Environment variable that holds the {noun}. It is read now and stored."
    return Parameter(name=f"{option.spelling}-env", group=group, help=help_text)


def _stdin_parameter(option: FieldOption, group: Group) -> Parameter:
    help_text = f"Read the {option.field.title or option.name} from standard input and store it."
    return Parameter(name=f"{option.spelling}-stdin", group=group, help=help_text)


def _read_secret(name: str, variable: str | None, from_stdin: bool) -> str | None:
    if variable and from_stdin:
        raise InvalidInput(f"{name}_env and {name}_stdin", "cannot be combined")
    if variable:
        secret = os.environ.get(variable, "").strip()
        if not secret:
            # The user may have typed the secret instead of a name; the error must not repeat that.
            shown = variable if _VARIABLE_NAME.fullmatch(variable) else "this variable"
            hint = f"export it first, or pass it on standard input with --{name}-stdin"
            raise InvalidInput(f"{name}_env", f"{shown} is unset or empty", hint)
        return secret
    if from_stdin:
        from getpass import getpass

        label = f"{name.capitalize()}: "
        secret = (getpass(label) if sys.stdin.isatty() else sys.stdin.readline()).strip()
        if not secret:
            raise InvalidInput(f"{name}_stdin", "standard input is empty")
        return secret
    return None
