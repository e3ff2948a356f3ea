"""The operator's limits on the jobs that agents own.

The table ``limits`` of `config.toml` contains one set for all agents, and overrides for single
agents under their names::

    user_jobs = true

    [limits]
    jobs = 20
    min_interval = "1m"
    channels = ["*"]

    [limits.for.researcher]
    agents = ["researcher", "fast"]
    tools = ["search.*"]

Daybook checks the limits when a job is written, and again at each claim. A claim checks the
parameters that the run would use, even if they were changed in Prefect. Names may contain the
wildcards `*`, `?` and `[…]`. `check` applies to every kind of job, by the agents, tools and URLs
that its action returns. It refuses a kind whose action has `may_be_agents` False.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from daybook import owners
from daybook.errors import InvalidInput
from daybook.jobs.action_fields import is_address
from daybook.jobs.actions import ACTIONS, WEBHOOK
from daybook.jobs.model import Job
from daybook.jobs.secret_references import secrets_in
from daybook.policies import budgets
from daybook.policies.budgets import HomeBudget, UsDollars
from daybook.policies.policy import Policy, matches
from daybook.schedules import due, durations
from daybook.schedules.schedule import Schedule
from daybook.schedules.zones import wall_time, zone
from daybook.validation import from_pydantic, raising_pydantic_error

if TYPE_CHECKING:
    from daybook.settings import Settings

MAX_DUE_TIMES_CHECKED, MIN_DUE_TIMES_CHECKED, LOOKAHEAD_DURATION = 2_000, 100, timedelta(days=32)
"""Limits of the search for the smallest interval between two due times.

The search examines all due times within `LOOKAHEAD_DURATION`, but at least `MIN_DUE_TIMES_CHECKED`
and at most `MAX_DUE_TIMES_CHECKED`. A cron expression that fires several times within a minute, an
hour or a day does so in every minute, hour or day in which it fires. So it is enough that the range
includes the start of a month, and a range of 32 days always includes one. A change of the clocks
does no harm, because the search also compares intervals by wall-clock time.
"""

FORBIDDEN_CHANNELS = ("console", "file")
"""Channels that no agent's job may use, whatever the limits allow."""

ALL_KINDS = "all"
"""Entry of the setting `execution_off` that stands for every kind of job."""

Patterns = tuple[str, ...]

_ZERO = timedelta()


def _interval(value: object) -> object:
    if isinstance(value, str):
        with raising_pydantic_error():
            return durations.parse(value, "min_interval")
    return value


