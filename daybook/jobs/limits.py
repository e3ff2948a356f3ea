"""Operator's limits on the jobs that agents own.

They are the table ``limits`` of `config.toml`: one set for all agents, and differences for one
agent below its name::

    user_jobs = true

    [limits]
    jobs = 20
    min_interval = "1m"
    channels = ["*"]

    [limits.for.researcher]
    agents = ["researcher", "fast"]
    tools = ["search.*"]

They are checked when a job is written, and again at each claim with the parameters that the run
would use, whatever Prefect stores. Names may contain the shell patterns `*` and `?`. Anything
unknown is not allowed, such as a kind of job that a later version adds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from daybook import owners
from daybook.errors import InvalidInput
from daybook.jobs.actions import AgentPrompt, ToolCall, Webhook, is_address
from daybook.jobs.model import Job
from daybook.jobs.secret_references import secrets_in
from daybook.schedules import due, durations
from daybook.schedules.schedule import Schedule
from daybook.schedules.zones import wall_time, zone
from daybook.validation import from_pydantic, raising_pydantic_error

if TYPE_CHECKING:
    from daybook.settings import Settings

MAX_DUE_TIMES_CHECKED, MIN_DUE_TIMES_CHECKED, LOOKAHEAD_DURATION = 2_000, 100, timedelta(days=32)
"""Due times that are checked for the smallest interval between two.

At most `MAX_DUE_TIMES_CHECKED`: those within `LOOKAHEAD_DURATION`, or `MIN_DUE_TIMES_CHECKED` if
there are fewer. A cron expression that fires several times within a minute, an hour or a day does
so in each one in which it fires; the range also covers changes of the clock and of the month.
"""

FORBIDDEN_CHANNELS = ("console", "file")
"""Channels that no agent's job may use, whatever the limits allow."""

Patterns = tuple[str, ...]

_ZERO = timedelta()


def _interval(value: object) -> object:
    if isinstance(value, str):
        with raising_pydantic_error():
            return durations.parse(value, "min_interval")
    return value


class Limits(BaseModel):
    """Limits on the jobs of one agent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    jobs: int = Field(default=20, ge=0, description="How many jobs it may have.")
    min_interval: Annotated[timedelta, BeforeValidator(_interval)] = Field(
        default=timedelta(minutes=1), description="The least time between two of a job's due times."
    )
    agents: Patterns = Field(
        default=("default",),
        description="The agents that its jobs may ask, besides the agent with its own name.",
    )
    models: Patterns = Field(
        default=(),
        description="The models that a job may name in place of its agent's own; none: no other.",
    )
    tools: Patterns = Field(default=(), description="The tools that its jobs may call.")
    channels: Patterns = Field(
        default=("*",), description="The channels that its jobs may use; never file and console."
    )
    chats: Patterns = Field(
        default=("*",), description="The chat ids that its jobs may send to, in those channels."
    )
    hosts: Patterns = Field(
        default=("*",),
        description="The hosts that its jobs may reach, among those that an agent may at all.",
    )
    secrets: Patterns = Field(
        default=(),
        description="The secrets that its jobs may name. Each is sent only to its own hosts.",
    )
    tokens_per_run: int = Field(
        default=200_000, ge=0, description="The most tokens of one run; 0: no limit."
    )
    tokens_per_day: int = Field(
        default=1_000_000,
        ge=0,
        description="The most tokens of all its jobs in a day of the operator's clock, removed "
        "jobs included; 0: no limit.",
    )
    all_jobs: bool = Field(
        default=False, description="Whether it sees and changes every job, not only its own."
    )

    def has_host(self, name: str) -> bool:
        """Return whether the host matches `hosts`, ignoring case."""
        return matches_any(name.lower().removesuffix("."), tuple(map(str.lower, self.hosts)))


@dataclass(frozen=True)
class AgentLimits:
    """Limits for all agents, and limits for single agents by id.

    ``user_jobs`` is False if only plugins' jobs and heartbeats may fire. ``timezone`` is the
    operator's. It defines when an agent's day starts: a job's own zone cannot reset daily limits.
    """

    for_all: Limits = field(default_factory=Limits)
    for_one: Mapping[str, Limits] = field(default_factory=dict)
    user_jobs: bool = True
    timezone: str = "UTC"

    @classmethod
    def of(cls, table: Mapping[str, Any], *, user_jobs: bool = True, timezone: str = "UTC") -> Self:
        """Read the settings table; an agent's own table overrides the common one.

        Raises `InvalidInput`.
        """
        common = {key: value for key, value in table.items() if key != "for"}
        own = table.get("for", {})
        if not isinstance(own, Mapping) or not all(isinstance(v, Mapping) for v in own.values()):
            hint = "write a table for each agent, such as [limits.for.scout]"
            raise InvalidInput("limits.for", f"{own!r} does not hold tables", hint)
        return cls(
            _read(common, "limits"),
            {name: _read({**common, **each}, f"limits.for.{name}") for name, each in own.items()},
            user_jobs,
            timezone,
        )

    def for_owner(self, owner: str) -> Limits | None:
        """Return the limits of the owner's jobs, or None if nothing limits them."""
        if not owners.is_agent(owner):
            return None
        return self.for_one.get(owners.agent_id(owner), self.for_all)


