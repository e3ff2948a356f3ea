"""Job model: its name, action, schedule, policy and notifications.

`new_job` and `edit` create a job from a user's flat fields. For invalid input they raise
`InvalidInput` naming the field, and change nothing. `None` always means that a field was not given,
and so does False for `on_demand`.

To add a field of an action, of the policy or of the notifications, write one line in its model
(`actions`, `policy`, `notify`). Options, flow parameters, `--json` and the page of fields are
derived from the models; the field's marker (`markers`) contains further facts about it. To add a
field of `Job` itself, write one line in `Job`; it is no parameter of the flow, and needs:

- a column of the same name in `ledger.tables`, with a migration: in `RevisionRow` if a change makes
  a new revision, else in `JobRow` (`jobs.store` copies the columns by name)
- its field in `jobs.views.ListedJob`, for `--json`
- if people should edit it in Prefect too: a field of `prefect.projection.Projection`, which
  `prefect.deployment` writes, and `prefect.import_edits` and `prefect.adoption` read; if it is
  another field of the deployment, also its name in `prefect.deployments._COMPARED_FIELDS`

The option is derived from the field; `cli.job_options` changes only if the option needs its own
group or its value needs its own syntax. The snapshots in `tests/snapshots` record the change;
`tests/policies.py` and `tests/notifications.py` have the defaults of `Policy` and `Notify`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from daybook import markers
from daybook.errors import InvalidInput
from daybook.jobs import (
    action_fields,
    actions,
    combinations,
    payloads,
    prompts,
    secret_references,
    upcoming,
)
from daybook.jobs.actions import ACTIONS, DEFAULT_AGENT, Action, AgentPrompt, Kind
from daybook.jobs.labels import check_metadata, check_tags
from daybook.jobs.notify import Notify
from daybook.json_text import JsonObject
from daybook.markers import Marker
from daybook.names import default_name, free_name, validate_name, validate_new_name
from daybook.policies import checks
from daybook.policies import policy as policies
from daybook.policies.policy import Policy
from daybook.schedules import bounds, durations
from daybook.schedules import schedule as schedules
from daybook.schedules.due import next_due
from daybook.schedules.fields import ScheduleFields
from daybook.schedules.schedule import After, InPast, Schedule
from daybook.validation import raising_invalid_input, raising_pydantic_error, unknown_field

MAX_PARAMETERS_BYTES = 520_000
"""Maximum size of `Job.parameters` as JSON. Prefect refuses 524,288 bytes and more with 422."""

_REQUIRED_FIELD = {
    kind: next(name for name, field in model.model_fields.items() if field.is_required())
    for kind, model in ACTIONS.items()
    if any(field.is_required() for field in model.model_fields.values())
}
"""Required field of each kind; a heartbeat has none, and only its kind identifies it."""
_OBJECTS = ("policy", "notify")
"""Parameters that are objects, in addition to the fields of the action."""


def _name(name: str) -> str:
    with raising_pydantic_error():
        return validate_name(name, stored=True)


class Job(BaseModel):
    """Job as the user defines it, without the ledger's fields (id, revision, times)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, AfterValidator(_name)] = Field(
        description="Unique name. Default: the first words of the prompt."
    )
    kind: Kind = Field(default="agent-prompt", description="Kind of the job.")
    description: Annotated[str, Marker(for_agents="")] = Field(
        default="", description="Human-readable description."
    )
    tags: Annotated[tuple[str, ...], AfterValidator(check_tags), Marker(option="tag")] = Field(
        default=(), description="Tag of the job and its deployment."
    )
    metadata: Annotated[JsonObject, BeforeValidator(check_metadata), Marker(syntax="pairs")] = (
        Field(default_factory=dict, description="Data that a program stores with the job.")
    )
    enabled: Annotated[bool, Marker(option="disabled")] = Field(
        default=True, description="Whether the job runs when it is due."
    )
    action: Action
    schedule: Schedule
    policy: Annotated[Policy, Marker(is_checked=True)] = Field(
        default=Policy(),
        title="Limits and retries",
        description="Limits, retries, overlap and bounds of the runs.",
    )
    notify: Annotated[Notify, Marker(is_checked=True)] = Field(
        default=Notify(),
        title="Notifications",
        description="Recipients of the outcome: callback URLs and a channel.",
    )

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if not isinstance(self.action, ACTIONS[self.kind]):
            with raising_pydantic_error():
                raise InvalidInput("kind", f"{self.kind} does not match the job's action")
        return self

    def parameters(self) -> dict[str, JsonValue]:
        """Return the parameters of the job's Prefect deployment: the inverse of `read_parameters`.

        Keys: the fields of the kind's action (`actions.ACTIONS`), and the objects `policy` and
        `notify`.
        """
        parameters: dict[str, JsonValue] = self.action.model_dump(mode="json")
        parameters["policy"] = self.policy.model_dump(mode="json")
        parameters["notify"] = self.notify.model_dump(mode="json")
        return parameters

    def agents(self) -> list[str]:
        """Return the agents that the job's runs may ask, including the agents of gate and check."""
        found = [name for _, name in self.action.agents()]
        return list(dict.fromkeys(filter(None, [*found, self.check_agent()])))

    def check_agent(self) -> str:
        """Return the agent that answers the prompt of the check; empty if it has no prompt."""
        check = self.policy.check
        own = getattr(self.action, "agent", DEFAULT_AGENT)
        return (check.agent or own) if check.prompt else ""

    def tools(self) -> list[str]:
        """Return the tools that the job's runs call themselves, including the tool of its check."""
        found = [*self.action.tools(), *self.policy.check.tools()]
        return list(dict.fromkeys(name for _, name in found))

    def values_with_secrets(self) -> list[object]:
        """Return the values in which a run replaces references to secrets."""
        name = self.policy.repo_secret
        of_repository = [secret_references.reference(name)] if name else []
        return [*self.action.values_with_secrets(), self.policy.check.params, *of_repository]

    def uses_payload(self) -> bool:
        """Return whether a run uses the payload of the hook that requests it."""
        return self.action.uses_payload() or payloads.is_used(self.policy.check.params)

    def with_parameters(self, parameters: Mapping[str, object]) -> Self:
        """Return the job with these parameters. Raise `InvalidInput` for invalid parameters."""
        action, policy, notify = read_parameters(self.kind, parameters)
        _check_prompt(action, self.action)
        return self.model_copy(update={"action": action, "policy": policy, "notify": notify})