class Limits(BaseModel):
    """Limits on the jobs of one agent; below, "its jobs" are the jobs that the agent owns."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    jobs: int = Field(
        default=20,
        ge=0,
        description="Maximum number of jobs that an agent may have; 0 allows none.",
    )
    min_interval: Annotated[timedelta, BeforeValidator(_interval)] = Field(
        default=timedelta(minutes=1),
        description="Minimum interval between two due times of a job, such as 30s or 5m.",
    )
    agents: Patterns = Field(
        default=("default",),
        description="Agents that its jobs may use, besides the agent with its own name.",
    )
    models: Patterns = Field(
        default=(),
        description="Models that its jobs may name instead of an agent's own; empty: none.",
    )
    tools: Patterns = Field(default=(), description="Tools that its jobs may call; empty: none.")
    approve: Patterns = Field(
        default=(),
        description="Tools whose calls in its jobs a person has to approve, such as crm.*, "
        "besides those that a job's own `approve` names; `webhook` for each webhook (its jobs may "
        "then have no callbacks), `answer` for each answer.",
    )
    approve_after_web: Patterns = Field(
        default=("shell", "notify"),
        description="Tools whose calls in its jobs a person has to approve after the run has read "
        "the web or mail, because these texts may contain instructions; empty: none.",
    )
    channels: Patterns = Field(
        default=("*",),
        description="Channels that its jobs may use; `file` and `console` are never allowed.",
    )
    chats: Patterns = Field(
        default=("*",), description="Chat ids that its jobs may send to in those channels."
    )
    hosts: Patterns = Field(
        default=("*",),
        description="Hosts that its jobs may reach. Addresses that are not public also need "
        "DAYBOOK_ALLOWED_HOSTS.",
    )
    secrets: Patterns = Field(
        default=(),
        description="Secrets that its jobs may name, each sent only to its own hosts; empty: none.",
    )
    tokens_per_run: int = Field(
        default=200_000, ge=0, description="Maximum number of tokens per run; 0 means no limit."
    )
    tokens_per_day: int = Field(
        default=1_000_000,
        ge=0,
        description="Maximum number of tokens per day for all its jobs together, including removed "
        "jobs. The day begins at midnight in DAYBOOK_TIMEZONE. 0 means no limit.",
    )
    usd_per_run: UsDollars = Field(
        default=0.0, description="Maximum cost per run, in US dollars; 0 means no limit."
    )
    usd_per_day: UsDollars = Field(
        default=0.0,
        description="Maximum cost per day, in US dollars, for all its jobs together, including "
        "removed jobs. 0 means no limit.",
    )
    all_jobs: bool = Field(
        default=False,
        description="Whether the agent may see and change all jobs, not only its own.",
    )

    def has_host(self, name: str) -> bool:
        """Return whether the host matches `hosts`, ignoring case."""
        return matches_any(name.lower().removesuffix("."), tuple(map(str.lower, self.hosts)))


@dataclass(frozen=True)
class AgentLimits:
    """Limits for all agents (``for_all``), and for single agents by id (``for_one``).

    ``user_jobs`` is False if the operator has switched off all schedules except those of plugins'
    jobs and heartbeats. ``execution_off`` has the kinds of jobs whose runs are not executed.
    ``timezone`` is the operator's zone. It defines when a day of a budget starts, so the zone of a
    job cannot reset daily limits. ``budget`` is the budget of the home.
    """

    for_all: Limits = field(default_factory=Limits)
    for_one: Mapping[str, Limits] = field(default_factory=dict)
    user_jobs: bool = True
    timezone: str = "UTC"
    execution_off: tuple[str, ...] = ()
    budget: HomeBudget = field(default_factory=HomeBudget)

    @classmethod
    def of(cls, table: Mapping[str, Any], *, user_jobs: bool = True, timezone: str = "UTC") -> Self:
        """Read the settings table; an agent's own table overrides the common table.

        Raise `InvalidInput` naming the invalid setting.
        """
        common = {key: value for key, value in table.items() if key != "for"}
        own = table.get("for", {})
        if not isinstance(own, Mapping) or not all(isinstance(v, Mapping) for v in own.values()):
            hint = "write a table for each agent, such as [limits.for.scout]"
            raise InvalidInput("limits.for", f"{own!r} is not a table of tables", hint)
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

    Do nothing if ``limits`` is None. `daybook.api` and `daybook.runs` check the number of jobs and
    the used tokens and US dollars in the ledger.
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
    approve = (*job.policy.approve, *limits.approve)
    for name, url in job.notify.callbacks.items():
        check_host(url, name, limits)
        check_callback(url, name, approve)


def check_callback(url: str, field: str, approve: Iterable[str]) -> None:
    """Raise `InvalidInput` naming ``field`` if a person has to approve the requests of webhooks.

    A callback of an agent's job is such a request, but cannot wait.
    """
    if url and any(matches(WEBHOOK, each) for each in approve):
        hint = "leave it out; the request of a webhook job that runs after this one can wait"
        raise InvalidInput(field, "needs an approval, for which a callback cannot wait", hint)


def approvals_of(policy: Policy, owner: str) -> tuple[str, ...]:
    """Return the entries of `approve` for a job's runs: the job's entries and its owner's entries.

    ``owner`` is empty for a run without a job. Raise the errors of `load_rules`.
    """
    owner_limits = load_limits(owner)
    return (*policy.approve, *(owner_limits.approve if owner_limits else ()))


def check_channel(channel: str, chat_id: str, limits: Limits | None) -> None:
    """Raise `InvalidInput` if the limits do not allow the channel or the chat id.

    The sender of a job's message calls this function too, because a missed due time has had no
    claim. If ``limits`` is None, every channel is allowed.
    """
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
    """Raise `InvalidInput` naming ``field`` if the limits, if any, forbid the host of ``url``."""
    host = (urlsplit(url).hostname or "") if url else ""
    if url and limits is not None and not limits.has_host(host):
        raise _not_allowed(field, host, limits.hosts)


def matches_any(name: str, patterns: Patterns) -> bool:
    """Return whether one of the patterns matches ``name``; case matters."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def smallest_interval(job: Job, now: datetime, enough: timedelta = _ZERO) -> timedelta | None:
    """Return the smallest interval between two due times of the job's schedule, or None.

    Examine at most `MAX_DUE_TIMES_CHECKED` due times, from the start of the UTC day of ``now``, and
    stop at the first interval below ``enough``. Ignore the policy's bounds, which only remove due
    times, perhaps on distant days, and an hour that the zone's clocks skip: on that day a daily due
    time still counts as daily.
    """
    return _smallest(job.schedule, now.astimezone(UTC).date(), enough)