def _read(table: Mapping[str, Any], where: str) -> Limits:
    try:
        return Limits.model_validate(dict(table))
    except ValidationError as error:
        problem = from_pydantic(error.errors()[0], Limits.model_fields)
        raise InvalidInput(f"{where}.{problem.field}", problem.problem, problem.hint) from None


def check(job: Job, owner: str, limits: Limits | None, now: datetime) -> None:
    """Raise `InvalidInput` for the first limit that ``job`` exceeds, with the field and a hint.

    The number of jobs and the used tokens are checked in the ledger (`daybook.runs`,
    `daybook.api`).
    """
    if limits is None:
        return
    _check_action(job, owner, limits)
    _check_precondition(job, owner, limits)
    _check_secrets(job, limits)
    least = smallest_interval(job, now, limits.min_interval)
    if least is not None and least < limits.min_interval:
        raise InvalidInput(
            "schedule",
            f"is due every {durations.to_text(least)}, which is too often for an agent's job",
            f"use an interval of {durations.to_text(limits.min_interval)} or more",
        )
    _check_chat(job, limits)
    if job.notify.channel:
        check_channel(job.notify.channel, job.notify.chat_id, limits)
    for name in ("on_complete", "on_fail"):
        check_host(getattr(job.notify, name), name, limits)


def check_channel(channel: str, chat_id: str, limits: Limits | None) -> None:
    """Check a notification channel; also used without a claim, for a missed due time."""
    if limits is None:
        return
    if channel in FORBIDDEN_CHANNELS:
        raise InvalidInput(
            "channel", f'"{channel}" is reserved for the operator', "use another channel"
        )
    if not may_use(channel, limits):
        raise _not_allowed("channel", channel, limits.channels)
    if chat_id and not matches_any(chat_id, limits.chats):
        raise _not_allowed("chat_id", chat_id, limits.chats)


def may_use(channel: str, limits: Limits) -> bool:
    """Return whether an agent's jobs may use the channel at all."""
    return channel not in FORBIDDEN_CHANNELS and matches_any(channel, limits.channels)


def check_host(url: str, field: str, limits: Limits | None) -> None:
    """Check the host of a URL; an empty URL is always allowed."""
    host = (urlsplit(url).hostname or "") if url else ""
    if url and limits is not None and not limits.has_host(host):
        raise _not_allowed(field, host, limits.hosts)


