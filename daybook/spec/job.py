"""A job: its name, what it does, when it is due, and its policy.

`new_job` and `edit` are the two ways from what a user gives, as flat fields, to a job; they raise
`Refused` naming the field, and change nothing. `None` always means that a field was not given.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, model_validator

from daybook.errors import Refused
from daybook.spec import answer_schema, prompts
from daybook.spec import policy as policies
from daybook.spec import schedule as schedules
from daybook.spec.names import default_name, free_name, validate_name
from daybook.spec.policy import Policy
from daybook.spec.refusal import for_pydantic, not_yet, translated, unknown_field
from daybook.spec.schedule import At, Cron, Every, OnDemand, Schedule

__all__ = [
    "AgentPrompt",
    "Job",
    "Session",
    "default_name",
    "edit",
    "free_name",
    "new_job",
    "read_parameters",
    "validate_name",
]

FIELDS = (
    "name",
    "kind",
    "description",
    "tags",
    "enabled",
    "prompt",
    "agent",
    "model",
    "session",
    "session_key",
    "output_format",
    "output_schema",
    "cron",
    "every",
    "at",
    "on_demand",
    "schedule",
    "timezone",
    "policy",
    "timeout",
    "deadline",
    "retries",
    "retry_delay",
    "overlap",
    "on_lost",
)
"""What `new_job` and `edit` take."""

NOT_YET = policies.NOT_YET | frozenset(
    {
        "active_hours",
        "agent_id",
        "backfill",
        "body",
        "budget",
        "channel",
        "chat_id",
        "check",
        "delete_after_run",
        "every_ms",
        "exclude",
        "header",
        "headers",
        "metadata",
        "method",
        "notify",
        "on_complete",
        "on_fail",
        "only_changed",
        "owner",
        "params",
        "payload",
        "plugin",
        "priority",
        "session_id",
        "silent",
        "tool",
        "tools",
        "url",
        "user",
        "user_id",
        "webhook",
        "work_dir",
    }
)
"""Fields that a later version brings."""

KINDS_NOT_YET = (
    "webhook",
    "tool-call",
    "heartbeat",
    "send_message",
    "call_webhook",
    "call_tool",
)
SESSIONS_NOT_YET = ("chat",)
TAG_OF_OURS = "daybook:"
"""Tags that begin so belong to Daybook (`promise.md` rule 15)."""

LONGEST_KEY = 100
KEYS_OF_OURS = ("job:", "run:")
"""Session keys that begin so would be the names of sessions that nobody named."""

_POLICY = tuple(Policy.model_fields)
_WHEN = ("cron", "every", "at", "on_demand", "schedule")


def _not_blank(prompt: str) -> str:
    if not prompt.strip():
        with for_pydantic():
            raise Refused("prompt", "is blank", "write what the agent is asked")
    return prompt


def _agent(name: str) -> str:
    if not name.strip():
        with for_pydantic():
            raise Refused("agent", "is blank", "name an agent, such as default")
    return name.strip()


def _tags(tags: tuple[str, ...]) -> tuple[str, ...]:
    with for_pydantic():
        for tag in tags:
            if not tag.strip():
                raise Refused("tags", "a tag is blank")
            if tag.strip().startswith(TAG_OF_OURS):
                raise Refused("tags", f'"{tag}" is Daybook\'s own', f"not {TAG_OF_OURS}…")
    return tuple(dict.fromkeys(tag.strip() for tag in tags))


def _name(name: str) -> str:
    with for_pydantic():
        return validate_name(name)


Session = Literal["reuse", "new"]
"""Whether a job's runs share one conversation (requirement 26)."""

OutputFormat = Literal["text", "json", "structured"]
"""What an answer has to be (requirement 28)."""


