"""Policy of a job: limits of its runs, retries, overlap, catch-up and bounds."""

from __future__ import annotations

import json
import random
import shlex
from collections.abc import Collection, Iterable, Mapping
from datetime import timedelta
from fnmatch import fnmatchcase
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

from daybook import markers
from daybook.errors import InvalidInput
from daybook.markers import Facts, Marker
from daybook.names import validate_line
from daybook.policies import work_pools
from daybook.policies.budgets import UsDollars
from daybook.policies.checks import Check
from daybook.policies.compression import (
    Compression,
    HistoryTokens,
    SummarizeAfterMessages,
    SummarizeAfterTokens,
)
from daybook.policies.repositories import (
    ForgeChoice,
    LandChoice,
    MaxChangedFiles,
    MaxChangedLines,
    OnePullRequest,
    Ref,
    Repairs,
    Repo,
    RepoSecret,
    Setup,
    Verify,
)
from daybook.policies.sandboxes import SandboxField, SandboxHosts
from daybook.policies.work_pools import JobVariables, WorkPoolName
from daybook.policies.worker_labels import WorkerLabel
from daybook.processes import locations
from daybook.schedules import bounds, durations
from daybook.schedules.durations import ApproveWithin, Deadline, RetryDelay, Stagger, Timeout
from daybook.validation import raising_pydantic_error

CatchUp = Literal["none", "latest", "all"]
"""Treatment of due times that passed while no worker ran."""

RunClass = Literal["light", "medium", "resource-intensive"]
"""Resource class of a run; the settings may limit how many runs of each class are active."""

OnLost = Literal["unknown", "rerun"]
"""Treatment of a run whose process vanished while it was running."""

Overlap = Literal["skip", "queue_one", "queue_all", "cancel_running", "allow"]
"""Treatment of a run that is due while another run of the job is active."""

MAX_RETRIES = 10
MAX_RETRY_DELAY = timedelta(minutes=5)
MAX_PATH_LENGTH = 1_000
MAX_TOOL_ENTRIES, MAX_TOOL_LENGTH = 50, 200
ANSWER = "answer"
"""The entry of `approve` for a run's answer, which is delivered only if a person approves it.

It is also the position, the tool and the argument of the question about the answer.
"""
EVERY_TOOL = "*"
"""The entry of `approve` that matches all tools, also if there are none."""
JITTER_FRACTION = 0.1
"""Maximum fraction of a delay to add to it, so that runs that failed together spread out."""


def _without_blanks(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(filter(None, texts))


def _check_approve(entries: tuple[str, ...]) -> tuple[str, ...]:
    # A blank entry may be an unset variable of a shell, and then no call would wait.
    return _checked_tools("approve", entries)


def _check_only_tools(entries: tuple[str, ...]) -> tuple[str, ...]:
    return _checked_tools("only_tools", entries)


def _checked_tools(field: str, entries: tuple[str, ...]) -> tuple[str, ...]:
    """Return the entries without repetitions. Raise ValueError for one that names no tool."""
    entries = tuple(dict.fromkeys(map(str.strip, entries)))
    with raising_pydantic_error():
        if "" in entries:
            raise InvalidInput(field, "is blank", "name a tool, or leave it out")
        if len(entries) > MAX_TOOL_ENTRIES:
            hint = f"use at most {MAX_TOOL_ENTRIES}, perhaps with *"
            raise InvalidInput(field, f"has {len(entries)} entries", hint)
        for entry in entries:
            if len(entry) > MAX_TOOL_LENGTH or not entry.isprintable() or " " in entry:
                hint = "use server, server.tool or the name of a Python tool"
                raise InvalidInput(field, f"{entry[:MAX_TOOL_LENGTH]!r} is no tool", hint)
            if "://" in entry:
                hint = "save the server with `daybook tools add`, and use its name"
                raise InvalidInput(field, f'"{entry}" is a URL', hint)
    return entries


def tools_of(approve: Iterable[str]) -> tuple[str, ...]:
    """Return the entries of `approve` that name tools."""
    return tuple(each for each in approve if each != ANSWER)


def matches(name: str, entry: str) -> bool:
    """Return whether an entry, such as `crm`, `crm.send` or `crm.*`, names the tool."""
    return fnmatchcase(name, entry) or fnmatchcase(name, f"{entry}.*")


def _in_words(name: str, value: object) -> str:
    if isinstance(value, list) and markers.of(FIELDS[name]).syntax == "command":
        return shlex.join(value)
    if isinstance(value, bool):
        return "" if value else "no"
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False) if value else "none"
    return " and ".join(map(str, value)) if isinstance(value, list) else str(value) or "none"


