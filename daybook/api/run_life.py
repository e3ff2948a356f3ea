"""The life of one run: attempts, deliveries with their attempts, and all events in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.api import authorization, run_files, sources
from daybook.delivery import history as deliveries
from daybook.delivery.views import ListedRun, NotificationDetails
from daybook.feature import loaded
from daybook.instants import UtcTime
from daybook.json_text import JsonObject
from daybook.ledger import triggers
from daybook.ledger.engine import open_ledger
from daybook.ledger.states import LIVE, Delivery
from daybook.ledger.tables import AttemptRow, RunRow
from daybook.ledger.views import Approval, RunFile, RunLink, RunSource, Step, columns
from daybook.runs import approvals, steps, usage


class Attempt(BaseModel, frozen=True):
    """One attempt at the effect of a run. ``usage`` is as in `daybook.ledger.views.Run`."""

    number: int
    status: str
    started_at: UtcTime
    finished_at: UtcTime | None
    duration_seconds: float | None
    error: str | None
    usage: Any

    @classmethod
    def of(cls, row: AttemptRow, **more: object) -> Self:
        """Return the view of an attempt. ``more`` are fields that replace columns of the row."""
        took = (row.finished_at - row.started_at).total_seconds() if row.finished_at else None
        return cls.model_validate(columns(cls, row) | {"duration_seconds": took} | more)


class RunEvent(BaseModel, frozen=True):
    """Something that happened to a run.

    ``kind`` is a status of the run, or `event` for anything else.
    """

    at: UtcTime
    kind: str
    what: str
    detail: str = ""


class RunLife(BaseModel, frozen=True):
    """A run with its parameters, attempts, steps and deliveries, and its events in order of time.

    If the run has begun and not ended, the duration and the usage of the run and of its open
    attempt are those so far.
    ``parameters`` are the parameters with which the run was requested or claimed. ``deployment_id``
    is None if the run has no job, or its job no deployment. ``tokens`` is the maximum number of
    tokens from the last claim on; None if unlimited. ``steps`` are the steps of the run's agent,
    ``partial_answer`` is the text that the agent has written so far, while the run runs.
    ``approvals`` are the questions to a person about its calls and answers, and ``tools``,
    ``sources`` and ``files`` are as in `RunWithSteps`. ``links`` are pages of features about the
    run. ``paused_until`` of the deliveries is None. ``evidence`` has the outcomes that the ledger
    refused, because the process that reported them had lost its claim.
    """

    run: ListedRun
    parameters: JsonObject = Field(repr=False)
    deployment_id: str | None
    tokens: int | None
    attempts: list[Attempt]
    steps: list[Step]
    partial_answer: str = Field(repr=False)
    approvals: list[Approval]
    tools: list[str]
    sources: list[RunSource]
    files: list[RunFile]
    links: list[RunLink]
    deliveries: list[NotificationDetails]
    events: list[RunEvent]
    evidence: list[JsonObject]

    @property
    def is_scheduled(self) -> bool:
        """Return whether a schedule started the run. Any other run was requested."""
        return triggers.of(self.run.trigger).by_schedule


async def show(ref: str) -> RunLife:
    """Return the life of one run. ``ref`` is its id or a unique id prefix. Works without Prefect.

    Raise `NotFound`, `Ambiguous`.
    """
    async with open_ledger() as ledger, ledger.read() as session:
        row, job = await authorization.find_run(session, ref)
        attempts, so_far = await _attempts(session, row, ledger.now())
        step_rows = await steps.of_run(session, row.id)
        partial = await steps.partial_answers(session, [row])
        files = await run_files.find(session, row.id)
        links = [link for find in loaded("run_links") for link in await find(session, row.id)]
        asked = [Approval.of(each) for each in await approvals.of_run(session, row.id)]
        rows = await deliveries.list_for_run(session, row.id)
        alerts = await deliveries.alert_statuses(session, [row.id])
        sent = [NotificationDetails.of(each, job, paused_until=None) for each in rows]
    made = [Step.of(each) for each in step_rows]
    return RunLife(
        run=ListedRun.of(row, job, alert=alerts.get(row.id), **so_far),
        parameters=row.parameters,
        deployment_id=job.deployment_id if job else None,
        tokens=row.tokens,
        attempts=attempts,
        steps=made,
        partial_answer=partial.get(row.id, ""),
        approvals=asked,
        tools=steps.tools_of(step_rows),
        sources=sources.of_steps(made),
        files=files,
        links=links,
        deliveries=sent,
        events=events_of(row, attempts, sent, asked),
        evidence=row.evidence,
    )


async def _attempts(
    session: AsyncSession, row: RunRow, now: datetime
) -> tuple[list[Attempt], dict[str, object]]:
    """Return the attempts of a run, and the fields of the run that an open attempt changes."""
    of_run = select(AttemptRow).where(col(AttemptRow.run_id) == row.id, col(AttemptRow.number) > 0)
    found = (await session.execute(of_run.order_by(col(AttemptRow.number)))).scalars().all()
    if row.started_at is None or row.finished_at is not None:
        return [Attempt.of(each) for each in found], {}
    attempts = []
    for each in found:
        more = dict[str, object]()
        if each.finished_at is None:
            recorded = [step.usage for step in await steps.requests_of(session, row)]
            more = _so_far(each.started_at, now, (each.usage, *recorded))
        attempts.append(Attempt.of(each, **more))
    return attempts, _so_far(row.started_at, now, [each.usage for each in attempts])


def _so_far(
    begin: datetime, now: datetime, used: Iterable[Mapping[str, Any] | None]
) -> dict[str, object]:
    seconds = max((now - begin).total_seconds(), 0.0)  # the clock may have been set back meanwhile
    return {"duration_seconds": seconds, "usage": usage.total(used) or {}}


def events_of(
    row: RunRow,
    attempts: Sequence[Attempt],
    sent: Sequence[NotificationDetails],
    asked: Sequence[Approval] = (),
) -> list[RunEvent]:
    """Return the events of a run, earliest first."""
    found = [
        *_until_the_effect(row),
        *_of_attempts(attempts),
        *_of_approvals(asked),
        *_outcome(row),
        *_of_deliveries(sent),
    ]
    order = {id(each): number for number, each in enumerate(found)}
    return sorted(found, key=lambda each: (each.at, order[id(each)]))


def _until_the_effect(row: RunRow) -> Iterator[RunEvent]:
    is_scheduled = row.started_by.by_schedule
    if is_scheduled:
        yield RunEvent(at=row.due, kind="event", what="Due")
        if row.queued_at > row.due:
            yield RunEvent(at=row.queued_at, kind="event", what="Recorded in the ledger")
    else:
        yield RunEvent(at=row.queued_at, kind="event", what="Requested", detail=str(row.started_by))
        if row.due > row.queued_at:
            yield RunEvent(at=row.due, kind="event", what="Due")
    if row.suspected_at is not None:
        what = "The process stopped renewing its lease"
        yield RunEvent(at=row.suspected_at, kind="event", what=what, detail=row.holder)
    if row.state in LIVE and row.until is not None and not row.wait_reason.for_person:
        why = row.reason or row.waits_for
        yield RunEvent(at=row.until, kind=row.status, what="Waits until then", detail=why)


def _outcome(row: RunRow) -> Iterator[RunEvent]:
    if row.finished_at is not None:
        yield RunEvent(
            at=row.finished_at, kind=row.status, what="Outcome recorded", detail=row.reason
        )


def _of_attempts(attempts: Sequence[Attempt]) -> Iterator[RunEvent]:
    for each in attempts:
        name = "Attempt" if len(attempts) == 1 else f"Attempt {each.number}"
        yield RunEvent(at=each.started_at, kind="running", what=f"{name} started")
        if each.finished_at is not None:
            what, error = f"{name} {each.status.replace('_', ' ')}", each.error or ""
            yield RunEvent(at=each.finished_at, kind=each.status, what=what, detail=error)


def _of_approvals(asked: Sequence[Approval]) -> Iterator[RunEvent]:
    for each in asked:
        what = f"Asked for an approval of {each.tool}"
        yield RunEvent(at=each.asked_at, kind="waiting", what=what)
        if each.decided_at is not None:
            by = f" by {each.decided_by}" if each.decided_by else ""
            kind = "succeeded" if each.status == "approved" else "skipped"
            what = f"{each.tool} {each.status}{by}"
            yield RunEvent(at=each.decided_at, kind=kind, what=what, detail=each.reason)


def _of_deliveries(sent: Sequence[NotificationDetails]) -> Iterator[RunEvent]:
    for each in sent:
        what = f"{each.purpose} to {each.to}"
        yield RunEvent(at=each.created_at, kind="event", what=f"Queued {what}", detail=each.event)
        is_delivered = each.status == Delivery.DELIVERED
        if is_delivered and not each.tries and each.finished_at is not None:  # into the inbox
            yield RunEvent(at=each.finished_at, kind="succeeded", what=f"Delivered {what}")
        for number, tried in enumerate(each.tries, 1):
            # The last try of a delivered message has delivered it, whatever it reports.
            failed = bool(tried.error) and not (is_delivered and number == len(each.tries))
            yield RunEvent(
                at=tried.at,
                kind="failed" if failed else "succeeded",
                what=f"{'Tried' if failed else 'Delivered'} {what}",
                detail=tried.error or (f"try {number}" if number > 1 else ""),
            )
