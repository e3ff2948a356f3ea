"""Command-line options for the fields of a job, derived from `daybook.jobs.model`.

The description of a field is the help of its option; its marker (`daybook.jobs.markers`) says how
the option is called and written, if not like the field. Each syntax is defined here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from keyword import iskeyword
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args, get_origin

from cyclopts import Group, Parameter

from daybook.cli import completion
from daybook.cli.options import header, metadata, parse_json_object, split_command, text_or_file
from daybook.jobs import markers
from daybook.jobs import policy as policies
from daybook.jobs.actions import ACTIONS, AgentPrompt, Heartbeat
from daybook.jobs.checks import Check
from daybook.jobs.model import FIELDS, Job, ScheduleFields, default_fields
from daybook.jobs.notify import Notify
from daybook.schedules import bounds

_SYNTAX = {
    "text": "Write the text, or @file.",
    "header": 'Write "Name: value".',
    "pairs": "Write name=value, or a JSON object.",
    "command": "Quotes work as in a shell. Pass '' to remove the check.",
    "object": "Write a JSON object, or @file.",
}
"""How to write a value, where the type of the field does not show it."""

REPLACES_PROMPT = {
    name
    for action in ACTIONS.values()
    for name, field in action.model_fields.items()
    if field.is_required() and name != "prompt"
}
"""The required fields of the other kinds of job; each is given instead of a prompt."""

_CHECKS = {f"check_{name}": field for name, field in Check.model_fields.items()}
"""Fields of the object `check`; each has its own option."""

_FIELDS = FIELDS | _CHECKS

_COMPLETERS = {
    "agent": completion.agents,
    "channel": completion.channels,
    "job": completion.jobs,
}

_Options = TypeVar("_Options", bound="type[FieldOptions]")


def parameter(name: str, group: Group | None = None) -> Parameter:
    """Return the option for the field ``name``, with its description, choices and default."""
    field, marker = _FIELDS[name], markers.of(_FIELDS[name])
    spelling = "--" + (marker.option or name).replace("_", "-")
    if name == "enabled":
        text = "Add the job disabled; it can still be run by hand."
        return Parameter(name="--disabled", group=group, help=text)
    texts = [field.description or "", "" if _is_object(name) else _SYNTAX.get(marker.syntax, "")]
    if name in REPLACES_PROMPT:
        texts.append("Replaces the prompt.")
    if _is_object(name):
        texts.append(_SYNTAX["object"])
    if _type(name) == list[str]:
        texts.append("Repeatable.")
    completer: Callable[..., Any] | None = _COMPLETERS.get(marker.names)
    if choices := _choices(field.annotation):  # `Parameter.choices` would refuse '', which clears
        texts.append(f"[choices: {', '.join(choices)}]")
        completer = completion.of_choices(choices)
    if default := _default(name):
        texts.append(f"[default: {default}]")
    text = " ".join(filter(None, texts))
    negative = f"--no-{spelling[2:]}" if _type(name) is bool and name != "on_demand" else ()
    return Parameter(
        name=spelling,
        group=group,
        help=text,
        negative=negative,
        completer=completer,
    )


def _type(name: str) -> Any:
    """Return the type of a field's option: bool, int, str or list[str]."""
    annotation, syntax = _FIELDS[name].annotation, markers.of(_FIELDS[name]).syntax
    if annotation in (bool, int):
        return annotation
    is_list = get_origin(annotation) is tuple or syntax in ("header", "pairs")
    return list[str] if is_list and syntax != "command" else str


def _is_object(name: str) -> bool:
    """Return whether a field is an object that its option takes as JSON."""
    return get_origin(_FIELDS[name].annotation) is dict and not markers.of(_FIELDS[name]).syntax


