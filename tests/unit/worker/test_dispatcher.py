"""The order in which a worker claims runs that are due at the same time."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import FlowRun

from daybook.clock import SYSTEM_CLOCK
from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.ledger.engine import Ledger
from daybook.prefect import links, occurrence
from daybook.runs.claim_requests import ClaimRequest, HeldElsewhere
from daybook.worker.dispatcher import Dispatcher

pytestmark = pytest.mark.anyio

DEPLOYMENT = UUID("5a0b21ef-5a3c-4b3e-8c1c-1d9f0c9a0003")
NOT_ASKED = cast(Any, None)
"""Prefect and the parent of the runs: each claim here is another worker's already."""


class Asking(Dispatcher):
    """Dispatcher that records the runs in the order of their claims."""

    claimed: list[UUID]

    async def _claim(self, run: FlowRun, claim_request: ClaimRequest) -> HeldElsewhere:
        self.claimed.append(run.id)
        return HeldElsewhere(run.name, "there:1", str(run.id))

    async def _name_run(self, run: FlowRun, job_id: str) -> None:
        """Do nothing, as there is no Prefect server."""


async def test_the_earliest_run_is_claimed_first_although_its_request_takes_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = SYSTEM_CLOCK.now().replace(microsecond=0)
    runs = [
        FlowRun(
            id=uuid4(),
            flow_id=uuid4(),
            deployment_id=DEPLOYMENT,
            auto_scheduled=True,
            expected_start_time=cast(Any, now + timedelta(seconds=number)),
        )
        for number in range(2)
    ]
    later_asked, plain = asyncio.Event(), occurrence.build_claim_request

    async def slow_for_the_first(
        ledger: Ledger, run: FlowRun, *given: Any, **named: Any
    ) -> ClaimRequest:
        if run.id == runs[0].id:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.2):
                    await later_asked.wait()
        found = await plain(ledger, run, *given, **named)
        if run.id == runs[1].id:
            later_asked.set()
        return found

    monkeypatch.setattr(occurrence, "build_claim_request", slow_for_the_first)
    async with Ledger(f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}") as ledger:
        async with ledger.write() as session:
            job = new_job(now=now, name="often", prompt="Do it", every="1s")
            stored = await store.add(session, job, "often", now)
            await links.record_agreement(session, stored.id, str(DEPLOYMENT), None, now)
        taker = Asking(
            *(ledger, NOT_ASKED, NOT_ASKED),
            holder="here:1",
            most=4,
            free=lambda: True,
            watch=lambda watched: None,
        )
        taker.claimed = []
        assert await asyncio.gather(*map(taker.dispatch, runs)) == [True, True]
    assert taker.claimed == [each.id for each in runs]