IMPORTED_FROM = "imported_from"
"""Key in the metadata of a job that `daybook import` has added."""


def _action_fields_of_all_kinds() -> dict[str, FieldInfo]:
    """Return the fields of all actions; if kinds share a name, use the field of the first kind."""
    fields: dict[str, FieldInfo] = {}
    for model in ACTIONS.values():
        fields = {**fields, **{k: v for k, v in model.model_fields.items() if k not in fields}}
    return fields


FIELDS: dict[str, FieldInfo] = {
    **{name: field for name, field in Job.model_fields.items() if name != "action"},
    **_action_fields_of_all_kinds(),
    **ScheduleFields.model_fields,
    **policies.FIELDS,
    **Notify.model_fields,
}
"""Flat fields that `new_job` and `edit` accept; `daybook add` derives its options from them."""

JobFields = dict[str, Any]
"""Values of flat fields of a job, by the names in `FIELDS`, before they are validated."""


def default_fields(kind: str) -> JobFields:
    """Return the defaults of a kind's action, policy and notifications by field, as JSON."""
    action = {
        name: to_jsonable_python(field.get_default(call_default_factory=True))
        for name, field in ACTIONS[kind].model_fields.items()
        if not field.is_required()
    }
    policy, notify = _policy(kind, None, {}), Notify()
    return {**action, **policy.model_dump(mode="json"), **notify.model_dump(mode="json")}


def read_parameters(kind: str, parameters: Mapping[str, object]) -> tuple[Action, Policy, Notify]:
    """Return a deployment's action, policy and notifications; absent ones get the kind's defaults.

    Raise `InvalidInput` naming the parameter.
    """
    known = (*ACTIONS[kind].model_fields, *_OBJECTS)
    for name in parameters:
        if name not in known:
            raise unknown_field(name, known)
    fields = {name: value for name, value in parameters.items() if name not in _OBJECTS}
    action, notify = _action(kind, fields), _notify(parameters.get("notify"), {})
    policy = _policy(kind, parameters.get("policy"), {})
    combinations.check(action, policy, notify)
    return action, policy, notify


def normal_parameters(kind: str, parameters: Mapping[str, object]) -> dict[str, JsonValue]:
    """Return the parameters completed by the kind's defaults, in the form of `Job.parameters`.

    Raise `InvalidInput` naming the invalid parameter.
    """
    action, policy, notify = read_parameters(kind, parameters)
    return {
        **action.model_dump(mode="json"),
        "policy": policy.model_dump(mode="json"),
        "notify": notify.model_dump(mode="json"),
    }


