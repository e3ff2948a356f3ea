"""Report of a cycle, and the totals of all cycles. The ledger stores the totals as one fact.

Every process reads the leader's totals from this fact. Each cycle writes the totals in its
transaction; a cycle without work leaves them unchanged. If the fact cannot be read, for example
because another version wrote it, the totals start again at zero. Two of the stored values affect
later cycles: a wake up to the last rebuild prevents no other wake, and each cycle counts the
results of the wakes in `under_way`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import AwareDatetime, BaseModel, ValidationError
from pydantic import Field as PydanticField
from sqlalchemy.ext.asyncio import AsyncSession

from daybook.ledger.tables import Fact
from daybook.short_text import one_line

FACT_KEY = "tasks.statistics"
MAX_ERRORS = 10
MAX_IDS_PER_COUNTER = 50
"""Maximum number of ids stored for each counter of the last cycle.

The cycle's caller gets all ids.
"""

CUMULATIVE_COUNTERS = (
    "recovered",
    "wakes_tried",
    "wakes_succeeded",
    "wakes_failed",
    "starved",
    "spawn_requested",
    "no_match",
    "recently_notified",
    "unclaimable",
    "needs_attention",
)
"""Counters that are added up.

`no_match`, `recently_notified` and `unclaimable` count a run in each cycle that finds it in that
situation. `needs_attention` counts a run only in the cycle that marks it.
"""


class CycleSummary(BaseModel):
    """Numbers, errors and run ids of one cycle.

    ==================  ======================================================================
    pending             queued runs; each is in exactly one of: woken, no_match,
                        recently_notified, unclaimable, paused
    active              runs that a session holds
    scanned             pending, active, and runs in the state `needs_attention`
    sessions            live sessions to which the cycle compared the runs; 0 if it compared none
    recovered           runs whose lease this cycle expired
    wakes_tried         wakes that this cycle put into the outbox, or could not send
    wakes_succeeded     wakes that arrived since the last cycle
    wakes_failed        wakes that failed, were not sent in time, or could not be sent
    woken               runs that had a wake attempt
    no_match            runs whose fitting sessions are all busy, or just woken for other runs
    recently_notified   runs for which each free fitting session was woken recently
    unclaimable         runs that fit no live session
    paused              runs of paused tasks, or all runs while the scheduler is paused
    starved             starving runs that this cycle reported to Prefect
    spawn_requested     runs for which this cycle requested a worker
    needs_attention     runs that need an operator now
    ==================  ======================================================================

    ``runs`` maps counters of runs, except the first three, to run ids. ``errors`` lists failures. A
    later cycle repeats the failed steps, except events that Prefect rejected. ``at`` is the
    ledger's time (UTC).
    """

    at: AwareDatetime
    pending: int = 0
    active: int = 0
    scanned: int = 0
    sessions: int = 0
    recovered: int = 0
    wakes_tried: int = 0
    wakes_succeeded: int = 0
    wakes_failed: int = 0
    woken: int = 0
    no_match: int = 0
    recently_notified: int = 0
    unclaimable: int = 0
    paused: int = 0
    starved: int = 0
    spawn_requested: int = 0
    needs_attention: int = 0
    runs: dict[str, list[str]]
    errors: list[str]


COUNTERS = tuple(name for name in CycleSummary.model_fields if name not in ("at", "runs", "errors"))
"""Counters of a cycle, in the order of their fields."""


@dataclass
class CycleReport:
    """The report of a cycle, filled in while the cycle runs.

    `CycleSummary` explains the counters.
    """

    at: datetime
    pending: int = 0
    active: int = 0
    scanned: int = 0
    sessions: int = 0
    wakes_tried: int = 0
    wakes_succeeded: int = 0
    wakes_failed: int = 0
    marked: int = 0
    """Number of runs that this cycle marked as needing attention."""
    runs: dict[str, list[str]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def add(self, counter: str, run_id: str) -> None:
        self.runs.setdefault(counter, []).append(run_id)

    def count(self, counter: str) -> int:
        value = getattr(self, counter, None)
        return value if isinstance(value, int) else len(self.runs.get(counter, ()))

    def error(self, what: str, error: object) -> None:
        """Add the error of a step. Its text may come from another system."""
        self.errors.append(f"{what}: {one_line(error, 500) or type(error).__name__}")

    def summary(self) -> CycleSummary:
        counted = {name: self.count(name) for name in COUNTERS}
        return CycleSummary(at=self.at, runs=self.runs, errors=self.errors, **counted)


class CycleError(BaseModel):
    """An error of a cycle, and the last time it occurred."""

    at: AwareDatetime
    error: str


class Statistics(BaseModel):
    """Totals of all cycles that had work. ``totals`` has the `CUMULATIVE_COUNTERS`."""

    cycles: int = 0
    rebuilds: int = 0
    recovery_errors: int = 0
    totals: dict[str, int] = PydanticField(default_factory=dict)
    last_cycle: CycleSummary | None = None
    last_rebuild_at: AwareDatetime | None = None
    errors: list[CycleError] = PydanticField(default_factory=list)


class RebuildResult(BaseModel):
    """The result of a rebuild at the time ``at`` (UTC).

    ``pending`` and ``active`` count queued and claimed runs, and ``sessions`` counts live sessions.
    ``cleared`` counts pairs of a run and a session that may now be woken again for the run.
    """

    at: AwareDatetime
    pending: int
    active: int
    sessions: int
    cleared: int
    statistics: Statistics


class StoredStatistics(Statistics):
    """Stored totals.

    ``under_way`` are the outbox ids of wakes that no cycle has counted yet.
    """

    under_way: list[str] = PydanticField(default_factory=list)

    def note(self, at: datetime, errors: Iterable[str]) -> None:
        """Store each error once, with the last time it occurred. Keep the newest `MAX_ERRORS`."""
        new = dict.fromkeys(errors)
        others = [each for each in self.errors if each.error not in new]
        entries = [CycleError(at=at, error=each) for each in new]
        self.errors = [*others, *entries][-MAX_ERRORS:]

    def count(self, report: CycleReport) -> None:
        """Add one cycle to the totals, with the numbers of its report so far."""
        self.cycles += 1
        for name in CUMULATIVE_COUNTERS:
            more = report.marked if name == "needs_attention" else report.count(name)
            self.totals[name] = self.totals.get(name, 0) + more
        self.keep(report)
        self.note(report.at, report.errors)

    def amend(self, report: CycleReport, *, starved: int) -> None:
        """Add later results of a cycle that was already counted."""
        self.totals["starved"] = self.totals.get("starved", 0) + starved
        self.note(report.at, report.errors)
        if self.last_cycle is None or self.last_cycle.at == report.at:
            self.keep(report)

    def keep(self, report: CycleReport) -> None:
        ids = {name: ids[:MAX_IDS_PER_COUNTER] for name, ids in report.runs.items()}
        self.last_cycle = report.summary().model_copy(update={"runs": ids})


async def load(session: AsyncSession) -> StoredStatistics:
    """Return the stored totals. If they cannot be read, return empty ones."""
    fact = await session.get(Fact, FACT_KEY, populate_existing=True)
    try:
        return StoredStatistics.model_validate_json(fact.value) if fact else StoredStatistics()
    except ValidationError:
        return StoredStatistics()


async def store(session: AsyncSession, statistics: StoredStatistics) -> None:
    """Store the totals, in the transaction of ``session``."""
    await session.merge(Fact(key=FACT_KEY, value=statistics.model_dump_json()))


async def read(session: AsyncSession) -> Statistics:
    """Return the totals, with 0 for counters that have no total yet."""
    stored = await load(session)
    stored.totals = {name: stored.totals.get(name, 0) for name in CUMULATIVE_COUNTERS}
    return Statistics.model_validate(dict(stored))
