"""Options of the command line, derived from the fields of models.

The description of a field is the help of its option. The field's marker (`daybook.markers`)
has the name and the syntax of the option, if they differ from those of the field. No option takes
the value of a secret, because every user of the machine can read arguments. A secret is read from
standard input (on a terminal, from a prompt), or from an environment variable that an option names.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from keyword import iskeyword
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Literal,
    NamedTuple,
    TypeVar,
    get_args,
    get_origin,
)

from cyclopts import Group, Parameter
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from daybook import markers, plain_text
from daybook.cli import completion
from daybook.cli.options import (
    header,
    metadata,
    on_interrupt,
    parse_json_object,
    split_command,
    text_or_file,
)
from daybook.errors import InvalidInput
from daybook.schedules import durations


class _Syntax(NamedTuple):
    """Syntax of an option: its help, its type, and the parser of the field's value.

    The parser gets the name of the field, and a value of the type.
    """

    help: str
    type: Any
    parse: Callable[[str, Any], object]


def _headers(name: str, values: list[str]) -> dict[str, str]:
    return {} if values == [""] else dict(map(header, values))


def _pairs(name: str, values: list[str]) -> dict[str, object]:
    parts = [metadata(each, name) for each in values if each]
    return {key: part[key] for part in parts for key in part}


def _seconds(name: str, value: str) -> float:
    return durations.parse(value, name).total_seconds()


_SYNTAXES = {
    "text": _Syntax("Write the text, or @file.", str, text_or_file),
    "header": _Syntax('Write "Name: value".', list[str], _headers),
    "pairs": _Syntax("Write name=value, or a JSON object.", list[str], _pairs),
    "command": _Syntax("Quotes work as in a shell. Pass '' to remove it.", str, split_command),
    "seconds": _Syntax("Write a duration, such as 15s.", str, _seconds),
    "object": _Syntax("Write a JSON object, or @file.", str, parse_json_object),
}
"""The syntaxes that `markers` names, and that of an object, which needs no marker."""

_TYPES: dict[Any, Any] = {
    bool: bool,
    bool | None: bool,
    int: int,
    float: float,
    int | None: int,
    float | None: float,
    list: list[str],
    tuple: list[str],
}
"""The type of the option by the type of its field. For any other field, the option is a text."""

_COMPLETERS = {
    "agent": completion.agents,
    "channel": completion.channels,
    "job": completion.jobs,
    "secret": completion.secrets,
}
_VARIABLE_NAME = re.compile("[A-Z]+(_[A-Z]+)+")

_Options = TypeVar("_Options", bound="type[FieldOptions]")


@dataclass(frozen=True)
class FieldOption:
    """The option of a field.

    ``help`` replaces the whole help: description, syntax, choices and default. ``more`` is added to
    the field's description. ``default`` is the default that the help shows. If ``is_flag`` is true,
    the option has no value, and means true.
    """

    name: str
    field: FieldInfo
    help: str = ""
    more: str = ""
    default: str = ""
    is_flag: bool = False

    @property
    def type(self) -> Any:
        """Return the type of the option: bool, int, float, str or list[str]."""
        annotation = self.field.annotation
        if self.is_flag:
            return bool
        if self.syntax:
            return _SYNTAXES[self.syntax].type
        return _TYPES.get(annotation) or _TYPES.get(get_origin(annotation), str)

    @property
    def syntax(self) -> str:
        """Return the syntax of the option, a key of `_SYNTAXES`; "" if the type determines it."""
        is_object = get_origin(self.field.annotation) is dict
        return markers.of(self.field).syntax or ("object" if is_object else "")

    @property
    def spelling(self) -> str:
        return "--" + (markers.of(self.field).option or self.name).replace("_", "-")

    def parameter(self) -> Parameter:
        """Return the option, with its description, choices and default."""
        marker = markers.of(self.field)
        if self.help:
            return Parameter(name=self.spelling, help=self.help)
        syntax = _SYNTAXES[self.syntax].help if self.syntax else ""
        texts = [self.field.description or "", syntax, self.more]
        if self.syntax == "object":
            texts[1:] = [self.more, syntax]
        if self.type == list[str]:
            texts.append("Repeatable.")
        completer: Callable[..., Any] | None = _COMPLETERS.get(marker.names)
        # `Parameter.choices` would refuse "", which clears the field.
        if choices := _choices(self.field.annotation):
            texts.append(f"[choices: {', '.join(choices)}]")
            completer = completion.of_choices(choices)
        if self.default:
            texts.append(f"[default: {self.default}]")
        has_negative = self.type is bool and not self.is_flag
        return Parameter(
            name=self.spelling,
            help=" ".join(filter(None, texts)),
            negative=f"--no-{self.spelling[2:]}" if has_negative else (),
            completer=completer,
        )

    def parse(self, value: Any) -> object:
        """Return the field's value for an option's ``value``.

        Raise `InvalidInput` if it is invalid.
        """
        return _SYNTAXES[self.syntax].parse(self.name, value) if self.syntax else value


def _choices(annotation: Any) -> tuple[str, ...]:
    """Return the legal values of a field, or of each of its items; () if it has no choices."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return _choices(get_args(annotation)[0]) if get_origin(annotation) is tuple else ()


