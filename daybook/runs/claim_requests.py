"""What is offered to the claim, what it answers, and how an occurrence is called.

An occurrence's key is ``due:<job>:<instant>``, ``request:<job>:<id>`` or ``flow:<flow-run id>``; a
Retry of an ended flow run makes ``flow:<flow-run id>:<n>``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from daybook.jobs.limits import Rules
from daybook.jobs.store import StoredJob
from daybook.ledger.states import Status
from daybook.ledger.tables import MessageRow


def due_key(job_id: str, instant: datetime) -> str:
    """The key of a due time: whole seconds, in UTC."""
    return f"due:{job_id}:{instant.astimezone(UTC).strftime('%Y-%m-%dT%H:%M:%SZ')}"


def due_of(occurrence: str) -> tuple[str, datetime] | None:
    """Return the job's id and the due time (UTC) of a key that `due_key` made, None for others."""
    if not is_due_key(occurrence):
        return None
    _, job_id, instant = occurrence.split(":", 2)
    return job_id, datetime.fromisoformat(instant)


def request_key(job_id: str, request_id: str) -> str:
    """The key of a run that was asked for; the same id twice is one run."""
    return f"request:{job_id}:{request_id}"


def flow_key(flow_run_id: str) -> str:
    """The key of a quick or custom run, a direct call, a subflow."""
    return f"flow:{flow_run_id}"


def is_due_key(occurrence: str) -> bool:
    """Whether it is a due time of a job's schedule."""
    return occurrence.startswith("due:")


def agent_of(parameters: Mapping[str, object]) -> str | None:
    """The agent that a run's parameters name."""
    name = parameters.get("agent")
    return name if isinstance(name, str) else None


@dataclass(frozen=True)
class Offer:
    """What a caller knows of the run it wants to carry out.

    ``due`` is the nominal due time in UTC; ``parameters`` are those that Prefect gave, in the
    normal form of `Job.parameters`. ``flow_starts`` is how often Prefect has started that flow run,
    this start included; ``retries`` has one number for each Retry of the flow run that somebody
    asked for: how many starts there had been before it.
    ``started`` says whether Prefect has started it already, as it has for a flow that claims for
    itself; a worker claims before.
    ``refused`` says what is wrong with the parameters; a due time acts with the job's own, any
    other run ends as failed. ``most`` is how many runs may be at work at once, None for any number;
    ``classes`` is the same for the classes that have a limit of their own; ``full`` says that the
    offering worker itself has no slot. ``rules`` are the operator's, for what agents own.
    """

    occurrence: str
    kind: str
    trigger: str
    due: datetime
    holder: str
    parameters: dict[str, Any] = field(default_factory=dict)
    job_id: str | None = None
    flow_run_id: str | None = None
    flow_starts: int = 1
    started: bool = True
    retries: tuple[int, ...] = ()
    compared: bool = False
    refused: str = ""
    most: int | None = None
    classes: Mapping[str, int] = field(default_factory=dict)
    full: bool = False
    rules: Rules = field(default_factory=Rules)


@dataclass(frozen=True)
class Granted:
    """The claim is the caller's until its lease ends. ``parameters`` are those to act with.

    ``queued_at`` is when the ledger first knew of the run, which its deadline counts from.
    ``session_id`` is the run's conversation, which is the caller's alone, and ``history`` the last
    messages of it, oldest first. ``last_output`` is the answer of the job's last succeeded run, if
    the prompt names it. ``attempts`` is how many the run has had before. ``tokens`` is how many it
    may still take, None where nothing limits it.
    """

    run_id: str
    fence: int
    parameters: dict[str, Any]
    occurrence: str
    due: datetime
    trigger: str
    job: StoredJob | None
    session_id: str = ""
    history: tuple[MessageRow, ...] = ()
    last_output: str = ""
    attempts: int = 0
    tokens: int | None = None
    queued_at: datetime = field(kw_only=True)


@dataclass(frozen=True)
class Waiting:
    """Nothing may happen before ``until``.

    ``cancel`` are Prefect's flow runs of the same job that are at work and are to be cancelled for
    this one: whoever is answered asks for it (`daybook.execution.claim`), and is told again until they
    have ended. ``free`` says that a slot is free and kept for runs that were due earlier: the
    worker that gets this answer calls those up. ``fence`` is that of the row.
    """

    until: datetime
    why: str
    run_id: str | None = None
    cancel: tuple[str, ...] = ()
    free: bool = False
    fence: int = 0


@dataclass(frozen=True)
class Ended:
    """The occurrence has its outcome. ``run_id`` is None when no row was made (not due).

    ``flow_run_id`` is the Prefect run that carried it, if that is known.
    """

    status: Status
    reason: str
    run_id: str | None = None
    flow_run_id: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class Taken:
    """Another holds the occurrence, in the Prefect run ``flow_run_id`` if that is known."""

    run_id: str
    holder: str
    flow_run_id: str | None = None


@dataclass(frozen=True)
class Compare:
    """Not what the ledger knows: compare this one job with Prefect and claim again."""

    job_id: str


Answer = Granted | Waiting | Ended | Taken | Compare