def new_job(
    before: Job | None = None,
    /,
    *,
    now: datetime,
    default_timezone: str = "UTC",
    taken: Collection[str] = (),
    may_have_passed: bool = False,
    **fields: object,
) -> Job:
    """Create a new job from flat fields (`FIELDS`).

    Only `prefect.adoption` creates a job in another way: from a deployment.

    ``now`` is an aware instant. It is the anchor of an `every`. An `at` must be later, and `until`
    must leave a due time, unless the job ``may_have_passed``.
    ``default_timezone`` is used if `timezone` is not given. ``taken`` are the names in use: a given
    name in ``taken`` is refused, and a default name in ``taken`` gets `-2`, `-3` and so on.

    The field `schedule` is one string (see `schedule.parse`) that replaces `cron`, `every`, `at`,
    `after` and `on_demand`. The fields `policy` and `notify` are objects; flat fields such as
    `timeout` and `channel` override their entries. Raise `InvalidInput` naming the field.

    ``before`` is the job that the new job replaces. An unchanged `every` keeps its phase, and an
    unchanged `at` keeps its time even if it has passed. An unchanged prompt stays legal, and so do
    the schedule and the policy if both are unchanged.
    """
    given = _known(fields)
    kind = _kind(given)
    action = _action(kind, _action_fields(kind, given))
    metadata = given.get("metadata")
    is_import = isinstance(metadata, Mapping) and IMPORTED_FROM in metadata
    if before is not None or not is_import:
        _check_prompt(action, before.action if before else None)
    timezone = _text(given, "timezone", default_timezone)
    current = before.schedule if before and not isinstance(before.schedule, After) else None
    try:
        schedule = _schedule(given, timezone, now, current)
    except InPast as error:
        if not may_have_passed:
            raise
        schedule = error.schedule
    if "name" in given:
        current_name = before.name if before else None
        name = _unused(validate_new_name(_text(given, "name", ""), current_name), taken)
    else:
        name = free_name(default_name(action.subject()), taken)
    with raising_invalid_input(FIELDS):
        job = Job.model_validate(
            {
                "name": name,
                "action": action,
                "schedule": schedule,
                "policy": _policy(kind, given.get("policy"), given),
                "notify": _notify(given.get("notify"), given),
                **_plain(given),
                "kind": kind,
            }
        )
    combinations.check(job.action, job.policy, job.notify)
    _check_size(job)
    unchanged = before and (job.schedule, job.policy) == (before.schedule, before.policy)
    if unchanged or (may_have_passed and has_ended(job, now)):
        return job
    return _bounded(job, now)


def has_ended(job: Job, now: datetime) -> bool:
    """Return whether the only due time of the job, or its `until`, is not after ``now``."""
    until = bounds.read_bounds(job.policy, job.schedule.timezone).until
    return job.schedule.has_passed(now) or (until is not None and until <= now)


def edit(
    job: Job, changes: Mapping[str, object], *, now: datetime, taken: Collection[str] = ()
) -> Job:
    """Return the job with only the given fields changed; ``job`` itself never changes.

    If only `timezone` changes, a cron expression and the bounds of the policy apply in the new
    zone; of other schedules, only the display changes. A new `every` counts from ``now``; an
    unchanged `every` keeps its phase. A `policy` or `notify` object replaces all fields of the
    stored object; a `channel` without a `chat_id` clears the stored chat id. ``taken`` are the
    names of the other jobs. Raise `InvalidInput` naming the field.
    """
    given = dict(_known(changes))
    for name in ("approve", "only_tools"):  # a blank clears the list; a new job may not have it
        if given.get(name) in ("", [""], ("",)):
            given[name] = ()
    if given.get("kind", job.kind) != job.kind:
        raise InvalidInput("kind", "cannot be changed", "add a new job instead")
    update: dict[str, object] = {}
    action_fields = _action_fields(job.kind, given)
    if action_fields:
        action = _action(job.kind, {**job.action.model_dump(), **action_fields})
        is_checked = "prompt" in action_fields and IMPORTED_FROM not in job.metadata
        _check_prompt(action, None if is_checked else job.action)
        update["action"] = action
    timezone = _text(given, "timezone", job.schedule.timezone)
    if any(name in given for name in ScheduleFields.model_fields if name != "timezone"):
        update["schedule"] = _schedule(given, timezone, now, job.schedule)
    elif "timezone" in given:
        update["schedule"] = schedules.in_zone(job.schedule, timezone)
    if any(name in given for name in ("policy", *policies.FIELDS)):
        before = job.policy.model_dump(mode="json")
        update["policy"] = _policy(job.kind, given.get("policy", before), given)
    if any(name in given for name in ("notify", *Notify.model_fields)):
        notify = job.notify.model_dump(mode="json")
        if "channel" in given:  # a chat id is valid for its own channel only
            notify["chat_id"] = ""
        update["notify"] = _notify(given.get("notify", notify), given)
    if "name" in given:
        update["name"] = _unused(validate_new_name(_text(given, "name", ""), job.name), taken)
    current = {name: getattr(job, name) for name in Job.model_fields}
    with raising_invalid_input(FIELDS):
        edited = Job.model_validate({**current, **update, **_plain(given)})
    unchanged = (edited.schedule, edited.policy) == (job.schedule, job.policy)
    combinations.check(edited.action, edited.policy, edited.notify)
    _check_size(edited)
    return edited if unchanged else _bounded(edited, now)