class FieldOptions:
    """Base of classes whose attributes are options for fields. None means that it is not given."""

    _options: ClassVar[dict[str, FieldOption]]
    """The options by attribute, without the options for secrets."""
    _secrets: ClassVar[dict[str, FieldOption]]
    """The secrets by the name of their option, without `-env` and `-stdin`."""

    if TYPE_CHECKING:

        def __init__(self, **given: Any) -> None: ...
        def __getattr__(self, name: str) -> Any: ...

    def given(self) -> dict[str, Any]:
        """Return the given values by field. Read the files and variables that the options name.

        Raise `InvalidInput` for a value that cannot be parsed, for a file that cannot be read, and
        for a secret with an empty source or with two sources.
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
    """Return a class decorator that adds an option for each field to a class.

    ``groups`` maps the titles of groups to their options. If an option is in several groups, it is
    added only to the first. Options under an empty title have no group. The class may have options
    of its own; `given` does not return them.
    """

    def decorate(cls: _Options) -> _Options:
        cls._options, cls._secrets = {}, {}
        annotations: dict[str, Any] = dict(vars(cls).get("__annotations__", {}))

        def add(attribute: str, kind: Any, parameter: Parameter, default: bool | None) -> None:
            if group is not None:
                parameter = Parameter.combine(parameter, Parameter(group=group))
            annotations[attribute] = Annotated[kind, parameter]
            setattr(cls, attribute, default)

        for position, (title, options) in enumerate(groups.items(), start=1):
            group = Group(title, sort_key=position) if title else None
            for option in options:
                attribute = f"{option.name}_" if iskeyword(option.name) else option.name
                if attribute in annotations:
                    continue
                if option.field.annotation is SecretStr:
                    name = markers.of(option.field).option or option.name
                    cls._secrets[name] = option
                    add(f"{name}_env", str | None, _variable_parameter(option), None)
                    add(f"{name}_stdin", bool, _stdin_parameter(option), False)
                    continue
                cls._options[attribute] = option
                kind = bool if option.is_flag else option.type | None
                add(attribute, kind, option.parameter(), False if option.is_flag else None)
        cls.__annotations__ = annotations
        dataclass(frozen=True, kw_only=True)(cls)
        return cls

    return decorate


def options_of(fields: Mapping[str, FieldInfo], *names: str) -> list[FieldOption]:
    """Return the options for the fields with these names."""
    return [FieldOption(name, fields[name], default=_default(fields[name])) for name in names]


def _default(field: FieldInfo) -> str:
    """Return a field's default as text; "" if the default means that nothing is set."""
    value = None if field.is_required() else field.get_default(call_default_factory=True)
    return default_text(value) if value and not isinstance(value, SecretStr | list) else ""


def default_text(value: object) -> str:
    """Return a default as text."""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _variable_parameter(option: FieldOption) -> Parameter:
    noun = option.field.title or option.name
    help_text = f"Environment variable that holds the {noun}. It is read now and stored."
    return Parameter(name=f"{option.spelling}-env", help=help_text)


def _stdin_parameter(option: FieldOption) -> Parameter:
    help_text = f"Read the {option.field.title or option.name} from standard input and store it."
    return Parameter(name=f"{option.spelling}-stdin", help=help_text)


def _read_secret(name: str, variable: str | None, from_stdin: bool) -> str | None:
    if variable and from_stdin:
        raise InvalidInput(f"{name}_env and {name}_stdin", "cannot be combined")
    if variable:
        secret = os.environ.get(variable, "").strip()
        if not secret:
            # The user may have typed the secret in place of a name, so the error must not contain
            # it.
            shown = variable if _VARIABLE_NAME.fullmatch(variable) else "this variable"
            hint = f"export it first, or pass it on standard input with --{name}-stdin"
            raise InvalidInput(f"{name}_env", f"{shown} is unset or empty", hint)
        return secret
    if from_stdin:
        from getpass import getpass

        label = f"{name.capitalize()}: "
        try:
            with on_interrupt():
                is_typed = sys.stdin.isatty()
                secret = getpass(label) if is_typed else plain_text.read_input(line=True)
                secret = secret.strip()
        except UnicodeDecodeError:  # the error would show a byte of the secret
            raise InvalidInput(f"{name}_stdin", "is not UTF-8 text") from None
        if not secret:
            raise InvalidInput(f"{name}_stdin", "standard input is empty")
        return secret
    return None