def matches_any(name: str, patterns: Patterns) -> bool:
    """Return whether one of the patterns matches ``name``; case matters."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def smallest_interval(job: Job, now: datetime, enough: timedelta = _ZERO) -> timedelta | None:
    """Return the least time between two of the next `MAX_DUE_TIMES_CHECKED` due times.

    None if there are fewer than two. An interval below ``enough`` is returned as soon as it is
    found. Bounds are ignored: they only remove due times, and the days on which they do may be far
    away. The hour that a zone's clocks skip is ignored, too: a daily due time stays daily on that
    day.
    """
    return _smallest(job.schedule, now.astimezone(UTC).date(), enough)


@lru_cache(maxsize=1_000)
def _smallest(schedule: Schedule, since: date, enough: timedelta) -> timedelta | None:
    """Compute it once a day: each claim needs it, under the claim lock."""
    tz, begin = zone(schedule.timezone), datetime.combine(since, time(), UTC)
    upcoming = islice(due.due_times(schedule, after=begin), MAX_DUE_TIMES_CHECKED)
    smallest: timedelta | None = None
    for number, (a, b) in enumerate(pairwise(upcoming), start=2):
        gap = max(b - a, wall_time(b, tz) - wall_time(a, tz))
        smallest = gap if smallest is None else min(smallest, gap)
        if smallest < enough or (
            number >= MIN_DUE_TIMES_CHECKED and b - begin > LOOKAHEAD_DURATION
        ):
            break
    return smallest


def _check_action(job: Job, owner: str, limits: Limits) -> None:
    match job.action:
        case AgentPrompt():
            _check_agent("agent", job.action.agent, owner, limits)
            if job.action.model and not matches_any(job.action.model, limits.models):
                raise _not_allowed("model", job.action.model, limits.models)
            _check_session(job.action.session_key, owner)
        case ToolCall():
            _check_tool("tool", job.action.tool, limits)
        case Webhook():
            check_host(job.action.url, "url", limits)
        case _:
            problem = f"only the operator can add a job of the kind {job.kind}"
            raise InvalidInput("kind", problem, "use another kind")


def _check_session(key: str, owner: str) -> None:
    """Restrict session keys to those that start with the agent's name: others are private."""
    own = owners.agent_id(owner)
    if key and key != own and not key.startswith(f"{own}:"):
        hint = f"{owner} can use {own}, or a key that starts with {own}:"
        raise InvalidInput("session_key", f'"{key}" belongs to another owner', hint)


def _check_chat(job: Job, limits: Limits) -> None:
    """Allow `chat` only if the limits name the channel itself: it shows what others said there."""
    if getattr(job.action, "session", "") == "chat" and job.notify.channel not in limits.channels:
        channel = job.notify.channel
        problem = f'"chat" would read the messages of others in "{channel}"'
        hint = f'use reuse or new; to allow chat, list "{channel}" itself in the limits\' channels'
        raise InvalidInput("session", problem, hint)


def _check_secrets(job: Job, limits: Limits) -> None:
    fields = job.action.model_dump(mode="json")
    if isinstance(job.action, AgentPrompt):
        fields = {}
    for name in sorted(secrets_in([fields, job.policy.check.params])):
        if not matches_any(name, limits.secrets):
            raise _not_allowed("secret", name, limits.secrets)


def _check_precondition(job: Job, owner: str, limits: Limits) -> None:
    precondition = job.policy.check
    if precondition.command:
        raise InvalidInput("check", "only the operator can set a command", "use a tool or a prompt")
    if precondition.tool:
        _check_tool("check", precondition.tool, limits)
    if precondition.prompt:
        own = getattr(job.action, "agent", "default")
        _check_agent("check", precondition.agent or own, owner, limits)


def _check_agent(field: str, name: str, owner: str, limits: Limits) -> None:
    own = owners.agent_id(owner)
    if name != own and not matches_any(name, limits.agents):
        raise _not_allowed(field, name, tuple(dict.fromkeys((*limits.agents, own))))


def _check_tool(field: str, name: str, limits: Limits) -> None:
    if not matches_any(name, limits.tools):
        raise _not_allowed(field, name, limits.tools)
    if is_address(name):
        check_host(name, field, limits)


def _not_allowed(field: str, name: str, names: Patterns) -> InvalidInput:
    allowed = ", ".join(names) or "none"
    return InvalidInput(field, f'"{name}" is not allowed for agents here', f"allowed: {allowed}")


def load_rules(found: Settings | None = None) -> AgentLimits:
    """Return the limits in the settings, which are read unless ``found`` is given.

    Called for each claim, because the file may have changed. Raises `InvalidInput` naming the
    variable, or the file and the key.
    """

    from daybook import settings  # slow to import, and this module is pure

    found = found or settings.load()
    try:
        return AgentLimits.of(found.limits, user_jobs=found.user_jobs, timezone=found.timezone)
    except InvalidInput as error:
        raise settings.invalid_setting(
            "limits", f"{error.field}: {error.problem}", error.hint
        ) from None


def load_limits(owner: str) -> Limits | None:
    """Return the limits of ``owner`` in this home, or None. Raise the errors of `load_rules`."""
    return load_rules().for_owner(owner) if owners.is_agent(owner) else None
