"""Models of runs, their steps, approvals and spending, as `daybook.api` and `--json` show them.

The JSON output has the fields of a view in the same order. Instants are in UTC, and written as RFC
3339.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, Field

from daybook.instants import UtcTime
from daybook.json_text import JsonObject
from daybook.ledger import arguments, texts
from daybook.ledger.states import FAILURES
from daybook.policies.policy import ANSWER
from daybook.usage import TOKENS

if TYPE_CHECKING:
    from sqlmodel import SQLModel

    from daybook.ledger.tables import ApprovalRow, JobRow, RunRow, StepRow


def columns(view: type[BaseModel], row: SQLModel) -> dict[str, Any]:
    """Return those columns of ``row`` that are also fields of ``view``."""
    return {name: getattr(row, name) for name in _shared_fields(view, type(row))}


@cache
def _shared_fields(view: type[BaseModel], table: type[SQLModel]) -> Collection[str]:
    return view.model_fields.keys() & table.model_fields.keys()


class Spending(BaseModel, frozen=True):
    """US dollars and tokens of runs.

    The input tokens include the tokens that were read from a cache, or written to it.
    ``cost_usd`` is the sum of the known costs, None if no cost is known; ``unpriced_runs`` is the
    number of runs that used a model at an unknown price.
    """

    cost_usd: float | None
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    unpriced_runs: int

    @classmethod
    def of(cls, usages: Iterable[Mapping[str, Any] | None]) -> Self:
        """Return the sum of the runs' usages; ignore runs without usage."""
        used = list(filter(None, usages))

        def known(name: str) -> list[float]:
            values = (each.get(name) for each in used)
            return [value for value in values if isinstance(value, int | float)]

        costs = known("cost_usd")
        return cls(
            cost_usd=sum(costs) if costs else None,
            **{name: int(sum(known(name))) for name in TOKENS},
            unpriced_runs=len(used) - len(costs),
        )


NOTHING_SPENT = Spending.of(())


class Step(BaseModel, frozen=True):
    """A step of an agent's run: a request to a model, a call of a tool, or `instructions`.

    ``kind`` is `request`, `tool`, `instructions` (a project's file that the model got), or
    `command` (a command of the job, such as its verification).
    ``position`` is its place in the agent's work, the same in each attempt: `3.2` is the second
    call of the third response. ``status`` is `running`, succeeded, failed or unknown. ``digest`` is
    the SHA-256 of the facts of the request or call. ``input``, ``output`` and ``error`` are cut
    after 2,000 characters; ``input`` is None if retention has removed all three. ``usage`` has the
    format of `Run.usage`; the usage of a tool is empty. ``diverged`` is the reason why, from this
    step on, new steps replace the steps of an earlier attempt; ``replaced`` marks the steps that
    were replaced.
    """

    number: int
    position: str
    attempt: int
    kind: str
    name: str
    status: str
    started_at: UtcTime
    finished_at: UtcTime | None
    duration_seconds: float | None
    digest: str
    repeatable: bool
    usage: Any
    error: str | None
    input: str | None = Field(repr=False)
    output: str | None = Field(repr=False)
    diverged: str
    replaced: bool

    @classmethod
    def of(cls, row: StepRow) -> Self:
        took = None
        if row.finished_at is not None:  # the clock may have been set back meanwhile
            took = max((row.finished_at - row.started_at).total_seconds(), 0.0)
        more = {"duration_seconds": took, "usage": row.usage or {}}
        return cls.model_validate(columns(cls, row) | more)

    @property
    def verb(self) -> str:
        """Return `asked`, `called`, `read` or `ran`, for people."""
        return step_verb(self.kind)


def step_verb(kind: str) -> str:
    """Return the verb for a step of this kind, for people."""
    return {"request": "asked", "instructions": "read", "command": "ran"}.get(kind, "called")


class RunSource(BaseModel, frozen=True):
    """A page that a run has read: its final ``address`` (http or https), and its ``title``.

    The title is "" if it is not known. Strangers have written both.
    """

    title: str
    address: str


class RunFile(BaseModel, frozen=True):
    """A file that a run has written with its tools, as it was after the last write.

    ``path`` is relative to the work directory, and ``digest`` is the SHA-256 digest of the content.
    ``not_kept`` is the reason why the ledger has no copy; "" if it has one.
    """

    path: str
    size: int
    digest: str
    written_at: UtcTime
    not_kept: str

    def kept_in_words(self) -> str:
        return f"no: {self.not_kept}" if self.not_kept else "yes"


