"""Policy of a job: limits of its runs, retries, overlap, catch-up and bounds."""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)

from daybook.errors import InvalidInput
from daybook.jobs.checks import Check
from daybook.schedules import bounds, durations
from daybook.schedules.durations import Deadline, RetryDelay, Stagger, Timeout
from daybook.validation import raising_pydantic_error

CatchUp = Literal["none", "latest", "all"]
"""Treatment of due times that passed while nothing ran."""

RunClass = Literal["light", "medium", "resource-intensive"]
"""Resource class of a run; the settings may limit how many runs of each are at work."""

OnLost = Literal["unknown", "rerun"]
"""Treatment of a run whose process vanished while it was running."""

Overlap = Literal["skip", "queue_one", "queue_all", "cancel_running", "allow"]
"""Treatment of a run that is due while another run of the job is at work."""

MAX_RETRIES = 10
MAX_RETRY_DELAY = timedelta(minutes=5)
MAX_REQUESTED_DELAY = timedelta(hours=1)
JITTER_FRACTION = 0.1
"""Fraction by which a delay may be longer, so that runs that failed together retry apart."""


def _without_blanks(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(filter(None, texts))


Moment = Annotated[str, StringConstraints(strip_whitespace=True)]
"""Day, time or range of them as it was written; its meaning depends on the job's zone."""


class Policy(BaseModel):
    """How long an attempt and a run may take, what is tried again, what happens on overlap."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_by_name=True, serialize_by_alias=True
    )

    timeout: Timeout = Field(
        default=timedelta(minutes=30),
        title="Timeout",
        description="How long one attempt may take, such as 90s, 30m or 1h30m. Then it is ended.",
        json_schema_extra={"default": "30m"},  # pydantic would write an ISO 8601 duration
    )
    deadline: Deadline = Field(
        default=None,
        title="Deadline",
        description="How long a run may take in all, waiting and retries included, such as 2h. "
        "Empty: as long as it takes.",
        json_schema_extra={"default": ""},
    )
    retries: int = Field(
        default=3,
        ge=0,
        le=MAX_RETRIES,
        title="Retries",
        description="How often a temporary error (429, a refused connection) is tried again.",
    )
    retry_delay: RetryDelay = Field(
        default=timedelta(seconds=1),
        title="Retry delay",
        description="How long to wait before the first retry, 1s to 5m; doubled before each "
        "further one, up to 5m.",
        json_schema_extra={"default": "1s"},
    )
    overlap: Overlap = Field(
        default="skip",
        title="Overlap",
        description="What happens when a run is due while one of this job is going: it is skipped; "
        "one waits and further ones are skipped (queue_one); all wait (queue_all); the one that is "
        "going is cancelled (cancel_running); or both go on (allow), which one conversation of "
        "several runs does not do.",
    )
    catch_up: CatchUp = Field(
        default="latest",
        title="Catch up",
        description="What is made up for of due times that passed while nothing ran: none; the "
        "latest, if it is not too long ago; or all of the last 24 hours, one after the other.",
    )
    class_: RunClass = Field(
        default="medium",
        alias="class",
        title="Class",
        description="How much a run takes of the machine. The operator may limit how many runs of "
        "a class are at work at once.",
    )
    start: Moment = Field(
        default="",
        title="Start",
        description="Not due before: 2027-01-15, or 2027-01-15T09:00 by the job's clock. Empty: "
        "from the beginning.",
    )
    until: Moment = Field(
        default="",
        title="Until",
        description="Not due after: 2027-01-15 (that day included), or 2027-01-15T09:00. Empty: no "
        "end.",
    )
    max_runs: int = Field(
        default=0,
        ge=0,
        title="Max runs",
        description="After so many runs the job is switched off. 0: no limit.",
    )
    exclude: Annotated[tuple[Moment, ...], AfterValidator(_without_blanks)] = Field(
        default=(),
        title="Exclude",
        description="Days on which it is not due: 2026-12-25, or 2026-12-24..2027-01-01.",
    )
    active_hours: Moment = Field(
        default="",
        title="Active hours",
        description="Due only within these hours of the job's clock, such as 09:00-17:00, or "
        "22:00-06:00 for the night. Empty: all day.",
    )
    quiet_hours: Annotated[tuple[Moment, ...], AfterValidator(_without_blanks)] = Field(
        default=(),
        title="Quiet hours",
        description="Windows of the job's clock in which it is not due, such as 12:00-13:00.",
    )
    pause_after_failures: int = Field(
        default=10,
        ge=0,
        title="Pause after failures",
        description="After so many failures in a row the job is switched off. 0: never.",
    )
    stagger: Stagger = Field(
        default=None,
        title="Stagger",
        description="Each run begins up to so much later than it is due, such as 5m, always by the "
        "same amount for a job: what is due at the full hour does not begin all at once.",
        json_schema_extra={"default": ""},
    )
    delete_after_run: bool = Field(
        default=False,
        title="Delete after run",
        description="A job that is due once is removed when its run has succeeded; its history "
        "stays.",
    )
    idempotent: bool = Field(
        default=False,
        title="Idempotent",
        description="What is called does a thing only once for the same Idempotency-Key: so it may "
        "be tried again when nobody knows whether it was done.",
    )
    on_lost: OnLost = Field(
        default="unknown",
        title="On lost",
        description="When the process vanished while it was at work, so that nobody knows what it "
        "did: the run ends as unknown, or it is run again (rerun), which may do a thing twice.",
    )

    tokens_per_run: int = Field(
        default=0,
        ge=0,
        title="Tokens per run",
        description="The most tokens that a run may take in all its attempts; then it is stopped "
        "and has failed. 0: no limit.",
    )
    tokens_per_day: int = Field(
        default=0,
        ge=0,
        title="Tokens per day",
        description="The most tokens that the job may take in a day of its clock; then its runs "
        "are skipped until the next one. 0: no limit.",
    )
    check: Check = Field(
        default=Check(),
        title="Check first",
        description="What decides whether the run is to be at all; empty: nothing, it is.",
    )

    @property
    def reruns(self) -> int:
        """Number of lost attempts that may be repeated; 0 unless `on_lost` is `rerun`."""
        return max(1, self.retries) if self.on_lost == "rerun" else 0

    def delay(self, attempt: int, asked: timedelta = timedelta(0)) -> timedelta:
        """Return how long to wait after ``attempt`` (1 is the first) ended with a temporary error.

        `retry_delay` is doubled for each earlier attempt, capped at `MAX_RETRY_DELAY`, and gets
        jitter. ``asked`` is the delay that the other side requested; it is respected up to an hour.
        """
        doubled = min(self.retry_delay * (1 << (attempt - 1)), MAX_RETRY_DELAY)
        return max(
            doubled * random.uniform(1, 1 + JITTER_FRACTION), min(asked, MAX_REQUESTED_DELAY)
        )

    @field_validator("retry_delay")
    @classmethod
    def _check_retry_delay(cls, value: timedelta) -> timedelta:
        if value > MAX_RETRY_DELAY:
            longest = durations.to_text(MAX_RETRY_DELAY)
            with raising_pydantic_error():
                raise InvalidInput(
                    "retry_delay",
                    f'"{durations.to_text(value)}" is longer than {longest}',
                    f"legal: 1s to {longest}",
                )
        return value

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        with raising_pydantic_error():
            bounds.check(self)
        return self


FIELDS_BY_NAME = {field.alias or name: field for name, field in Policy.model_fields.items()}
"""Fields of a policy by their names in texts and JSON."""
FIELDS = tuple(FIELDS_BY_NAME)


def policy_from_parameters(parameters: Mapping[str, object]) -> Policy:
    """Return the policy in a run's parameters, or the default if it is absent or cannot be read.

    A run that an earlier version stored must not stop a service that handles all runs.
    """
    try:
        return Policy.model_validate(parameters.get("policy") or {})
    except ValidationError:
        return Policy()