def _known(fields: Mapping[str, object]) -> dict[str, object]:
    given = {name: value for name, value in fields.items() if value is not None}
    if given.get("on_demand") is False:
        del given["on_demand"]
    for name, value in given.items():
        if name not in FIELDS:
            raise unknown_field(name, FIELDS)
        action_fields.check_texts(value, name)
    kind = _text(given, "kind", "agent-prompt")
    if kind not in ACTIONS and kind not in actions.KIND_ALIASES:
        raise InvalidInput("kind", f"{kind!r} is not a kind", f"use {', '.join(ACTIONS)}")
    if kind in actions.KIND_ALIASES:
        given["kind"] = actions.KIND_ALIASES[kind]
    return given


def _kind(given: Mapping[str, object]) -> str:
    """Return the given kind, or the kind that a required field implies, or `agent-prompt`.

    Raise `InvalidInput` if the given fields imply two kinds.
    """
    implied = [kind for kind, field in _REQUIRED_FIELD.items() if field in given]
    if len(implied) > 1:
        fields = " and ".join(_REQUIRED_FIELD[kind] for kind in implied)
        raise InvalidInput(fields, "cannot be combined", "use only one of them")
    return str(given.get("kind") or (implied[0] if implied else "agent-prompt"))


def _action_fields(kind: str, given: Mapping[str, object]) -> dict[str, object]:
    """Return the fields of the kind's action. Raise `InvalidInput` for a field of another kind."""
    own = ACTIONS[kind].model_fields
    for other, model in ACTIONS.items():
        for name in model.model_fields:
            if name in given and name not in own:
                noun, article = kind.replace("-", " "), "an" if kind[0] in "aeiou" else "a"
                problem = f"applies only to {other.replace('-', ' ')}s, but this job is"
                raise InvalidInput(name, f"{problem} {article} {noun}", "leave it out")
    return {name: given[name] for name in own if name in given}


def _check_prompt(action: Action, before: Action | None) -> None:
    """Check the variables of a prompt that is new or changed.

    An imported prompt, and later versions of it, may contain other words in double braces, such as
    those of `docker ps --format`, which are sent as they are.
    """
    if isinstance(action, AgentPrompt):
        old = before.prompt if isinstance(before, AgentPrompt) else None
        if action.prompt != old:
            prompts.check(action.prompt, kept=old or "")


def _plain(given: Mapping[str, object]) -> dict[str, object]:
    """Return the given fields that `Job` stores unchanged.

    An empty string clears the tags. Raise `InvalidInput` if `tags` is another string.
    """
    composed = ("name", "action", "schedule", "policy", "notify")
    plain = {name: given[name] for name in Job.model_fields if name in given.keys() - composed}
    if plain.get("tags") == "":
        plain["tags"] = ()
    if isinstance(plain.get("tags"), str):
        raise InvalidInput("tags", "is a string", "use a list of strings")
    return plain


def _unused(name: str, taken: Collection[str]) -> str:
    if name in taken:
        raise InvalidInput("name", f'"{name}" is taken', f'"{free_name(name, taken)}" is free')
    return name


def _text(given: Mapping[str, object], field: str, default: str) -> str:
    value = given.get(field, default)
    if field == "every" and type(value) is int and value > 0:
        raise durations.without_unit(field, value)
    if not isinstance(value, str):
        hint = "put the value in quotes" if isinstance(value, int | float) else ""
        raise InvalidInput(field, f"{value!r} is not a string", hint)
    return value


