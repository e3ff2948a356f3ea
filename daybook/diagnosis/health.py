"""Health of the scheduler and its metrics, for monitors that query every few seconds.

::

    request ──► queried less than `MAX_AGE_SECONDS` ago? ── yes ──► that snapshot
                 │ no
                 ▼
            one query for all requests ── within `ANSWER_TIMEOUT_SECONDS` ──► its snapshot
                 ├── too slow once ──► the snapshot of the previous query
                 └── twice in a row ──► LedgerUnreachable; the query continues, and no other starts

The query runs in a thread of its own, so neither a hanging ledger nor a thousand overdue jobs delay
a response. Two queries never run at the same time. The outcomes of a job concern the job's owner.
So a failing job is a metric, and not a problem of the scheduler.

This module does not import Prefect. A separate query checks whether Prefect answers. If Prefect
does not answer, this is a problem only after `MAX_PREFECT_SILENCE_SECONDS`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, SerializeAsAny

from daybook import feature
from daybook import home as homes
from daybook.api.overdue import DelayFacts, OverdueRun, observed_at, without_catch_up
from daybook.clock import Clock
from daybook.delivery import history
from daybook.delivery.views import OutboxHealth
from daybook.diagnosis import feature_status, findings
from daybook.diagnosis.feature_status import FeatureStatus
from daybook.diagnosis.shared_query import LoopThread, SharedQuery
from daybook.errors import DaybookError, LedgerUnreachable
from daybook.feature import features
from daybook.finding import Finding, problem
from daybook.keeper import leader_lease
from daybook.keeper.leader_lease import Leader
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Status
from daybook.runs import counts, overdue
from daybook.runs.counts import RecordedOutcome
from daybook.runs.overdue import Overdue
from daybook.timing import TIMING
from daybook.usage import COST, TOKENS

if TYPE_CHECKING:
    from prometheus_client import Metric

log = logging.getLogger(__name__)

MAX_AGE_SECONDS = 2.0
"""Maximum age of a snapshot that the monitor returns again."""
ANSWER_TIMEOUT_SECONDS = 1.5
"""Maximum time that a request waits for a query."""
PREFECT_MAX_AGE_SECONDS = 5.0
MAX_PREFECT_SILENCE_SECONDS = 10.0
"""Time for which Prefect may not answer, as during a restart of its server, without a problem."""

DUE_SOON_LIMIT = timedelta(minutes=5)
DAY = timedelta(days=1)
OUTCOME_REREAD_AGE = timedelta(seconds=30)
"""Age up to which outcomes are read again, because they are committed after their timestamps."""
MAX_FAILING_JOBS = 100
"""Maximum number of failing jobs that a snapshot names."""
MAX_DESCRIBED = 3
"""Maximum number of overdue runs that a snapshot describes."""


@dataclass(frozen=True)
class HealthSnapshot:
    """Result of one query.

    `overdue` is ``late`` without the runs that a limit delays, and without the runs of an outage
    that is over.

    ``ahead`` is the time by which the ledger's clock is ahead of this machine's clock. ``jobs``
    counts the enabled (True) and disabled jobs. ``ended`` counts the outcomes that were recorded
    after the monitor started. Of these outcomes, ``warned`` counts the successes with warnings, and
    ``used`` sums the tokens and the known costs. ``ended_last_day`` counts the outcomes of the last
    24 hours. A row for a range of due times counts once for each due time.
    """

    at: datetime
    ledger_id: str
    ahead: timedelta
    jobs: dict[bool, int]
    due_soon: int
    late: list[Overdue]
    live: dict[str, int]
    ended: dict[str, int]
    warned: int
    used: dict[str, float]
    ended_last_day: dict[str, int]
    failing: dict[str, int]
    outbox: OutboxHealth
    leader: Leader | None
    unwritable: str
    """Reason why the ledger cannot be written, or "". It is checked only while no keeper leads."""
    full_disk: Path | None = None
    """Folder of Daybook whose disk is full. None means that no disk is full."""
    of_features: tuple[Metric, ...] = ()
    """The metrics of features."""
    states: Mapping[str, FeatureStatus] = field(default_factory=dict)
    """The states of features, by the names of the features."""

    @property
    def overdue(self) -> list[Overdue]:
        found = [each for each in self.late if each.overdue_since <= self.at]
        return without_catch_up(found, self.leader, self.at)

    @property
    def has_leader(self) -> bool:
        return self.leader is not None and self.leader.leads(self.at)

    @property
    def renewed_ago(self) -> timedelta | None:
        """Return the time since the leadership was last renewed or released; None if never."""
        if self.leader is None:
            return None
        lease = TIMING.leader_lease if self.leader.holder else timedelta(0)
        return self.at - (self.leader.until - lease)

    @property
    def observed_ago(self) -> timedelta | None:
        """Return the time since the last complete observation of Prefect began; None if unknown."""
        seen = observed_at(self.leader) if self.leader else None
        return None if seen is None else self.at - seen


class LedgerHealth(BaseModel, frozen=True):
    """State of the ledger: whether it answers, its id, and the skew of its clock.

    The skew is the time by which the ledger's clock is ahead of this machine's clock.
    """

    answers: bool
    id: str | None
    clock_ahead_seconds: float | None


class KeeperHealth(BaseModel, frozen=True):
    """State of the keeper: whether a process leads, and how long ago it renewed and observed.

    ``renewed_seconds_ago`` counts from the last renewal of the leadership. If the last leader
    released the leadership, it counts from the release. ``observed_seconds_ago`` counts from the
    start of the last complete observation of Prefect.
    """

    leads: bool | None
    renewed_seconds_ago: float | None
    observed_seconds_ago: float | None


class OutboxCounts(BaseModel, frozen=True):
    """Counts of deliveries except wakes, and of the destination queues that are ``paused``."""

    pending: int
    failed: int
    paused: int


class PrefectHealth(BaseModel, frozen=True):
    """State of Prefect. ``answers`` is None if this home has no Prefect server.

    ``silent_seconds`` is the time since the first query without an answer; None if Prefect answers.
    """

    answers: bool | None
    silent_seconds: float | None = None

    @property
    def problems(self) -> list[Finding]:
        """Return the problem if Prefect has not answered for too long, otherwise []."""
        if self.silent_seconds is None or self.silent_seconds < MAX_PREFECT_SILENCE_SECONDS:
            return []
        return [findings.prefect_silent(self.silent_seconds)]


class HealthReport(BaseModel, frozen=True, extra="allow"):
    """The response of `/health`. If the ledger does not answer, its values are None.

    Further fields are the states of features, by the names of the features.
    """

    __pydantic_extra__: dict[str, SerializeAsAny[FeatureStatus] | None]

    status: Literal["ok", "failing"]
    problems: list[Finding]
    ledger: LedgerHealth
    keeper: KeeperHealth
    late: int | None
    overdue: int | None
    outbox: OutboxCounts | None
    prefect: PrefectHealth

    @classmethod
    def of(cls, snapshot: HealthSnapshot, prefect: PrefectHealth) -> Self:
        problems = [*findings_of(snapshot), *prefect.problems]
        report = cls(
            status="failing" if problems else "ok",
            problems=problems,
            ledger=LedgerHealth(
                answers=True,
                id=snapshot.ledger_id,
                clock_ahead_seconds=_seconds(snapshot.ahead),
            ),
            keeper=KeeperHealth(
                leads=snapshot.has_leader,
                renewed_seconds_ago=_seconds(snapshot.renewed_ago),
                observed_seconds_ago=_seconds(snapshot.observed_ago),
            ),
            late=len(snapshot.late),
            overdue=len(snapshot.overdue),
            outbox=OutboxCounts(
                pending=snapshot.outbox.pending,
                failed=snapshot.outbox.failed,
                paused=len(snapshot.outbox.paused),
            ),
            prefect=prefect,
        )
        return feature_status.with_states(report, snapshot.states)

    @classmethod
    def without_ledger(cls, why: str, prefect: PrefectHealth) -> Self:
        report = cls(
            status="failing",
            problems=[problem("ledger", why, "daybook doctor"), *prefect.problems],
            ledger=LedgerHealth(answers=False, id=None, clock_ahead_seconds=None),
            keeper=KeeperHealth(leads=None, renewed_seconds_ago=None, observed_seconds_ago=None),
            late=None,
            overdue=None,
            outbox=None,
            prefect=prefect,
        )
        unknown = {each.name: None for each in features() if each.status}
        return feature_status.with_states(report, unknown)


@dataclass
class _OutcomeCounter:
    """Counter of recorded outcomes. It never falls, even if runs are deleted.

    If a range of due times has grown, this counter adds only the growth. Only the last missed row
    of a job can still grow. So this counter stores that row for each job, even if the row is old,
    because the due times of a job may be weeks apart.
    """

    since: datetime
    total: Counter[str] = field(default_factory=Counter)
    warned: int = 0
    used: dict[str, float] = field(default_factory=lambda: dict.fromkeys((*TOKENS, COST), 0.0))
    known: dict[tuple[str, str], tuple[datetime, int]] = field(default_factory=dict)
    last_missed: dict[str, tuple[str, str]] = field(default_factory=dict)

    def remember(self, outcomes: Iterable[RecordedOutcome]) -> None:
        """Store ``outcomes`` without counting them."""
        for each in sorted(outcomes, key=lambda each: each.at):
            key = each.run_id, each.status
            self.known[key] = (each.at, each.count)
            if each.status == Status.MISSED and each.job_id is not None:
                self.last_missed[each.job_id] = key

    def add(self, outcomes: Collection[RecordedOutcome], now: datetime) -> None:
        """Count ``outcomes``, which were recorded at ``since`` or later."""
        for each in outcomes:
            _, counted = self.known.get((each.run_id, each.status), (each.at, 0))
            self.total[each.status] += max(0, each.count - counted)
            self.warned += each.has_warnings and not counted
            for name in self.used if not counted else ():
                value = (each.usage or {}).get(name)
                self.used[name] += value if isinstance(value, int | float) else 0
        self.remember(outcomes)
        self.since = max(self.since, now - OUTCOME_REREAD_AGE)
        can_grow = set(self.last_missed.values())
        self.known = {
            key: each
            for key, each in self.known.items()
            if each[0] >= self.since or key in can_grow
        }


class HealthMonitor:
    """Monitor of a ledger, and of Prefect's answers, for the life of a process.

    The ledger need not answer when the monitor starts: each query tries to open the ledger until
    one succeeds. Call `close` at the end. ``fresh`` is the maximum age, in seconds, of a snapshot
    that is returned again. ``patience`` is the maximum time, in seconds, that a request waits.
    ``clock`` is the clock of the `Ledger`. ``folders`` are the folders in which Daybook stores
    data.
    """

    def __init__(
        self,
        address: str,
        *,
        clock: Clock | None = None,
        fresh: float = MAX_AGE_SECONDS,
        patience: float = ANSWER_TIMEOUT_SECONDS,
        folders: Collection[Path] = (),
    ) -> None:
        for each in ("metrics", "status"):
            list(feature.loaded(each))  # import their modules now, so that the first query is fast
        self._folders = folders
        self._open_ledger: Ledger | None = None
        self._patience = patience
        self._address, self._clock, self._stack = address, clock, AsyncExitStack()
        self._due_times = overdue.DueTimeCache()
        self._outcomes: _OutcomeCounter | None = None
        self._ledger = SharedQuery(self._query_in_thread, fresh)
        self._prefect = SharedQuery(_prefect_answers, PREFECT_MAX_AGE_SECONDS)
        self._prefect_silent_since: float | None = None
        self._thread: LoopThread | None = None

    def start(self) -> None:
        """Start the first query now, because it is the slowest one."""
        self._ledger.start()

    async def close(self) -> None:
        await asyncio.gather(
            self._ledger.stop(ANSWER_TIMEOUT_SECONDS), self._prefect.stop(ANSWER_TIMEOUT_SECONDS)
        )
        if self._thread is None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
                await self._thread.cancel_all()
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_TIMEOUT_SECONDS):
                await self._thread.run(self._stack.aclose())
        await self._thread.stop(ANSWER_TIMEOUT_SECONDS)

    async def snapshot(self) -> HealthSnapshot:
        """Return a snapshot. It is at most ``fresh`` seconds old, unless the query is slow.

        Raise `LedgerUnreachable` or another `DaybookError` if there is no snapshot.
        """
        try:
            return await self._ledger.ask(self._patience)
        except DaybookError:
            raise
        except TimeoutError:
            raise LedgerUnreachable(self._place, f"no answer within {self._patience:g} s") from None
        except Exception as error:
            log.exception("could not query the ledger")
            raise LedgerUnreachable(self._place, repr(error)) from error

    async def prefect(self) -> PrefectHealth:
        try:
            answers = await self._prefect.ask(self._patience)
        except TimeoutError:
            answers = False
        if answers is not False:
            self._prefect_silent_since = None
            return PrefectHealth(answers=answers)
        now = time.monotonic()
        self._prefect_silent_since = self._prefect_silent_since or now
        silence = round(now - self._prefect_silent_since, 3)
        return PrefectHealth(answers=False, silent_seconds=silence)

    async def health(self) -> HealthReport:
        """Return the health of the scheduler. Raise no error."""
        result, prefect = await asyncio.gather(self._snapshot_or_error(), self.prefect())
        if isinstance(result, HealthSnapshot):
            return HealthReport.of(result, prefect)
        return HealthReport.without_ledger(str(result), prefect)

    async def _snapshot_or_error(self) -> HealthSnapshot | DaybookError:
        try:
            return await self.snapshot()
        except DaybookError as error:
            return error

    # --- one query

    @property
    def _place(self) -> str:
        return self._open_ledger.place if self._open_ledger else "the ledger"

    async def _query_in_thread(self) -> HealthSnapshot:
        if self._thread is None:
            self._thread = LoopThread("ledger watch")
        return await self._thread.run(self._query())

    async def _query(self) -> HealthSnapshot:
        ledger = self._open_ledger
        if ledger is None:
            ledger = await self._stack.enter_async_context(Ledger(self._address, self._clock))
            self._open_ledger = ledger
        leader = await leader_lease.read(ledger, leader_lease.LEADERSHIP_NAME)
        leads = leader is not None and leader.leads(ledger.now())
        unwritable = "" if leads else await ledger.why_unwritable()
        async with ledger.read() as session:
            now = ledger.now()
            if self._outcomes is None:
                self._outcomes = _OutcomeCounter(now)
                self._outcomes.remember(await counts.last_missed(session))
            self._outcomes.add(await counts.outcomes_since(session, self._outcomes.since), now)
            late = await overdue.find_all(session, self._due_times, now)
            found = HealthSnapshot(
                at=now,
                ledger_id=ledger.id,
                ahead=ledger.skew(),
                jobs=await counts.jobs_by_enabled(session),
                due_soon=self._due_times.count_due(now, DUE_SOON_LIMIT),
                late=late,
                live=await counts.live_by_status(session),
                ended=dict(self._outcomes.total),
                warned=self._outcomes.warned,
                used=dict(self._outcomes.used),
                ended_last_day=await counts.outcome_counts_since(session, now - DAY),
                failing=await counts.failing_jobs(session, MAX_FAILING_JOBS),
                outbox=await history.health(session, now),
                leader=leader,
                unwritable=unwritable,
                full_disk=homes.full_disk(self._folders),
            )
        return replace(
            found,
            of_features=await _metrics_of_features(ledger, found.at),
            states=await feature_status.read_all(ledger, found.at),
        )


async def _metrics_of_features(ledger: Ledger, now: datetime) -> tuple[Metric, ...]:
    """Return the metrics of all features, without those of a feature whose metrics fail."""
    from prometheus_client import Metric

    found: list[Metric] = []
    for each in features():
        if each.metrics:
            try:
                # A session of its own, because a failed query may end the transaction.
                async with ledger.read() as session:
                    read = list(await each.load(each.metrics)(session, now))
                if not all(isinstance(metric, Metric) for metric in read):
                    raise TypeError(f"{each.metrics} returned something that is no metric")
                found += read
            except Exception:  # a foreign mistake in SQL looks like an unreachable ledger
                if each.is_own:
                    raise
                log.exception("the metrics of the feature %s failed", each.name)
    return tuple(found)


def findings_of(snapshot: HealthSnapshot) -> list[Finding]:
    """Return the problems of the scheduler itself.

    Report a missing leader at once, because a monitoring system can wait before it raises an alarm.
    """
    found = []
    if not snapshot.has_leader:
        if snapshot.unwritable:
            found.append(findings.unwritable(snapshot.unwritable))
        else:
            found.append(findings.no_keeper(snapshot.leader, snapshot.at))
    found += findings.full_disk(snapshot.full_disk)
    known = DelayFacts(
        snapshot.at,
        ledger_ahead=snapshot.ahead,
        leader=snapshot.leader,
        unwritable=snapshot.unwritable,
    )
    described = [OverdueRun.of(each, known) for each in snapshot.overdue[:MAX_DESCRIBED]]
    return found + findings.late(described, len(snapshot.overdue))


def _seconds(length: timedelta | None) -> float | None:
    return None if length is None else round(length.total_seconds(), 3)


async def _prefect_answers() -> bool | None:
    """Return whether the Prefect server of this process or home answers. Return None if unknown."""
    import httpx

    running = homes.current_home().running() or {}
    address = os.environ.get("PREFECT_API_URL") or running.get("api_url")
    if not address:
        return None
    try:
        parts = urlsplit(address)
        is_local = parts.hostname in ("127.0.0.1", "localhost", "::1")
        # Without TLS, do not load the certificates of all authorities, which takes 20 ms.
        has_tls = parts.scheme == "https"
        async with httpx.AsyncClient(
            timeout=ANSWER_TIMEOUT_SECONDS, trust_env=not is_local, verify=has_tls
        ) as client:
            response = await client.get(f"{address.rstrip('/')}/health")
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError):
        # The address may also be invalid.
        return False
    return response.status_code == httpx.codes.OK
