"""One job with a due flow run at a Prefect that keeps only this run's states."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.responses import (
    OrchestrationResult,
    SetStateStatus,
    StateAcceptDetails,
    StateRejectDetails,
)
from prefect.exceptions import ObjectNotFound
from prefect.states import Scheduled
from sqlmodel import select

from daybook.clock import SYSTEM_CLOCK
from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import RunRow
from daybook.prefect import links
from daybook.runs import claim_requests, claims
from daybook.runs.claim_requests import ClaimRequest, Granted
from daybook.worker.dispatcher import Dispatcher
from daybook.worker.messages import LaunchRequest
from daybook.worker.supervision import SupervisedRun

DEPLOYMENT = UUID("5a0b21ef-5a3c-4b3e-8c1c-1d9f0c9a0003")


@dataclass
class OneRunClient:
    """Prefect client that keeps the states of one run; each new state becomes the last."""

    states: list[State[Any]]
    requests: list[str] = field(default_factory=list)
    meanwhile: Callable[[], Awaitable[None]] | None = None
    """What happens while the next state is written; that one has the earlier time, and stays."""
    refuses: bool = False
    is_deleted: bool = False
    ended: list[FlowRun] = field(default_factory=list)
    """Runs that have ended."""

    async def set_flow_run_state(self, run_id: UUID, state: State[Any], force: bool = False) -> Any:
        self.requests.append(f"set {state.name}")
        if self.is_deleted:
            raise ObjectNotFound(Exception("404"))
        if self.refuses and not force:
            return OrchestrationResult[Any](
                state=self.states[-1], status=SetStateStatus.REJECT, details=StateRejectDetails()
            )
        written = state.fresh_copy()
        if meanwhile := self.meanwhile:
            self.meanwhile = None
            await meanwhile()
        self.states.append(written)
        return OrchestrationResult[Any](
            state=self.states[-1], status=SetStateStatus.ACCEPT, details=StateAcceptDetails()
        )

    async def read_flow_run_states(self, run_id: UUID) -> list[State[Any]]:
        return list(self.states)

    async def read_flow_run(self, run_id: UUID) -> Any:
        return SimpleNamespace(state=self.states[-1])

    async def read_flow_runs(self, **_: Any) -> list[FlowRun]:
        return self.ended

    async def update_flow_run(self, run_id: UUID, name: str) -> None:
        """Accept any name."""

    async def create_logs(self, logs: Any) -> None:
        """Accept any log lines."""


@dataclass
class Starts:
    """Launcher that starts nothing, and records what it was asked to start."""

    during: Callable[[], None] = lambda: None
    """Called during each start."""
    tasks: list[LaunchRequest] = field(default_factory=list)

    async def start(self, task: LaunchRequest) -> None:
        self.tasks.append(task)
        self.during()


@dataclass
class OneJob:
    """A job with a due run, a direct call that holds a slot, and the dispatcher of a worker."""

    ledger: Ledger
    taker: Dispatcher
    prefect: OneRunClient
    starts: Starts
    watched: list[SupervisedRun]
    run: FlowRun
    held: Granted

    async def row(self) -> RunRow:
        async with self.ledger.read() as session:
            those = select(RunRow).where(RunRow.flow_run_id == str(self.run.id))
            found: RunRow = (await session.execute(those)).scalar_one()
            return found


@asynccontextmanager
async def one_job(path: Path, *, most: int = 1) -> AsyncIterator[OneJob]:
    """Open a ledger at ``path`` with ``most`` slots, of which the direct call holds one."""
    now = SYSTEM_CLOCK.now()
    due = now.replace(microsecond=0) - timedelta(seconds=1)
    state: State[Any] = Scheduled()
    run = FlowRun(
        id=uuid4(),
        flow_id=uuid4(),
        deployment_id=DEPLOYMENT,
        expected_start_time=cast(Any, due),
        state=state,
    )
    prefect, starts, watched = OneRunClient([state]), Starts(), list[SupervisedRun]()
    async with Ledger(f"sqlite+aiosqlite:///{path / 'ledger.db'}") as ledger:
        async with ledger.write() as session:
            job = new_job(now=now, name="brief", prompt="Do it", every="1h")
            stored = await store.add(session, job, "brief", now)
            await links.record_agreement(session, stored.id, str(DEPLOYMENT), None, now)
        run.parameters = stored.job.parameters()
        direct = ClaimRequest(
            claim_requests.flow_key("d"), "agent-prompt", "direct", now, "h", {"prompt": "Hi"}
        )
        held = await claims.claim(ledger, direct)
        assert isinstance(held, Granted)
        taker = Dispatcher(
            *(ledger, cast(PrefectClient, prefect), cast(Any, starts)),
            holder="here:1",
            most=most,
            free=lambda _: True,
            watch=watched.append,
        )
        yield OneJob(ledger, taker, prefect, starts, watched, run, held)