@lru_cache(maxsize=1_000)
def _smallest(schedule: Schedule, since: date, enough: timedelta) -> timedelta | None:
    """Return the interval; cache it by date, because each claim needs it under the claim lock."""
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
    action = job.action
    if not action.may_be_agents:
        problem = f"only the operator can add a job of the kind {job.kind}"
        raise InvalidInput("kind", problem, "use another kind")
    for of, name in action.agents():
        _check_agent(of, name, owner, limits)
    model = getattr(action, "model", "")
    if model and not matches_any(model, limits.models):
        raise _not_allowed("model", model, limits.models)
    _check_session(getattr(action, "session_key", ""), owner)
    for of, name in action.tools():
        _check_tool(of, name, limits)
    for of, url in action.urls():
        check_host(url, of, limits)


def _check_session(key: str, owner: str) -> None:
    """Raise `InvalidInput` unless the key is empty, is the agent's id, or starts with `<id>:`."""
    own = owners.agent_id(owner)
    if key and key != own and not key.startswith(f"{own}:"):
        hint = f"{owner} can use {own}, or a key that starts with {own}:"
        raise InvalidInput("session_key", f'"{key}" belongs to another owner', hint)


def _check_chat(job: Job, limits: Limits) -> None:
    """Raise `InvalidInput` for `chat` unless the limits list the channel without a wildcard.

    An explicit entry is required because a chat contains the messages of others.
    """
    if getattr(job.action, "session", "") == "chat" and job.notify.channel not in limits.channels:
        channel = job.notify.channel
        problem = f'"chat" would read the messages of others in "{channel}"'
        hint = f'use reuse or new; to allow chat, list "{channel}" itself in the limits\' channels'
        raise InvalidInput("session", problem, hint)


def _check_secrets(job: Job, limits: Limits) -> None:
    # In a prompt, a reference is only text; in every other action, a run replaces references.
    fields = {} if job.action.agents() else job.action.model_dump(mode="json")
    for name in sorted(secrets_in([fields, job.policy.check.params])):
        if not matches_any(name, limits.secrets):
            raise _not_allowed("secret", name, limits.secrets)


def _check_precondition(job: Job, owner: str, limits: Limits) -> None:
    job.policy.refuse_operator_fields()
    precondition = job.policy.check
    for _, tool in precondition.tools():
        _check_tool("check", tool, limits)
    for _, url in precondition.urls():
        check_host(url, "check", limits)
    if agent := job.check_agent():
        _check_agent("check", agent, owner, limits)


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
    return InvalidInput(field, f'"{name}" is not allowed for this agent', f"allowed: {allowed}")


def load_rules(found: Settings | None = None) -> AgentLimits:
    """Return the limits in ``found``, or else in the settings of this process.

    Call this function for each claim, because the settings file may have changed. Raise
    `InvalidInput` naming the variable, or the file and the key.
    """
    from daybook import settings  # slow to import, and this module is pure

    found = found or settings.load()
    try:
        rules = AgentLimits.of(found.limits, user_jobs=found.user_jobs, timezone=found.timezone)
    except InvalidInput as error:
        raise settings.invalid_setting(
            "limits", f"{error.field}: {error.problem}", error.hint
        ) from None
    try:
        budget = budgets.read(found.budget)
    except InvalidInput as error:
        raise settings.invalid_setting(
            "budget", f"{error.field}: {error.problem}", error.hint
        ) from None
    kinds = tuple(dict.fromkeys(settings.entries(found.execution_off)))
    for each in kinds:
        if each not in (*ACTIONS, ALL_KINDS):
            problem, hint = f'"{each}" is not a kind', f"use {', '.join((*ACTIONS, ALL_KINDS))}"
            raise settings.invalid_setting("execution_off", problem, hint)
    off = tuple(ACTIONS) if ALL_KINDS in kinds else kinds
    return replace(rules, execution_off=off, budget=budget)


def load_limits(owner: str) -> Limits | None:
    """Return the limits of ``owner`` in this home; None if the owner is not an agent.

    Raise the errors of `load_rules`.
    """
    return load_rules().for_owner(owner) if owners.is_agent(owner) else None
