"""Options of the task scheduler, and the escalation of runs that no session claims."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from daybook.errors import InvalidInput
from daybook.features.tasks import model
from daybook.schedules import durations
from daybook.validation import as_pydantic, from_pydantic, raising_pydantic_error

MIN_INTERVAL, MAX_INTERVAL = timedelta(seconds=1), timedelta(minutes=5)
"""Range of the interval. It is well below the `sessions.SESSION_TIMEOUT` of 15 minutes."""
MAX_COOLDOWN = timedelta(days=1)
MAX_STARVE_AFTER = timedelta(days=30)


def _duration_of(field: str, shortest: timedelta, longest: timedelta) -> BeforeValidator:
    """Return a validator for durations from ``shortest`` to ``longest``. Only 0 needs no unit."""

    def check(value: object) -> object:
        with raising_pydantic_error():
            if value in (0, "0", "0s"):
                value = timedelta(0)
            elif isinstance(value, str):
                value = durations.parse(value, field)
            elif isinstance(value, int | float):
                raise InvalidInput(field, f"{value!r} has no unit", "write a duration such as 90s")
            if isinstance(value, timedelta) and not shortest <= value <= longest:
                hint = f"use {durations.to_text(shortest)} to {durations.to_text(longest)}"
                raise InvalidInput(field, f"{durations.to_text(value)} is out of range", hint)
        return value

    return BeforeValidator(check)


def _line(field: str) -> BeforeValidator:
    def check(value: object) -> object:
        if isinstance(value, str):
            with raising_pydantic_error():
                return model.check_word(value, field)
        return value

    return BeforeValidator(check)


class SchedulerPolicy(BaseModel):
    """Options of the task scheduler: `[tasks]` in `config.toml`.

    Each field with the name of an escalation step (`ESCALATION_STEPS`) is the number of starving
    cycles after which the step is due. A run starves once it has been queued for ``starve_after``.
    Each step is taken at most once until a session claims the run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    interval: Annotated[timedelta, _duration_of("interval", MIN_INTERVAL, MAX_INTERVAL)] = Field(
        default=timedelta(seconds=15),
        description="Time between two cycles, from 1s to 5m.",
    )
    sweep_limit: int = Field(
        default=100, ge=1, le=10_000, description="Maximum number of leases that a cycle expires."
    )
    wake_cooldown: Annotated[
        timedelta, _duration_of("wake_cooldown", timedelta(0), MAX_COOLDOWN)
    ] = Field(
        default=timedelta(seconds=60),
        description="How long after a wake that arrived a session is not woken again for the same "
        "run, at most 1d; 0 for not at all.",
    )
    sweep_reason: Annotated[str, _line("sweep_reason")] = Field(
        default="", description="Text before the reason of each expired lease."
    )
    wake_reason: Annotated[str, _line("wake_reason")] = Field(
        default="", description="Text before the reason of each wake."
    )
    actor: Annotated[str, _line("actor")] = Field(
        default=model.SCHEDULER,
        min_length=1,
        description="Actor of the events that a cycle records.",
    )
    starve_after: Annotated[
        timedelta, _duration_of("starve_after", timedelta(0), MAX_STARVE_AFTER)
    ] = Field(
        default=timedelta(minutes=2),
        description="Time in the queue after which a run starves; 0 for never.",
    )
    fan_out: int = Field(
        default=2, ge=1, description="Starving cycles until all fitting sessions are woken."
    )
    request_worker: int = Field(
        default=4, ge=1, description="Starving cycles until a worker is requested."
    )
    starved: int = Field(
        default=6, ge=1, description="Starving cycles until Prefect gets the event `task.starved`."
    )
    needs_attention: int = Field(
        default=10, ge=1, description="Starving cycles until the operator is notified."
    )
    wake_url: str = Field(
        default="",
        description="Webhook that wakes sessions without an MCP connection, with one signed "
        "request per cycle.",
    )

    def sweep_text(self, reason: str) -> str:
        """Return the reason for a lease's expiry, after the text of `sweep_reason`, if any."""
        return ": ".join(filter(None, (self.sweep_reason, reason)))

    def wake_text(self, reason: str) -> str:
        """Return the reason for a wake, after the text of `wake_reason`, if any."""
        return ": ".join(filter(None, (self.wake_reason, reason)))

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        steps = [(name, getattr(self, name)) for name in ESCALATION_STEPS]
        for (before, low), (after, high) in pairwise(steps):
            if high <= low:
                problem = f"{high} is not greater than {before} ({low})"
                hint = f"use increasing values: {' < '.join(ESCALATION_STEPS)}"
                raise as_pydantic(InvalidInput(after, problem, hint))
        if timedelta(0) < self.starve_after < self.interval:
            shorter, longer = map(durations.to_text, (self.starve_after, self.interval))
            problem = f"{shorter} is less than interval ({longer})"
            hint = "use a time of at least one interval, or 0 for never"
            raise as_pydantic(InvalidInput("starve_after", problem, hint))
        return self

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> Self:
        """Return the policy in the settings table. Raise `InvalidInput`, which names the key."""
        try:
            return cls.model_validate(dict(table))
        except ValidationError as error:
            problem = from_pydantic(error.errors()[0], cls.model_fields)
            raise InvalidInput(f"tasks.{problem.field}", problem.problem, problem.hint) from None


ESCALATION_STEPS = ("fan_out", "request_worker", "starved", "needs_attention")
"""The escalation steps, in their order."""

DEFAULTS = SchedulerPolicy()
"""The options that apply if there is no `[tasks]` in the settings."""


@dataclass(frozen=True)
class EscalationDue:
    """The number of starving cycles of a run after this cycle, and the steps that are due."""

    cycles: int
    steps: tuple[str, ...]


def escalate(
    policy: SchedulerPolicy, queued_for: timedelta, cycles: int, taken: Iterable[str]
) -> EscalationDue:
    """Return a queued run's number of starving cycles after this cycle, and the steps that are due.

    ``cycles`` is the number before this cycle. It rises only if the run starves. ``taken`` are the
    steps already taken. A step that failed does not count as taken, so it is due again in the next
    cycle.
    """
    if not policy.starve_after or queued_for < policy.starve_after:
        return EscalationDue(cycles, ())
    done = set(taken)
    due_steps = (
        name
        for name in ESCALATION_STEPS
        if cycles + 1 >= getattr(policy, name) and name not in done
    )
    return EscalationDue(cycles + 1, tuple(due_steps))
