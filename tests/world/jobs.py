"""Jobs of a ledger."""

from __future__ import annotations

from typing import Any

from sqlmodel import select

from daybook.jobs import store
from daybook.jobs.model import edit, new_job
from daybook.jobs.store import StoredJob
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import JobRow
from daybook.runs import outcomes


class Jobs:
    """Adds, changes and reads jobs without a check of what their users may do."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.timezone = "UTC"
        """The timezone of schedules without one."""

    async def add(
        self, name: str = "brief", owner: str = "user", *, slug: str = "", **fields: Any
    ) -> StoredJob:
        """Add a job to the ledger; hourly by default."""
        fields = {
            "prompt": "What is new?",
            **({"cron": "0 * * * *"} if not fields else {}),
            **fields,
        }
        now = self._ledger.now()
        job = new_job(now=now, default_timezone=self.timezone, name=name, **fields)
        slug = slug or (name if owner == "user" else f"{owner} {name}")
        async with self._ledger.write() as session:
            return await store.add(session, job, slug, now, owner)

    async def edit(
        self,
        ref: str,
        *,
        source: str = "daybook",
        writer: str = "",
        reason: str = "",
        **changes: Any,
    ) -> StoredJob:
        """Change the job; ``reason`` is the reason for switching it off."""
        now = self._ledger.now()
        async with self._ledger.write() as session:
            stored = await store.find(session, ref)
            job = edit(stored.job, changes, now=now)
            return await store.change(
                session, stored, job, now, source=source, writer=writer, disabled_reason=reason
            )

    async def archive(self, which: StoredJob | str) -> StoredJob:
        """Archive the job; its objects in Prefect still have to be deleted."""
        async with self._ledger.write() as session:
            ref = which if isinstance(which, str) else which.id
            found = await store.find(session, ref)
            await outcomes.archive_job(session, found, self._ledger.now())
        return found

    async def get(self, ref: str) -> StoredJob:
        """Return the job with that id, archived or not, or the live one with that name."""
        async with self._ledger.read() as session:
            return await store.get(session, ref) or await store.find(session, ref)

    async def row(self, job_id: str) -> JobRow:
        async with self._ledger.read() as session:
            row = await session.get(JobRow, job_id)
        assert row is not None
        return row

    async def ids(self) -> dict[str, str]:
        """Return the id of every job by its name, archived ones too."""
        async with self._ledger.read() as session:
            rows = (await session.execute(select(JobRow))).scalars()
            return {row.name: row.id for row in rows}
