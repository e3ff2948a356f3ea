"""The state of tasks in `daybook status` and `/health`, and what needs a person."""

from __future__ import annotations

from datetime import datetime
from typing import Self

from pydantic import PrivateAttr
from sqlalchemy.ext.asyncio import AsyncSession

from daybook.diagnosis.attention import AttentionFacts
from daybook.diagnosis.feature_status import FeatureStatus
from daybook.diagnosis.findings import sentence
from daybook.features.tasks import scheduler_operations
from daybook.features.tasks.counts import TaskCounts, read_counts
from daybook.features.tasks.pause import UNREADABLE
from daybook.features.tasks.views import TaskTotals
from daybook.finding import Finding, Severity
from daybook.ledger.engine import open_ledger


class QueueStatus(TaskTotals, FeatureStatus, frozen=True):
    """The counts of tasks and sessions, with the findings about them."""

    _findings: list[Finding] = PrivateAttr(default_factory=list)

    @classmethod
    async def read(cls, session: AsyncSession, now: datetime) -> Self:
        counts = await read_counts(session, now)
        found = cls.of(counts, now)
        found._findings.extend(diagnose(counts, now))
        return found

    def findings(self) -> list[Finding]:
        return self._findings

    def line(self) -> str:
        """Return a text such as `2 queued, 1 claimed; sessions: 1 free, 1 busy`.

        Return "" if there are neither tasks nor sessions.
        """
        live = _counted(
            ("queued", self.queued),
            ("claimed", self.claimed),
            ("needs attention", self.needs_attention),
        )
        sessions = _counted(("free", self.free), ("busy", self.busy))
        parts = [live or "none", f"sessions: {sessions}" if sessions else ""]
        return "; ".join(filter(None, parts)) if live or sessions else ""


def _counted(*counts: tuple[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in counts if count)


async def needs(facts: AttentionFacts) -> list[Finding]:
    """Return the findings about tasks for the page Today."""
    return diagnose(await read_counts(facts.session, facts.now), facts.now)


async def check() -> list[Finding]:
    """Check that the task scheduler is not paused, and that no task starves or needs attention."""
    async with open_ledger() as ledger, ledger.read() as session:
        now = ledger.now()
        return diagnose(await read_counts(session, now), now)


def diagnose(counts: TaskCounts, now: datetime) -> list[Finding]:
    """Report a paused task scheduler, and tasks that starve or need attention."""
    return [
        Finding(
            check="tasks",
            severity=Severity.PROBLEM if UNREADABLE in each.what else Severity.WARNING,
            title=sentence(each.what),
            fix=each.command,
            kind="task",
        )
        for each in scheduler_operations.problems(counts, now)
    ]
