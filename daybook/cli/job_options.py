"""Command-line options for the fields of a job, derived from `daybook.jobs.model`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from cyclopts import Group, Parameter

from daybook.cli.field_options import FieldOption, FieldOptions, default_text, with_options
from daybook.jobs.actions import ACTIONS, AgentPrompt, Heartbeat
from daybook.jobs.model import FIELDS, Job, default_fields
from daybook.jobs.notify import Notify
from daybook.policies import policy as policies
from daybook.policies.checks import Check
from daybook.schedules import bounds
from daybook.schedules.fields import ScheduleFields

REPLACES_PROMPT = {
    name
    for action in ACTIONS.values()
    for name, field in action.model_fields.items()
    if field.is_required() and name != "prompt"
}
"""The required fields of the other kinds of job. A user gives such a field in place of a prompt."""

_CHECKS = {f"check_{name}": field for name, field in Check.model_fields.items()}
"""Fields of the object `check`, by the names of their options."""

_FIELDS = FIELDS | _CHECKS


def _option(name: str) -> FieldOption:
    """Return the option for the field ``name``."""
    more = "Replaces the prompt." if name in REPLACES_PROMPT else ""
    if name == "enabled":
        help_text = "Add the job disabled; it can still be run by hand."
        return FieldOption(name, _FIELDS[name], help=help_text, is_flag=True)
    is_flag = name == "on_demand"
    return FieldOption(name, _FIELDS[name], more=more, default=_default(name), is_flag=is_flag)


def _default(name: str) -> str:
    """Return a field's default, such as `30m; webhook: 30s` if it depends on the kind of job.

    Return "" if there is no default to show.
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
    others = [f"{kind}: {default_text(value)}" for kind, value in given.items() if value != first]
    return "; ".join([default_text(first), *others])


class JobFieldOptions(FieldOptions):
    """Base of classes whose attributes are options for fields of a job. None means not given."""

    def fields(self) -> dict[str, Any]:
        """Return the values of `given`, with the options for a check together in `check`.

        The flag for `enabled` sets the field to False.
        """
        given = self.given()
        check = {name[len("check_") :]: given.pop(name) for name in _CHECKS if name in given}
        if "enabled" in given:
            given["enabled"] = False
        return {**given, "check": check} if check else given


def _with_options(
    groups: Mapping[str, tuple[str, ...]],
) -> Callable[[type[JobFieldOptions]], type[JobFieldOptions]]:
    return with_options({title: list(map(_option, names)) for title, names in groups.items()})


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
class JobOptions(JobFieldOptions):
    """Options of `daybook add` and `daybook edit`, apart from the prompt."""


@Parameter(name="*")
@_with_options(
    {
        "When": ("every", "cron", "timezone", "active_hours", "quiet_hours"),
        "What": tuple(Heartbeat.model_fields),
        "Notifications": ("channel", "chat_id"),
    }
)
class HeartbeatOptions(JobFieldOptions):
    """Options of `daybook heartbeat on`."""


Prompt = Annotated[
    str | None,
    Parameter(
        help=f"{FIELDS['prompt'].description} Write the text, @file, or @- for standard "
        "input; for a first @, write @@.",
        group=Group.create_default_arguments(),
    ),
]