class RunLink(BaseModel, frozen=True):
    """A page of a feature about a run: its path, and the text of the link."""

    path: str
    text: str


class Approval(BaseModel, frozen=True):
    """The question whether a run may call a tool or send its answer, and the decision of a person.

    ``status`` is `open`, `approved`, `rejected`, `expired` (no person decided in time)
    or `withdrawn` (the run ended before, or asked another question). ``position`` is the position
    of the call's step. ``input`` has one line for each argument of the call, and each line is cut
    by itself; for an answer, it is the beginning of the answer. ``arguments`` is the whole input:
    all arguments of the call, or the whole answer as `answer` as long as the run waits. It is None
    if the ledger has it no longer.
    """

    number: int
    position: str
    tool: str
    input: str = Field(repr=False)
    arguments: JsonObject | None = Field(repr=False)
    status: str
    asked_at: UtcTime
    deadline: UtcTime
    decided_at: UtcTime | None
    decided_by: str
    reason: str

    @property
    def full_input(self) -> str:
        """Return the whole input as text for people; the beginning if the rest is not stored."""
        match self.arguments:
            case None:
                return self.input
            case {"answer": str(text)} if self.position == ANSWER:
                return text
        return arguments.full(self.arguments)

    @classmethod
    def of(cls, row: ApprovalRow) -> Self:
        given = arguments.read(row.input) if row.position != ANSWER else None
        shown = row.input if given is None else arguments.short(given)
        if row.outcome is not None:
            output = row.outcome.get("output")
            text = output if output is not None else texts.to_json(row.outcome.get("result"))
            given = {ANSWER: text}
        return cls.model_validate(columns(cls, row) | {"input": shown, "arguments": given})


class Run(BaseModel, frozen=True):
    """A run with its job; the fields of the job are empty for a direct call.

    ``owner``, ``user_id``, ``tags`` and ``metadata`` are the present values of the job.
    ``started_at`` is the time at which the effect of the first attempt started. ``job_removed`` is
    True if ``job`` names a job that was removed. ``count`` adjacent due times that were missed or
    skipped are one run, from ``scheduled_for`` to ``scheduled_to``, which is None for any other
    run. ``program_session`` is the id that a program gave its own conversation, "" if it printed
    none. ``warnings`` are the failed tool calls of a run that succeeded; ``reason`` repeats them.
    ``worker`` is the name of the worker that claimed the run last, "" if there is none.
    ``metadata`` and ``usage`` are objects; they are not validated, because a view must accept all
    stored values.
    """

    id: str
    job: str | None
    job_id: str | None
    job_removed: bool
    owner: str | None
    user_id: str
    tags: list[str]
    metadata: Any = Field(repr=False)
    kind: str
    trigger: str
    status: str
    reason: str
    delivery: str
    scheduled_for: UtcTime
    scheduled_to: UtcTime | None
    count: int
    queued_at: UtcTime
    started_at: UtcTime | None
    finished_at: UtcTime | None
    duration_seconds: float | None
    attempts: int
    output: str | None
    result: Any
    error: str | None
    warnings: list[str]
    session_id: str | None
    program_session: str
    agent: str | None
    model: str | None
    usage: Any
    worker: str
    flow_run_id: str | None
    occurrence: str
    retry_of: str | None

    @classmethod
    def of(cls, row: RunRow, job: JobRow | None, **more: object) -> Self:
        """Return the view of a run; ``more`` are the fields that a subclass adds."""
        duration = None
        if row.finished_at and row.started_at:
            duration = (row.finished_at - row.started_at).total_seconds()
        return cls.model_validate(
            columns(cls, row)
            | {
                "job": job.name if job else None,
                "job_removed": bool(job and job.archived_at),
                "owner": job.owner if job else None,
                "user_id": job.user_id if job else "",
                "tags": list(job.tags) if job else [],
                "metadata": dict(job.meta) if job else {},
                "scheduled_for": row.due,
                "scheduled_to": row.due_to,
                "duration_seconds": duration,
                "usage": row.usage or {},
                "worker": ":".join(row.holder.split(":")[3:]),
            }
            | more
        )

    def reasons(self) -> list[str]:
        """Return the reason and the error, the important one first, without a repetition.

        The error of a failure comes first: its reason may be only a remark, for instance about an
        agent that was unavailable.
        """
        reason, error = self.reason, self.error or ""
        if reason.startswith(error) or error.startswith(reason):
            return list(filter(None, [max(reason, error, key=len)]))
        return [error, reason] if self.status in FAILURES else [reason, error]