Moment = Annotated[str, StringConstraints(strip_whitespace=True)]
"""Day, time or range as the user wrote it; its meaning depends on the job's zone."""


class Policy(BaseModel):
    """Rules for a job's runs: limits, retries, overlap, catch-up, bounds and the check."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_by_name=True, serialize_by_alias=True
    )

    timeout: Annotated[Timeout, Marker(for_agents="such as 30m", is_continued=True)] = Field(
        default=timedelta(minutes=30),
        title="Timeout",
        description="Maximum duration of one attempt, such as 90s, 30m or 1h30m.",
        json_schema_extra={"default": "30m"},  # pydantic would write an ISO 8601 duration
    )
    deadline: Deadline = Field(
        default=None,
        title="Deadline",
        description="Maximum duration of the whole run, with waiting and retries, such as 2h. "
        "Empty: no limit.",
        json_schema_extra={"default": ""},
    )
    retries: Annotated[int, Marker(for_agents=f"0 to {MAX_RETRIES}")] = Field(
        default=3,
        ge=0,
        le=MAX_RETRIES,
        title="Retries",
        description="Number of retries after a temporary error, such as status 429 or a refused "
        "connection.",
    )
    retry_delay: RetryDelay = Field(
        default=timedelta(seconds=1),
        title="Retry delay",
        description="Delay before the first retry, 1s to 5m. It doubles with each retry, up to 5m.",
        json_schema_extra={"default": "1s"},
    )
    overlap: Overlap = Field(
        default="skip",
        title="Overlap",
        description="What to do if the previous run of the job is still active: skip the new "
        "run, queue one run, queue all runs, cancel the active run, or allow both. "
        "Runs that share a session never overlap.",
    )
    catch_up: Annotated[CatchUp, Marker(for_agents="none, latest or all")] = Field(
        default="latest",
        title="Catch up",
        description="Which due times to make up for after downtime: none, the latest unless it "
        "is too old, or all of the last 24 hours.",
    )
    class_: RunClass = Field(
        default="medium",
        alias="class",
        title="Class",
        description="Resource class of the run. The operator may limit the number of active runs "
        "of each class (DAYBOOK_MAX_LIGHT and so on).",
    )
    worker_label: WorkerLabel = ""
    pool: WorkPoolName = ""
    job_variables: JobVariables = {}
    start: Moment = Field(
        default="",
        title="Start",
        description="First moment at which the job may be due: 2027-01-15, or 2027-01-15T09:00 "
        "in the job's time zone.",
    )
    until: Moment = Field(
        default="",
        title="Until",
        description="Last moment at which the job may be due: 2027-01-15 (inclusive), or "
        "2027-01-15T09:00.",
    )
    max_runs: int = Field(
        default=0,
        ge=0,
        title="Max runs",
        description="Number of runs after which the job is disabled. 0: no limit.",
    )
    exclude: Annotated[tuple[Moment, ...], AfterValidator(_without_blanks)] = Field(
        default=(),
        title="Exclude",
        description="Days on which the job is not due: 2026-12-25, or a range "
        "2026-12-24..2027-01-01.",
    )
    active_hours: Moment = Field(
        default="",
        title="Active hours",
        description="Hours in which the job may be due, such as 09:00-17:00, or 22:00-06:00 for "
        "the night. Empty: all day.",
    )
    quiet_hours: Annotated[tuple[Moment, ...], AfterValidator(_without_blanks)] = Field(
        default=(),
        title="Quiet hours",
        description="Windows in which the job is not due, such as 12:00-13:00, in the job's time "
        "zone.",
    )
    pause_after_failures: int = Field(
        default=10,
        ge=0,
        title="Pause after failures",
        description="Number of consecutive failures after which the job is disabled. 0: never.",
    )
    stagger: Stagger = Field(
        default=None,
        title="Stagger",
        description="Maximum delay of the start, such as 5m, to spread jobs that are due at the "
        "same time. A job always gets the same delay.",
        json_schema_extra={"default": ""},
    )
    delete_after_run: Annotated[bool, Marker(for_agents="")] = Field(
        default=False,
        title="Delete after run",
        description="Remove the job after its run has succeeded; its history stays. Only for "
        "jobs that are due once.",
    )
    idempotent: bool = Field(
        default=False,
        title="Idempotent",
        description="The target performs a request with the same Idempotency-Key only once, so "
        "it is safe to repeat a request whose outcome is unknown.",
    )
    on_lost: OnLost = Field(
        default="unknown",
        title="On lost",
        description="What to do if the process of an active run disappears: record the outcome "
        "as unknown, or run again (rerun), which may repeat its effects.",
    )
    fail_on_tool_error: bool = Field(
        default=False,
        title="Fail on tool error",
        description="A run of an agent whose tool call failed, and did not succeed when it was "
        "repeated, fails. Off: it succeeds with warnings.",
    )

    work_dir: Annotated[
        str,
        Marker(
            for_agents="folder for command agents; operator only",
            is_checked=True,
            is_continued=True,
        ),
    ] = Field(
        default="",
        title="Work directory",
        description="Folder in which the job's program, check command and watch command run, and "
        "a model's tools files and shell work: an absolute path, or one that begins with ~. Empty: "
        "the agent's own, or a new, empty folder. Only the operator may set it, within "
        "DAYBOOK_ALLOWED_WORK_DIRS.",
    )
    exclusive_dir: bool = Field(
        default=True,
        title="Exclusive directory",
        description="A run of an agent waits while a run of another job works in the same folder, "
        "or in a folder inside or around it. Off: it shares its folder with every other run.",
    )
    project_instructions: Annotated[bool, Marker(is_continued=True)] = Field(
        default=True,
        title="Project instructions",
        description="A model agent gets the AGENTS.md of the work directory, or its CLAUDE.md, as "
        "instructions. Off: it does not.",
    )
    sandbox: SandboxField = ""
    sandbox_hosts: SandboxHosts = ()
    repo: Repo = ""
    ref: Ref = ""
    setup: Setup = ()
    verify: Verify = ()
    repairs: Repairs = 2
    land: LandChoice = "review"
    repo_secret: RepoSecret = ""
    forge: ForgeChoice = ""
    one_pull_request: OnePullRequest = False
    max_changed_files: MaxChangedFiles = 0
    max_changed_lines: MaxChangedLines = 0
    tokens_per_run: Annotated[int, Marker(is_continued=True)] = Field(
        default=0,
        ge=0,
        title="Tokens per run",
        description="Maximum number of tokens of one run with all its attempts; before a request "
        "that would exceed it the run stops and fails. 0: no limit.",
    )
    tokens_per_day: int = Field(
        default=0,
        ge=0,
        title="Tokens per day",
        description="Maximum number of tokens of the job per day, from midnight in "
        "DAYBOOK_TIMEZONE; at the limit further runs are skipped. 0: no limit.",
    )
    usd_per_run: Annotated[UsDollars, Marker(is_continued=True)] = Field(
        default=0.0,
        title="US dollars per run",
        description="Maximum cost of one run with all its attempts, in US dollars; before a "
        "request that would exceed it the run stops and fails. 0: no limit.",
    )
    usd_per_day: UsDollars = Field(
        default=0.0,
        title="US dollars per day",
        description="Maximum cost of the job per day, in US dollars, from midnight in "
        "DAYBOOK_TIMEZONE; at the limit further runs are skipped. 0: no limit.",
    )
    approve: Annotated[
        tuple[str, ...],
        AfterValidator(_check_approve),
        Marker(is_checked=True, is_continued=True),
    ] = Field(
        default=(),
        title="Approve",
        description="Tool whose calls wait until a person approves them: server, server.tool, or "
        "the name of a Python tool, with * as a wildcard; webhook, for the request of a webhook; "
        "answer, for the answer of an agent.",
    )
    approve_within: Annotated[ApproveWithin, Marker(is_continued=True)] = Field(
        default=timedelta(days=1),
        title="Approve within",
        description="Time in which a person can approve a call, such as 30m or 2d. Then it is "
        "refused.",
        json_schema_extra={"default": "1d"},
    )
    only_tools: Annotated[
        tuple[str, ...],
        AfterValidator(_check_only_tools),
        Marker(option="only-tool", is_checked=True, is_continued=True),
    ] = Field(
        default=(),
        title="Only these tools",
        description="Tools of the agent that it may call for this job: web, server.tool, or with * "
        "as a wildcard. Empty: all tools of the agent.",
    )
    summarize_after_messages: SummarizeAfterMessages = 0
    summarize_after_tokens: SummarizeAfterTokens = 0
    history_tokens: HistoryTokens = 0
    check: Annotated[Check, Marker(is_checked=True)] = Field(
        default=Check(),
        title="Check before the run",
        description="Check that decides whether a run starts. Empty: every run starts.",
    )

    def refuse_operator_fields(self) -> None:
        """Raise `InvalidInput` if the policy sets a field that only the operator may set."""
        if self.check.command or self.check.watch_command:
            hint = "use a tool or a prompt"
            raise InvalidInput("check", "only the operator can set a command", hint)
        if self.work_dir:
            raise InvalidInput("work_dir", "only the operator can set it", "leave it out")
        if self.sandbox_hosts:
            raise InvalidInput("sandbox_hosts", "only the operator can set it", "leave it out")
        if self.job_variables:
            raise InvalidInput("job_variables", "only the operator can set them", "leave them out")
        if self.repo:  # the other fields of a repository need this one
            raise InvalidInput("repo", "only the operator can set it", "leave it out")
        if not self.exclusive_dir:
            raise InvalidInput("exclusive_dir", "only the operator can turn it off", "leave it out")

    def facts(self, usual: Policy, always: Collection[str] = ()) -> Facts:
        """Return the fields that are in ``always`` or differ from ``usual``, except the check.

        If a field is true, its text is empty, because its label is enough.
        """
        before = usual.model_dump(mode="json")
        return [
            (name.replace("_", " "), _in_words(name, value))
            for name, value in self.model_dump(mode="json", exclude={"check"}).items()
            if name in always or value != before[name]
        ]

    @property
    def compression(self) -> Compression:
        """Return the job's limits on the history of its session."""
        return Compression.of(self)

    @property
    def reruns(self) -> int:
        """Return how many lost attempts may be repeated; 0 unless `on_lost` is `rerun`."""
        return max(1, self.retries) if self.on_lost == "rerun" else 0

    def delay(self, attempt: int) -> timedelta:
        """Return how long to wait after ``attempt`` (1 is the first) ended with a temporary error.

        `retry_delay` is doubled for each earlier attempt, capped at `MAX_RETRY_DELAY`, and gets
        jitter.
        """
        doubled = min(self.retry_delay * (1 << (attempt - 1)), MAX_RETRY_DELAY)
        return doubled * random.uniform(1, 1 + JITTER_FRACTION)

    @field_validator("retry_delay")
    @classmethod
    def _check_retry_delay(cls, value: timedelta) -> timedelta:
        if value > MAX_RETRY_DELAY:
            longest = durations.to_text(MAX_RETRY_DELAY)
            with raising_pydantic_error():
                raise InvalidInput(
                    "retry_delay",
                    f'"{durations.to_text(value)}" is longer than {longest}',
                    f"use 1s to {longest}",
                )
        return value

    @field_validator("work_dir")
    @classmethod
    def _check_work_dir(cls, value: str) -> str:
        with raising_pydantic_error():
            path = validate_line(value, "work_dir", MAX_PATH_LENGTH)
            try:
                locations.check(path)
            except ValueError as error:
                problem, _, hint = str(error).partition("; ")
                raise InvalidInput("work_dir", problem, hint) from None
        return path

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        with raising_pydantic_error():
            bounds.check(self)
            work_pools.check_label(self.pool, self.worker_label)
            work_pools.check_variables(self.pool, self.job_variables)
        return self


FIELDS = {field.alias or name: field for name, field in Policy.model_fields.items()}
"""Fields of a policy by the names that users and JSON use."""


def policy_from_parameters(parameters: Mapping[str, object]) -> Policy:
    """Return the policy in a run's parameters; the default if it is absent or unreadable.

    A run of an earlier version must not stop a service that handles all runs.
    """
    try:
        return Policy.model_validate(parameters.get("policy") or {})
    except ValidationError:
        return Policy()
