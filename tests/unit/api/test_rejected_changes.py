"""A change that Prefect rejects leaves the job as it was."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from daybook.api import jobs
from daybook.errors import InvalidInput
from daybook.home import Home
from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.ledger.engine import open_ledger
from daybook.prefect import client


@pytest.fixture(autouse=True)
def rejecting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace Prefect by one that answers, and that rejects every deployment."""

    async def answers(_: Any) -> None:
        """Answer the check of the connection."""

    async def rejects(*_: Any) -> None:
        raise InvalidInput("job", "Prefect rejected it: 422")

    monkeypatch.setattr(client, "check_connection", answers)
    monkeypatch.setattr(jobs, "_deploy", rejects)


@pytest.mark.parametrize("enabled", [True, False])
async def test_a_rejected_pause_or_resume_leaves_the_job_as_it_was(
    daybook_home: Home, *, enabled: bool
) -> None:
    async with open_ledger() as ledger:
        now = ledger.now()
        job = new_job(now=now, name="brief", prompt="Hello?", every="1h", enabled=enabled)
        kept = {
            "disabled_reason": "" if enabled else "paused: moving",
            "snoozed_until": now + timedelta(days=1),
            "consecutive_failures": 3,
        }
        async with ledger.write() as session:
            stored = await store.add(session, job, "brief", now)
            stored.row.sqlmodel_update(kept)
        with pytest.raises(InvalidInput, match="Prefect rejected it"):
            await (jobs.pause if enabled else jobs.resume)("brief")
        async with ledger.read() as session:
            after = await store.find(session, "brief")
        assert after.job == stored.job
        assert {name: getattr(after.row, name) for name in kept} == kept