def _action(kind: str, fields: Mapping[str, object]) -> Action:
    needed = _REQUIRED_FIELD.get(kind)
    if needed is not None and needed not in fields:
        raise InvalidInput(needed, "is missing", markers.of(FIELDS[needed]).missing)
    with raising_invalid_input(FIELDS):
        return ACTIONS[kind].model_validate(dict(fields))


def _check_size(job: Job) -> None:
    """Raise `InvalidInput` naming the largest field if Prefect would refuse the job's size."""
    parameters = job.parameters()
    if _size(parameters) <= MAX_PARAMETERS_BYTES:
        return
    fields = {
        **parameters,
        **job.policy.model_dump(mode="json"),
        **job.notify.model_dump(mode="json"),
    }
    largest = max((name for name in fields if name not in _OBJECTS), key=lambda x: _size(fields[x]))
    problem = f"is too long: {_size(fields[largest]):,} bytes as JSON"
    hint = (
        f"all fields of a job together may have {MAX_PARAMETERS_BYTES:,}, where a character "
        "outside ASCII counts 6 or 12"
    )
    raise InvalidInput(largest, problem, hint)


def _size(value: object) -> int:
    """Return the size in bytes as Prefect counts it: as JSON with escapes for non-ASCII text."""
    return len(json.dumps(value, separators=(",", ":"), default=str))


def _bounded(job: Job, now: datetime) -> Job:
    """Return ``job`` if its policy suits its schedule; otherwise raise `InvalidInput`.

    The bounds must not exclude all due times of the schedule, and only a job that is due once may
    have `delete_after_run`.
    """
    if job.policy.delete_after_run and job.schedule.only_due is None:
        hint = "set a time such as 2027-01-15T14:30"
        raise InvalidInput("delete_after_run", "needs a job that is due once", hint)
    if next_due(job.schedule, now) and not upcoming.next_due(job.schedule, job.policy, now):
        given = [name for name in bounds.FIELDS if getattr(job.policy, name)]
        hint = "change them so that at least one due time remains"
        raise InvalidInput(" and ".join(given), "the job would never be due", hint)
    return job


def _object(name: str, value: object, example: str) -> Mapping[str, Any]:
    """Return ``value``, a job's policy or notifications, as a JSON object; `{}` for None.

    Raise `InvalidInput` for ``name`` if ``value`` has another type; its hint names ``example``.
    """
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidInput(name, f"{value!r} is not an object", f"use fields such as {example}")
    return value


def _policy(kind: str, base: object, given: Mapping[str, object]) -> Policy:
    base = _object("policy", base, "timeout")
    flat = {name: given[name] for name in policies.FIELDS if name in given}
    if "check" in flat:
        check = flat["check"]
        if isinstance(check, Mapping) and isinstance(prompt := check.get("prompt"), str):
            # Here and not in `Check`, so that stored checks stay readable.
            prompts.check(prompt, known=prompts.JOB_VARIABLES, field="check")
        flat["check"] = checks.merge_check(base.get("check"), check)
    with raising_invalid_input(policies.FIELDS):
        return Policy.model_validate({**ACTIONS[kind].default_policy, **base, **flat})


def _notify(base: object, given: Mapping[str, object]) -> Notify:
    base = _object("notify", base, "channel")
    flat = {name: given[name] for name in Notify.model_fields if name in given}
    with raising_invalid_input(Notify.model_fields):
        return Notify.model_validate({**base, **flat})


def _schedule(
    given: Mapping[str, object],
    timezone: str,
    now: datetime,
    current: Schedule | None,
) -> Schedule:
    when = [name for name in ScheduleFields.model_fields if name in given and name != "timezone"]
    if "schedule" in when:
        if len(when) > 1:
            raise InvalidInput(" and ".join(when), "cannot be combined", "use only one of them")
        text, is_given = _text(given, "schedule", ""), "timezone" in given
        return schedules.parse(
            text, timezone=timezone, now=now, current=current, is_zone_given=is_given
        )
    on_demand = given.get("on_demand", False)
    if not isinstance(on_demand, bool):
        raise InvalidInput("on_demand", f"{on_demand!r} is not a boolean", "use true")
    texts: dict[str, Any] = {name: _text(given, name, "") for name in when if name != "on_demand"}
    return schedules.make(**texts, on_demand=on_demand, timezone=timezone, now=now, current=current)
