"""Claim requests, their results, and the keys of occurrences.

The key of an occurrence is one of these::

    due:<job>:<instant>
    request:<job>:<id>
    request:session:<id>      a message to a session, from a run without a job
    after:<job>:<run>         `daybook.runs.chains`
    import:<job>:<run>        `daybook.features.imports.writer`
    flow:<flow-run id>
    flow:<flow-run id>:<n>    the n-th Retry of an ended flow run in Prefect
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from sqlmodel import col

from daybook.jobs.actions import DEFAULT_AGENT
from daybook.jobs.limits import AgentLimits
from daybook.jobs.store import StoredJob
from daybook.json_text import JsonObject
from daybook.ledger.states import Status
from daybook.ledger.tables import MessageRow, RunRow
from daybook.policies.policy import Policy, policy_from_parameters

_DUE_PREFIX = "due:"

HAS_DUE_KEY = col(RunRow.occurrence).startswith(_DUE_PREFIX)
"""SQL condition for rows whose occurrence has a due key (`is_due_key`)."""


def due_key(job_id: str, instant: datetime) -> str:
    """Return the key of a due time, with the instant in UTC and in whole seconds."""
    return f"{_DUE_PREFIX}{job_id}:{instant.astimezone(UTC).strftime('%Y-%m-%dT%H:%M:%SZ')}"


def parse_due_key(occurrence: str) -> tuple[str, datetime] | None:
    """Return the job's id and the due time (UTC) of a key from `due_key`; None for other keys."""
    if not is_due_key(occurrence):
        return None
    _, job_id, instant = occurrence.split(":", 2)
    return job_id, datetime.fromisoformat(instant)


def request_key(job_id: str, request_id: str) -> str:
    """Return the key of a requested run; two requests with the same id share one run."""
    return f"request:{job_id}:{request_id}"


SESSION_KIND = "agent-prompt"
"""Kind of the runs that answer a message of a session."""


_SESSION_PREFIX = request_key("session", "")

HAS_SESSION_KEY = col(RunRow.occurrence).startswith(_SESSION_PREFIX)
"""SQL condition for rows whose occurrence is the request of a message (`is_session_request`)."""


def session_request_key(request_id: str) -> str:
    """Return the key of a requested run that has no job and answers a message of a session."""
    return request_key("session", request_id)


def is_session_request(occurrence: str) -> bool:
    """Return whether the key is one of `session_request_key`."""
    return occurrence.startswith(_SESSION_PREFIX)


def flow_key(flow_run_id: str) -> str:
    """Return the key of a quick or custom run, a direct call or a subflow.

    A run of a schedule in Prefect that Daybook does not manage has such a key too.
    """
    return f"flow:{flow_run_id}"


def is_due_key(occurrence: str) -> bool:
    """Return whether the key belongs to a due time of a job's schedule."""
    return occurrence.startswith(_DUE_PREFIX)


def agent_of(parameters: Mapping[str, object]) -> str | None:
    """Return the agent that a run's parameters name; None if they name no agent."""
    name = parameters.get("agent")
    return name if isinstance(name, str) else None


def agent_name(parameters: Mapping[str, object]) -> str:
    """Return the name, without its kind (`kind/name`), of the agent that a run asks first."""
    return str(parameters.get("agent") or DEFAULT_AGENT).rpartition("/")[2]


@dataclass(frozen=True)
class ClaimRequest:
    """Description of the run that a caller wants to execute.

    ``due`` is the nominal due time in UTC. ``parameters`` are the values that Prefect passed, in
    the normal form of `Job.parameters` unless they are ``refused``. ``flow_starts`` is the number
    of times that Prefect has started the flow run, including this start. ``retries`` has one number
    for each Retry of the flow run that a user requested: the number of starts before that Retry.
    ``started`` is False if Prefect has not started the run yet: a worker claims before the start,
    and a flow that claims for itself claims after it. ``compared`` is True if the job was
    reconciled with Prefect just before.

    ``refused`` is the reason why the parameters are invalid, empty if they are valid. A new run
    that would use invalid parameters fails, but a due time uses the job's own parameters. ``most``
    is the maximum number of runs in progress, None for no limit; ``classes``, ``max_per_agent`` and
    ``max_per_label`` map the names of classes, agents and labels to their own limits. ``full`` is
    True if the requesting worker has no free slot. ``worker`` is the name of the requesting worker,
    and ``labels`` and ``queues`` are what it has and serves; a flow that claims for itself has no
    name. ``queue`` is the run's work queue in Prefect, "" if it is unknown. ``rules`` are the
    operator's limits for the jobs of agents.
    ``invalid_settings`` is the error of settings that cannot be read, and whose limits are unknown.
    ``session_id`` is the session that the run continues, whatever its parameters say; if it is
    empty, the parameters decide. ``waited`` is the reason why the run waited in Prefect before this
    claim, such as a full disk; it is empty if the run did not wait. ``folders`` maps the folders
    that the run's program may work in, as they are written, to their real paths, and the agents
    (`folders.agent_key`) to their own.
    """

    occurrence: str
    kind: str
    trigger: str
    due: datetime
    holder: str
    parameters: JsonObject = field(default_factory=dict)
    job_id: str | None = None
    flow_run_id: str | None = None
    flow_starts: int = 1
    started: bool = True
    retries: tuple[int, ...] = ()
    compared: bool = False
    refused: str = ""
    most: int | None = None
    classes: Mapping[str, int] = field(default_factory=dict)
    max_per_agent: Mapping[str, int] = field(default_factory=dict)
    max_per_label: Mapping[str, int] = field(default_factory=dict)
    full: bool = False
    worker: str = ""
    labels: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()
    queue: str = ""
    rules: AgentLimits = field(default_factory=AgentLimits)
    invalid_settings: str = ""
    session_id: str = ""
    waited: str = ""
    folders: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def policy(self) -> Policy:
        """Return the policy in ``parameters``, or the default if it is absent or unreadable."""
        return policy_from_parameters(self.parameters)


