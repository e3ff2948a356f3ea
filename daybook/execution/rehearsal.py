"""Rehearsal of a run in the ledger, in one transaction that is rolled back.

The parent of the runs' processes rehearses a run once, so that its children inherit the compiled
statements of the ledger: otherwise each child compiles some forty of them, for a fifth of its CPU.
Nothing of a rehearsal is ever stored, whenever its process dies.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncSession

from daybook.delivery import history
from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.ledger import triggers
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Outcome, Status
from daybook.runs import claims, rows, steps
from daybook.runs.claim_requests import ClaimRequest, Granted

NAME = "rehearsal-7f0e4c52"
"""Name of the job of a rehearsal, which no other transaction sees."""
MAX_WAIT = timedelta(seconds=1)
"""How long a rehearsal waits for the claim lock."""


class _Undone(Exception):
    """Rolls the rehearsal back."""


class _Stage(Ledger):
    """A ledger all of whose transactions are parts of the one transaction ``session``."""

    def __init__(self, ledger: Ledger, session: AsyncSession) -> None:
        self.address, self.clock, self.id = ledger.address, ledger.clock, ledger.id
        self.loop, self._session = ledger.loop, session

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        yield self._session
        self._session.expunge_all()  # the next transaction reads its rows again

    @asynccontextmanager
    async def write(self, within: timedelta | None = None) -> AsyncIterator[AsyncSession]:
        yield self._session
        await self._session.flush()
        self._session.expunge_all()


async def rehearse(ledger: Ledger) -> None:
    """Rehearse a run of an agent's job. Raise the errors of `Ledger.write`."""
    with suppress(_Undone):
        async with ledger.write(within=MAX_WAIT) as session:
            await _rehearse(_Stage(ledger, session))
            raise _Undone


async def _rehearse(stage: Ledger) -> None:
    now = stage.now()
    job = new_job(now=now, name=NAME, prompt="Rehearse", on_demand=True)
    async with stage.write() as session:
        stored = await store.add(session, job, NAME, now, names_are_checked=True)
    requested = await claims.request(stage, stored, NAME, triggers.MANUAL.name)
    granted = await claims.claim(
        stage,
        ClaimRequest(
            requested.occurrence,
            requested.kind,
            requested.trigger,
            requested.due,
            NAME,
            job.parameters(),
            job_id=stored.id,
            flow_run_id=NAME,
        ),
    )
    if not isinstance(granted, Granted):
        return
    await claims.read_grant(stage, granted.run_id, granted.fence)
    await claims.begin(stage, granted.run_id, granted.fence)
    done = Outcome(Status.SUCCEEDED, output="done", prompt="Rehearse")
    await claims.finish(stage, granted.run_id, granted.fence, done)
    async with stage.read() as session:
        await rows.get(session, granted.run_id)
        await history.list_for_run(session, granted.run_id)
        await steps.of_run(session, granted.run_id)
        await store.get(session, stored.id)
