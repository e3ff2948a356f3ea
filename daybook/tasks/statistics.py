"""What the cycles did, kept in the ledger as one fact, so that whoever asks sees the leader's.

Written in the transaction of each cycle; a cycle that had nothing to do leaves it as it is. What
cannot be read, such as another version's, is begun anew: nothing is decided by it but when wakes
were forgotten.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import AwareDatetime, BaseModel, ValidationError
from pydantic import Field as Kept
from sqlalchemy.ext.asyncio import AsyncSession

from daybook.errors import one_line
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import Fact

FACT = "tasks.statistics"
ERRORS_KEPT = 10
IDS_KEPT = 50
"""Of each counter of the last cycle so many ids are kept; who asks for a cycle is told all."""

COUNTERS = (
    "pending",
    "active",
    "scanned",
    "recovered",
    "wakes_tried",
    "wakes_succeeded",
    "wakes_failed",
    "woken",
    "no_match",
    "recently_notified",
    "unclaimable",
    "paused",
    "starved",
    "spawn_requested",
    "needs_attention",
)
"""What a cycle counts, in this order."""
ADDED_UP = (
    "recovered",
    "wakes_tried",
    "wakes_succeeded",
    "wakes_failed",
    "starved",
    "spawn_requested",
)
"""Those that happen; the others say how it is."""


@dataclass
class Report:
    """What one cycle saw and did.

    ==================  ======================================================================
    pending             queued runs. Each of them is in one of: woken, no_match,
                        recently_notified, unclaimable, paused
    active              runs that a session holds
    scanned             pending, active, and those whose status is `needs_attention`
    recovered           their lease was over, and was taken back by this cycle
    wakes_tried         wakes that were asked for, or could not be for want of a way
    wakes_succeeded     wakes that arrived since the last cycle
    wakes_failed        that did not, or were not sent in time, or had no way
    woken               runs for which a wake was tried
    no_match            a session would fit, and has something else to do
    recently_notified   all sessions that fit were woken for it a moment ago
    unclaimable         no session would fit that is there
    paused              runs of tasks that are, or all of them where the scheduler is
    starved             runs of which Prefect was told so, by this cycle
    spawn_requested     runs for which a worker was asked for, by this cycle
    needs_attention     runs at which somebody should look now
    ==================  ======================================================================

    ``runs`` has the ids to those counters that are of runs, ``errors`` what failed and is tried
    again. ``at`` is the ledger's time.
    """

    at: datetime
    pending: int = 0
    active: int = 0
    scanned: int = 0
    wakes_tried: int = 0
    wakes_succeeded: int = 0
    wakes_failed: int = 0
    runs: dict[str, list[str]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def add(self, counter: str, run_id: str) -> None:
        self.runs.setdefault(counter, []).append(run_id)

    def count(self, counter: str) -> int:
        found = getattr(self, counter, None)
        return found if isinstance(found, int) else len(self.runs.get(counter, ()))

    def error(self, what: str, error: object) -> None:
        """One that is tried again; its words may be somebody else's."""
        self.errors.append(f"{what}: {one_line(error, 500) or type(error).__name__}")

    def as_json(self) -> dict[str, Any]:
        """The counters by name, `at`, `runs` and `errors`."""
        counted: dict[str, Any] = {name: self.count(name) for name in COUNTERS}
        return {"at": self.at.isoformat(), **counted, "runs": self.runs, "errors": self.errors}


class Statistics(BaseModel):
    """What is kept. ``under_way`` are the wakes whose end no cycle has counted."""

    cycles: int = 0
    rebuilds: int = 0
    recovery_errors: int = 0
    totals: dict[str, int] = Kept(default_factory=dict)
    last_cycle: dict[str, Any] | None = None
    last_rebuild_at: AwareDatetime | None = None
    errors: list[dict[str, str]] = Kept(default_factory=list)
    under_way: list[str] = Kept(default_factory=list)

    def note(self, at: datetime, errors: Iterable[str]) -> None:
        """What fails again and again is kept once, with its last time."""
        new = dict.fromkeys(errors)
        others = [each for each in self.errors if each.get("error") not in new]
        told = [{"at": at.isoformat(), "error": each} for each in new]
        self.errors = [*others, *told][-ERRORS_KEPT:]

    def count(self, report: Report) -> None:
        """One more cycle, as far as its report goes by now."""
        self.cycles += 1
        for name in ADDED_UP:
            self.totals[name] = self.totals.get(name, 0) + report.count(name)
        self.keep(report)
        self.note(report.at, report.errors)

    def amend(self, report: Report, *, starved: int) -> None:
        """What the cycle of this report, which is counted, did after that."""
        self.totals["starved"] = self.totals.get("starved", 0) + starved
        self.note(report.at, report.errors)
        if self.last_cycle is None or self.last_cycle["at"] == report.at.isoformat():
            self.keep(report)

    def keep(self, report: Report) -> None:
        told = report.as_json()
        told["runs"] = {name: ids[:IDS_KEPT] for name, ids in report.runs.items()}
        self.last_cycle = told


async def load(session: AsyncSession) -> Statistics:
    """What is kept; nothing where it cannot be read."""
    fact = await session.get(Fact, FACT, populate_existing=True)
    try:
        return Statistics.model_validate_json(fact.value) if fact else Statistics()
    except ValidationError:
        return Statistics()


async def store(session: AsyncSession, statistics: Statistics) -> None:
    """Keep it."""
    await session.merge(Fact(key=FACT, value=statistics.model_dump_json()))


async def read(session: AsyncSession) -> dict[str, Any]:
    """`cycles` (those that had something to do), `rebuilds`, `recovery_errors`, `totals` (of
    `ADDED_UP`), `last_cycle` (a `Report` as JSON, or None), `last_rebuild_at`, and the last
    `errors`, `{"at", "error"}`.
    """
    kept = await load(session)
    kept.totals = {name: kept.totals.get(name, 0) for name in ADDED_UP}
    found: dict[str, Any] = json.loads(kept.model_dump_json(exclude={"under_way"}))
    return found


async def rebuild(ledger: Ledger) -> dict[str, Any]:
    """Forget who was woken a moment ago; what the ladder has counted and done is kept.

    Returns what `read` gives.
    """
    async with ledger.write() as session:
        kept = await load(session)
        kept.rebuilds, kept.last_rebuild_at = kept.rebuilds + 1, ledger.now()
        await store(session, kept)
        return await read(session)