@dataclass(frozen=True)
class Granted:
    """The caller has the claim until its lease ends.

    ``kind`` and ``parameters`` belong to the run. ``queued_at`` is the instant from which the run's
    deadline counts. ``session_id`` is the run's session, locked for the caller, and ``history`` has
    the session's last messages, oldest first. Without a job, ``job`` is None; without a session,
    ``session_id`` and ``history`` are empty. ``last_output`` is the answer of the job's last
    succeeded run; it is empty if there is none, or if no prompt of the run can use it. ``outputs``
    maps the other jobs that the prompt names to their answers, None for a missing job. ``found`` is
    `RunRow.found`: the result of the run's check, and the run's payload. ``seen`` is the content
    that the job's watch saw last, None if it has seen none. ``attempts`` is the number of earlier
    attempts of the run, and ``tokens`` the number of tokens that the run may still use, None for no
    limit. ``is_answer_decided`` is True if the agent has answered and the approval of the answer is
    decided, so that the attempt only records an outcome (`daybook.runs.approvals`).
    """

    run_id: str
    fence: int
    parameters: JsonObject
    occurrence: str
    due: datetime
    trigger: str
    job: StoredJob | None
    session_id: str = ""
    history: tuple[MessageRow, ...] = ()
    last_output: str = ""
    outputs: Mapping[str, str | None] = field(default_factory=dict, repr=False)
    found: Mapping[str, Any] = field(default_factory=dict, repr=False)
    seen: str | None = field(default=None, repr=False)
    attempts: int = 0
    tokens: int | None = None
    is_answer_decided: bool = False
    kind: str = field(kw_only=True)
    queued_at: datetime = field(kw_only=True)

    @cached_property
    def policy(self) -> Policy:
        """Return the policy in ``parameters``, or the default if it is absent or unreadable."""
        return policy_from_parameters(self.parameters)


@dataclass(frozen=True)
class Waiting:
    """The run has to wait until ``until``.

    ``cancel`` has the Prefect flow runs of the same job that the caller has to cancel
    (`daybook.execution.claim`); each further claim returns them again until they have ended.
    ``free`` is True if a slot is free but reserved for runs that were due earlier; the worker that
    gets this result wakes these runs. ``run_id`` is None if no row of the run waits. Either the row
    does not exist yet, or an earlier process of the same Prefect run may still hold it. ``fence``
    is the fencing token of the waiting row. ``for_person`` is True if a person's decision may make
    the run due earlier, and ``for_slot`` if the next free slot may. ``is_full`` is True if all
    slots are in use.
    """

    until: datetime
    why: str
    run_id: str | None = None
    cancel: tuple[str, ...] = ()
    free: bool = False
    fence: int = 0
    for_person: bool = False
    for_slot: bool = False
    is_full: bool = False


@dataclass(frozen=True)
class Finished:
    """The occurrence has its outcome.

    ``run_id`` is None if the occurrence has no row (not due, or already recorded and pruned).
    ``flow_run_id`` is the Prefect run that carried the occurrence, None if unknown. ``is_new`` is
    True if Prefect cannot have shown the outcome before, because this claim recorded it, or found
    it recorded for no Prefect run.
    """

    status: Status
    reason: str
    run_id: str | None = None
    flow_run_id: str | None = None
    error: str | None = None
    is_new: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class HeldElsewhere:
    """The process ``holder`` already holds the run.

    ``flow_run_id`` is the Prefect run that carries the run, None if unknown.
    """

    run_id: str
    holder: str
    flow_run_id: str | None = None


@dataclass(frozen=True)
class NeedsReconcile:
    """The ledger and the request disagree: reconcile this job with Prefect, then claim again."""

    job_id: str


ClaimResult = Granted | Waiting | Finished | HeldElsewhere | NeedsReconcile