def _choices(annotation: Any) -> tuple[str, ...]:
    """Return the legal values of a field, or of each of its items; empty if it has no choices."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return _choices(get_args(annotation)[0]) if get_origin(annotation) is tuple else ()


def _default(name: str) -> str:
    """Return a field's default, such as `30m; webhook: 30s` if it depends on the kind of job.

    Return an empty text if there is no default to show.
    """
    by_kind = {
        kind: default_fields(kind).get(name)
        for kind, action in ACTIONS.items()
        if not action.has_own_command
    }
    given = {kind: value for kind, value in by_kind.items() if value not in (None, "", [], {})}
    if not given or (False in given.values() and not any(given.values())):
        return ""
    first = next(iter(given.values()))
    others = [f"{kind}: {_text(value)}" for kind, value in given.items() if value != first]
    return "; ".join([_text(first), *others])


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


class FieldOptions:
    """Base of classes whose attributes are options for fields of a job; None means not given."""

    if TYPE_CHECKING:

        def __init__(self, **given: Any) -> None: ...

    def fields(self) -> dict[str, object]:
        """Return a mapping of field names to the given values; read the files that they name.

        The options of a check are together in `check`. Raises `InvalidInput` for a value that
        cannot be parsed, or a file that cannot be read.
        """
        given: dict[str, object] = {}
        check: dict[str, object] = {}
        for attribute, value in vars(self).items():
            name = attribute.removesuffix("_")
            if value is None or (value is False and name in ("enabled", "on_demand")):
                continue
            if name in _CHECKS:
                check[name.removeprefix("check_")] = _value(name, value)
            else:
                given[name] = _value(name, value)
        return {**given, "check": check} if check else given


def _value(name: str, value: Any) -> object:
    match markers.of(_FIELDS[name]).syntax:
        case "header":
            return dict(header(each) for each in value)
        case "pairs":
            parts = [metadata(each) for each in value if each]
            return {key: part[key] for part in parts for key in part}
        case "text":
            return text_or_file(name, value)
        case "command":
            return split_command(name, value)
    if name == "enabled":
        return False
    return parse_json_object(name, value) if _is_object(name) else value


def _with_options(groups: Mapping[str, tuple[str, ...]]) -> Callable[[_Options], _Options]:
    """Return a class decorator that adds an option for each field, in its first group only."""

    def decorate(cls: _Options) -> _Options:
        annotations: dict[str, Any] = {}
        for position, (title, names) in enumerate(groups.items(), start=1):
            group = Group(title, sort_key=position)
            for name in names:
                attribute = f"{name}_" if iskeyword(name) else name
                if attribute in annotations:
                    continue
                is_flag = name in ("enabled", "on_demand")
                kind = bool if is_flag else _type(name) | None
                annotations[attribute] = Annotated[kind, parameter(name, group)]
                setattr(cls, attribute, False if is_flag else None)
        cls.__annotations__ = annotations
        dataclass(frozen=True, kw_only=True)(cls)
        return cls

    return decorate


def _without(names: Mapping[str, object], *left_out: str) -> tuple[str, ...]:
    return tuple(name for name in names if name not in left_out)


_WHEN = (*ScheduleFields.model_fields, *bounds.FIELDS, "stagger", "max_runs")

# An action implies the kind, and the objects have groups of their own.
_ELSEWHERE = ("kind", "enabled", "action", "schedule", "policy", "notify")


@Parameter(name="*")
@_with_options(
    {
        "When": _WHEN,
        "What": (
            *_without(Job.model_fields, *_ELSEWHERE),
            *_without(AgentPrompt.model_fields, "prompt"),
        ),
        **{
            kind.replace("-", " ").capitalize(): tuple(action.model_fields)
            for kind, action in ACTIONS.items()
            if action is not AgentPrompt and not action.has_own_command
        },
        "Checks": tuple(_CHECKS),
        "Execution": (*_without(policies.FIELDS, *_WHEN, "check"), "enabled"),
        "Notifications": tuple(Notify.model_fields),
    }
)
class JobOptions(FieldOptions):
    """Options of `daybook add` and `daybook edit`, apart from the prompt."""


@Parameter(name="*")
@_with_options(
    {
        "When": ("every", "cron", "timezone", "active_hours", "quiet_hours"),
        "What": tuple(Heartbeat.model_fields),
        "Notifications": ("channel", "chat_id"),
    }
)
class HeartbeatOptions(FieldOptions):
    """Options of `daybook heartbeat on`."""


@Parameter(name="*")
@_with_options({"When": _without(ScheduleFields.model_fields, "after", "on", "on_demand")})
class ScheduleOptions(FieldOptions):
    """Options of `daybook next`: the schedules that have due times, and the time zone."""


Prompt = Annotated[
    str | None,
    Parameter(
        help=f"{FIELDS['prompt'].description} Write the text, @file, or @- for standard "
        "input; for a first @, write @@.",
        group=Group.create_default_arguments(),
    ),
]
