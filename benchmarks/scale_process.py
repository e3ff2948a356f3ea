"""A process that measures one ledger for `benchmarks.scale`: one turn for each line that it reads.

It prints a line of JSON: the seconds of each part, and the memory of this process in bytes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

import httpx
from sqlmodel import select

from benchmarks import usage
from benchmarks.pages import no_health
from daybook.api import jobs, run_lists
from daybook.delivery import outbox, sending
from daybook.diagnosis import status
from daybook.jobs import store
from daybook.keeper import alerts, auditor, retention
from daybook.ledger.engine import Ledger, open_ledger
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import JobRow
from daybook.processes import garbage
from daybook.runs import claims, counts, leases
from daybook.runs.claim_requests import ClaimRequest, Granted
from daybook.web import login, pages

Part = Callable[[], Awaitable[object]]
_numbers = count(1)


@dataclass
class Parts:
    """What is measured in a ledger, with the state of a keeper that has run for a while."""

    ledger: Ledger
    job_id: str
    audited: auditor.AuditorState = field(default_factory=auditor.AuditorState)
    alerts: alerts.AlertState = field(default_factory=alerts.AlertState)
    job_ids: list[str] = field(default_factory=list)

    def all(self, browser: httpx.AsyncClient) -> dict[str, Part]:
        get = browser.get
        return {
            "keeper: is a run open": self.open_runs,
            "keeper: lost leases": partial(leases.expire_all, self.ledger),
            "keeper: due messages": partial(sending.next_due, self.ledger, outbox.is_outgoing),
            "keeper: retention, nothing to delete": partial(retention.prune, self.ledger),
            "all jobs: keeper: audit": self.audit,
            "all jobs: keeper: alerts": partial(alerts.queue_alerts, self.ledger, self.alerts),
            "a run: request, claim, begin, finish": self.run,
            "`runs --limit 50`": run_lists.recent,
            "`list --limit 20`": partial(jobs.list_jobs, limit=20),
            "all jobs: `list`": jobs.list_jobs,
            "all jobs: `status`": status.status,
            "all jobs: Today": partial(get, "/"),
            "all jobs: Jobs": partial(get, "/jobs"),
            "a job": partial(get, f"/jobs/{self.job_id}"),
            "Runs": partial(get, "/runs"),
            "Search": partial(get, "/search?q=is+new"),
            "Callbacks": partial(get, "/callbacks"),
            "Spend": partial(get, "/spend"),
        }

    async def open_runs(self) -> None:
        async with self.ledger.read() as session:
            await counts.has_open_runs(session)

    async def audit(self) -> None:
        observed = dict.fromkeys(self.job_ids, self.ledger.now())
        while (await auditor.audit(self.ledger, observed, memory=self.audited)).left:
            pass

    async def run(self) -> None:
        async with self.ledger.read() as session:
            stored = await store.get(session, self.job_id)
        assert stored is not None
        row = await claims.request(self.ledger, stored, f"scale-{next(_numbers)}", "manual")
        assert row.due is not None
        request = ClaimRequest(
            row.occurrence, row.kind, row.trigger, row.due, "scale", job_id=self.job_id, most=4
        )
        granted = await claims.claim(self.ledger, request)
        assert isinstance(granted, Granted), granted
        await claims.begin(self.ledger, granted.run_id, granted.fence)
        outcome = Outcome(Status.SUCCEEDED, output="An answer.")
        await claims.finish(self.ledger, granted.run_id, granted.fence, outcome)


async def main() -> None:
    garbage.settle()  # as the processes of `daybook up` do after their start
    logging.disable(logging.ERROR)  # the processes of a home are missing
    async with open_ledger() as ledger:
        async with ledger.read() as session:
            job_ids = list((await session.execute(select(JobRow.id))).scalars())
        application = pages.application(no_health, ledger)
        server: Any = login.protect(application, 4280)
        transport = httpx.ASGITransport(server, client=None)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as browser:
            await browser.get(server.new_link())
            parts = Parts(ledger, job_ids[0], job_ids=job_ids)
            while await asyncio.to_thread(sys.stdin.readline):
                print(json.dumps(await _turn(parts.all(browser))), flush=True)
        await application.state.site.close()


async def _turn(parts: dict[str, Part]) -> dict[str, float]:
    found = dict[str, float]()
    for label, part in parts.items():
        begun = time.perf_counter()
        result = await part()
        found[label] = time.perf_counter() - begun
        if isinstance(result, httpx.Response):
            result.raise_for_status()
    return found | {"memory": usage.memory(os.getpid())}


if __name__ == "__main__":
    asyncio.run(main())