class AgentPrompt(BaseModel):
    """What an `agent-prompt` job does: asks an agent. The prompt is kept as it was written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: Annotated[str, AfterValidator(_not_blank)] = Field(
        title="Prompt",
        description="What the agent is asked. It may name {{due}}, {{job}} and {{last_output}}; "
        "{{payload}} is empty until there are hooks.",
    )
    agent: Annotated[str, AfterValidator(_agent)] = Field(
        default="default", title="Agent", description="The name of the agent that is asked."
    )
    model: str = Field(
        default="",
        title="Model",
        description="The model that a model agent is to use instead of its own; empty is its own.",
    )
    session: Session = Field(
        default="reuse",
        title="Session",
        description="Whether the job's runs continue one conversation, or each begins a new one.",
    )
    session_key: str = Field(
        default="",
        title="Session key",
        description="The name of a conversation that several jobs of one agent share; empty is the "
        "job's own.",
    )
    output_format: OutputFormat = Field(
        default="text",
        title="Output format",
        description="What the answer has to be: text, any JSON, or JSON that fits the schema.",
    )
    output_schema: dict[str, Any] = Field(
        default_factory=dict,
        title="Output schema",
        description="The JSON schema of a structured answer.",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        with for_pydantic():
            if self.session_key and self.session != "reuse":
                raise Refused(
                    "session_key", "a named session is always reused", "leave out session"
                )
            if self.session_key != self.session_key.strip() or len(self.session_key) > LONGEST_KEY:
                legal = f"at most {LONGEST_KEY} characters, without blanks around"
                raise Refused("session_key", "is not legal", legal)
            if self.session_key.startswith(KEYS_OF_OURS):
                legal = "not " + "… or ".join(KEYS_OF_OURS) + "…"
                raise Refused("session_key", f'"{self.session_key}" is Daybook\'s own', legal)
            if self.output_schema and self.output_format != "structured":
                legal = "give output_format structured with it"
                raise Refused("output_schema", "only a structured answer has one", legal)
            if self.output_format == "structured":
                answer_schema.check(self.output_schema)
        return self


class Job(BaseModel):
    """A job as it is written down; what the ledger adds (id, revision, times) is not here."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, AfterValidator(_name)]
    kind: Literal["agent-prompt"] = "agent-prompt"
    description: str = ""
    tags: Annotated[tuple[str, ...], AfterValidator(_tags)] = ()
    enabled: bool = True
    action: AgentPrompt
    schedule: Schedule
    policy: Policy = Policy()

    def parameters(self) -> dict[str, JsonValue]:
        """The parameters of the job's Prefect deployment: action and policy, without loss.

        Keys: the fields of `AgentPrompt`, and `policy` (an object). `read_parameters` is the
        inverse.
        """
        parameters: dict[str, JsonValue] = self.action.model_dump(mode="json")
        parameters["policy"] = self.policy.model_dump(mode="json")
        return parameters

    def with_parameters(self, parameters: Mapping[str, object]) -> Self:
        """The same job with the action and policy of these parameters. Raises `Refused`."""
        action, policy = read_parameters(parameters)
        if action.prompt != self.action.prompt:
            prompts.check(action.prompt)
        return self.model_copy(update={"action": action, "policy": policy})


def read_parameters(parameters: Mapping[str, object]) -> tuple[AgentPrompt, Policy]:
    """Action and policy of a deployment's parameters; absent ones have their defaults.

    Raises `Refused` naming the parameter.
    """
    known = (*AgentPrompt.model_fields, "policy")
    for name in parameters:
        if name in NOT_YET:
            raise not_yet(name)
        if name not in known:
            raise unknown_field(name, known)
    action = {name: value for name, value in parameters.items() if name != "policy"}
    return _action(action), _policy(parameters.get("policy"), {})


def normal_parameters(parameters: Mapping[str, object]) -> dict[str, JsonValue]:
    """These parameters with every default, in the form of `Job.parameters`. Raises `Refused`."""
    action, policy = read_parameters(parameters)
    return {**action.model_dump(mode="json"), "policy": policy.model_dump(mode="json")}


def new_job(
    *,
    now: datetime,
    default_timezone: str = "UTC",
    taken: Collection[str] = (),
    **fields: object,
) -> Job:
    """The job of flat fields (`FIELDS`); the only place where they become one.

    ``now`` is an aware instant: the anchor of an `every`, and what is past for an `at`.
    ``default_timezone`` is used where `timezone` is not given. ``taken`` are the names in use: a
    given name that is taken is refused, one made from the prompt gets `-2`, `-3`.

    `schedule` is one text (see `schedule.parse`) in place of `cron`, `every`, `at` and `on_demand`;
    `policy` an object in place of `timeout` and the like, or beside them. Raises `Refused` naming
    the field, `NotYet` for one of a later version.
    """
    given = _known(fields)
    action = _action({name: given[name] for name in AgentPrompt.model_fields if name in given})
    prompts.check(action.prompt)
    timezone = _text(given, "timezone", default_timezone)
    schedule = _schedule(given, timezone, now, None)
    if "name" in given:
        name = _free(validate_name(_text(given, "name", "")), taken)
    else:
        name = free_name(default_name(action.prompt), taken)
    with translated(FIELDS):
        return Job.model_validate(
            {
                "name": name,
                "action": action,
                "schedule": schedule,
                "policy": _policy(given.get("policy"), given),
                **_plain(given),
            }
        )


