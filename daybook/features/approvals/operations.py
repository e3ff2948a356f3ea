"""Operations on approvals: list the waiting ones, and decide.

Only the operator may use these operations. If an agent could use them, it could approve its own
calls. They work without Prefect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import Field
from sqlmodel import col, select

from daybook.api import authorization, runs
from daybook.delivery.views import RunWithSteps
from daybook.errors import Ambiguous, InvalidInput
from daybook.features.approvals import settings
from daybook.features.approvals.settings import ApprovalLinks
from daybook.ledger import references
from daybook.ledger.engine import open_ledger
from daybook.ledger.tables import OutboxRow
from daybook.ledger.views import Approval
from daybook.names import Id
from daybook.runs import approvals, claims, history

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from daybook.ledger.tables import ApprovalRow, JobRow, RunRow


class WaitingApproval(Approval, frozen=True):
    """An approval that a person can decide now, with its run and job.

    ``ref`` identifies the approval for `decide`: the first 12 characters of the run's id, a dot,
    and the approval's number. ``job`` and ``owner`` are None if the run has no job.
    """

    ref: str
    run_id: str
    job: str | None
    job_id: str | None
    agent: str | None
    owner: str | None = Field(repr=False)

    @classmethod
    def with_run(cls, row: ApprovalRow, run: RunRow, job: JobRow | None) -> Self:
        """Return the view of an approval of ``run``; ``job`` is None if the run has no job."""
        return cls(
            **dict(Approval.of(row)),
            ref=f"{run.id[:12]}.{row.number}",
            run_id=run.id,
            job=job.name if job else None,
            job_id=run.job_id,
            agent=run.agent,
            owner=job.owner if job else None,
        )


async def list_waiting() -> list[WaitingApproval]:
    """Return the waiting approvals, oldest first. Raise `InvalidInput` if the actor is an agent."""
    authorization.require_operator()
    async with open_ledger() as ledger, ledger.read() as session:
        found = await approvals.waiting(session, ledger.now())
        return [WaitingApproval.with_run(*each) for each in found]


async def decide(ref: str, *, approve: bool, reason: str = "", by: str = "") -> RunWithSteps:
    """Approve or reject the call or answer for which a run waits. Return the run, due at once.

    ``ref`` is the id of a run, a unique short id, or a job with one waiting run; a dot and a number
    name one approval of the run. ``by`` is the person who decides, by default the current user.
    Only the first decision counts.

    Raise `NotFound` and `Ambiguous`, and `InvalidInput` if the actor is an agent, ``reason`` is too
    long or has several lines, or the run has no such approval that is open: a user has decided, its
    deadline has passed, or the run has ended.
    """
    authorization.require_operator()
    async with open_ledger() as ledger:
        async with ledger.read() as session:
            run_id, number = await _find(session, ref)
        person = by or authorization.person()
        await claims.decide_approval(
            ledger, run_id, number, approve=approve, by=person, reason=reason
        )
    return await runs.show(Id(run_id))


async def decide_by_link(run_id: str, number: int, *, approve: bool, reason: str = "") -> None:
    """Approve or reject an approval for the bearer of its signed link, who has no name.

    The decision names the link and the channel that got it. Raise `NotFound`, and the errors of
    `decide`; also if the setting `approval_links` requires a login.
    """
    authorization.require_operator()
    if settings.load().approval_links is not ApprovalLinks.SIGNED:
        raise InvalidInput("link", "needs a login", "decide on the page of the run")
    async with open_ledger() as ledger:
        async with ledger.read() as session:
            key = approvals.message_key(run_id, number)
            query = select(OutboxRow.address).where(col(OutboxRow.key) == key)
            channel = (await session.execute(query)).scalar_one_or_none()
        by = f"link in {channel}" if channel else "link"
        await claims.decide_approval(ledger, run_id, number, approve=approve, by=by, reason=reason)


async def _find(session: AsyncSession, ref: str) -> tuple[str, int | None]:
    """Return the run's id and the approval's number.

    None stands for the run's newest approval. Raise `NotFound`, and `Ambiguous` if several
    approvals of the job wait.
    """
    match = await authorization.find_job_or_run(session, ref)
    if match.noun is references.RUN:
        return match.id, match.number
    found = await approvals.waiting_of_job(session, match.id)
    if len(found) > 1:
        raise Ambiguous("run", ref, [f"{each.run_id}.{each.number}" for each in found])
    if found:
        return found[0].run_id, found[0].number
    row, _ = await history.only_live(session, match.id, ref)
    return row.id, None