def edit(
    job: Job, changes: Mapping[str, object], *, now: datetime, taken: Collection[str] = ()
) -> Job:
    """The job with only the given fields changed (requirement 14); ``job`` itself never changes.

    `timezone` alone re-reads a cron expression by the new zone's clocks, and only changes what the
    other schedules are shown in. A new `every` counts from ``now``; the same one keeps its phase.
    ``taken`` are the names of the other jobs. Raises `Refused` as `new_job` does.
    """
    given = _known(changes)
    if given.get("kind", job.kind) != job.kind:
        raise Refused("kind", "cannot be changed", "make a new job")
    update: dict[str, object] = {}
    asked = {name: given[name] for name in AgentPrompt.model_fields if name in given}
    if asked:
        action = _action({**job.action.model_dump(), **asked})
        if "prompt" in asked:
            prompts.check(action.prompt)
        update["action"] = action
    timezone = _text(given, "timezone", job.schedule.timezone)
    if any(name in given for name in _WHEN):
        update["schedule"] = _schedule(given, timezone, now, job.schedule)
    elif "timezone" in given:
        update["schedule"] = schedules.in_zone(job.schedule, timezone)
    if any(name in given for name in ("policy", *_POLICY)):
        before = job.policy.model_dump(mode="json")
        update["policy"] = _policy(given.get("policy", before), given)
    if "name" in given:
        update["name"] = _free(validate_name(_text(given, "name", "")), taken)
    now_so = {name: getattr(job, name) for name in Job.model_fields}
    with translated(FIELDS):
        return Job.model_validate({**now_so, **update, **_plain(given)})


def _known(fields: Mapping[str, object]) -> dict[str, object]:
    given = {name: value for name, value in fields.items() if value is not None}
    if given.get("on_demand") is False:
        del given["on_demand"]
    for name in given:
        if name in NOT_YET:
            raise not_yet(name)
        if name not in FIELDS:
            raise unknown_field(name, FIELDS)
    kind = given.get("kind", "agent-prompt")
    if kind in KINDS_NOT_YET:
        raise not_yet("kind", f'"{kind}" not yet')
    if kind != "agent-prompt":
        raise Refused("kind", f"{kind!r} is not legal", "legal: agent-prompt")
    return given


def _plain(given: Mapping[str, object]) -> dict[str, object]:
    names = ("kind", "description", "tags", "enabled")
    plain = {name: given[name] for name in names if name in given}
    if isinstance(plain.get("tags"), str):
        raise Refused("tags", "is one text", "write a list of texts")
    return plain


def _free(name: str, taken: Collection[str]) -> str:
    if name in taken:
        raise Refused("name", f'"{name}" is taken', f'free is "{free_name(name, taken)}"')
    return name


def _text(given: Mapping[str, object], field: str, default: str) -> str:
    value = given.get(field, default)
    if not isinstance(value, str):
        raise Refused(field, f"{value!r} is no text")
    return value


def _action(fields: Mapping[str, object]) -> AgentPrompt:
    session = fields.get("session", "reuse")
    if session in SESSIONS_NOT_YET:
        raise not_yet("session", f'"{session}" not yet')
    if "prompt" not in fields:
        raise Refused("prompt", "is missing", "write what the agent is asked")
    with translated(FIELDS):
        return AgentPrompt.model_validate(dict(fields))


def _policy(base: object, given: Mapping[str, object]) -> Policy:
    if isinstance(base, Policy):
        base = base.model_dump(mode="json")
    if base is None:
        base = {}
    if not isinstance(base, Mapping):
        raise Refused("policy", f"{base!r} is no object", "write fields such as timeout")
    flat = {name: given[name] for name in _POLICY if name in given}
    with translated(Policy.model_fields):
        return Policy.model_validate({**base, **flat})


def _schedule(
    given: Mapping[str, object],
    timezone: str,
    now: datetime,
    current: Cron | Every | At | OnDemand | None,
) -> Cron | Every | At | OnDemand:
    when = [name for name in _WHEN if name in given]
    if "schedule" in when:
        if len(when) > 1:
            raise Refused(" and ".join(when), "only one of these can be given")
        return schedules.parse(
            _text(given, "schedule", ""), timezone=timezone, now=now, current=current
        )
    on_demand = given.get("on_demand", False)
    if not isinstance(on_demand, bool):
        raise Refused("on_demand", f"{on_demand!r} is not legal", "legal: true")
    return schedules.make(
        cron=_optional(given, "cron"),
        every=_optional(given, "every"),
        at=_optional(given, "at"),
        on_demand=on_demand,
        timezone=timezone,
        now=now,
        current=current,
    )


def _optional(given: Mapping[str, object], field: str) -> str | None:
    return _text(given, field, "") if field in given else None
