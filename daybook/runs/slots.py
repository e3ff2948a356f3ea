"""Slots: limits on runs in progress, and the order in which waiting runs get free slots.

::

    held = runs that a process holds     free = the limit - held
    ahead = runs that wait for a slot, were due earlier, and should claim now or later
    overdue = runs that wait for a slot, were due earlier, and should have claimed more than
              `SLOT_CLAIM_TIMEOUT`, but at most `MAX_RETRY_INTERVAL` ago
    reserved = the smaller of ahead and free - overdue, but at least 0

    reserved < free ──► granted                 else ──► waiting, for a slot
            └ the requesting worker is full ──► waiting, for the worker

No free slot stays reserved for a run that no process claims (promise 12: no slot stays free while
runs wait). If a run has to wait although a slot is free, its worker, unless it is full, wakes the
earlier runs (`wake_next`). From then on each earlier run has `SLOT_CLAIM_TIMEOUT` to claim. If it
does not claim, because its process, worker or deployment no longer exists or is slow, the slot goes
to a run that claims. The leading keeper also wakes runs every few seconds.

A run that waits for its worker is ahead of no other run that asks for a slot. So a worker without
room, which may be the only worker of its pool, does not block free slots for other workers. Its
worker wakes it when it has room. It also claims by itself, the later the more such runs precede it,
and when a worker starts (`workers.record`): any worker with room may start it.

A class may have a limit of its own. Then the same rules apply to the runs of the class. Of the runs
of another class, only as many count as ahead as can begin, so a run that waits for its class does
not delay other classes.

An agent may have a limit too (`wait_for_agent`). A run that waits for its agent is in no queue for
slots: it claims again every few seconds, and the run with the earliest due time goes first. So may
a label of workers (`wait_for_label`). The end of a run with the label, or of its attempt, moves the
next one to the queue for slots.

No other count of slots exists. The held rows are the used slots, so a dead process cannot lose a
slot. A direct call, which nothing schedules, uses a slot but never waits for a slot.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import ColumnElement, and_, case, func, or_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.jobs.actions import DEFAULT_AGENT
from daybook.ledger import job_kinds, triggers, waits
from daybook.ledger.column_types import valid_json
from daybook.ledger.states import HELD, Status
from daybook.ledger.tables import RunRow
from daybook.ledger.waits import WaitReason
from daybook.policies import policy
from daybook.runs.claim_requests import HAS_SESSION_KEY, ClaimRequest, agent_name

MIN_RETRY_INTERVAL = timedelta(seconds=30)
"""Delay until the first run in the queue claims again by itself; a free slot wakes it sooner."""

MAX_RETRY_INTERVAL = timedelta(minutes=5)
"""Maximum delay until a run at the end of a long queue claims again by itself."""

WORKER_RETRY_INTERVAL = timedelta(seconds=15)
"""Delay until the first of the runs that wait for room in their worker claims again by itself."""

SLOT_CLAIM_TIMEOUT = timedelta(seconds=15)
"""How long a free slot is reserved for a run that should claim now."""

AGENT_RETRY_INTERVAL = timedelta(seconds=5)
"""How long the first run in the queue of an agent waits before it claims again."""

MAX_AGENT_RETRY_INTERVAL = timedelta(minutes=1)
"""Maximum delay until a run at the end of an agent's queue claims again."""


class SlotWait(NamedTuple):
    """Decision that a run has to wait until ``until``, with the reason ``why``.

    ``free`` is True if a slot is free but reserved for a run that was due earlier, ``is_full`` if
    all slots are in use.
    """

    until: datetime
    why: str
    reason: WaitReason
    free: bool = False
    is_full: bool = False


async def wait_for_slot(
    session: AsyncSession, row: RunRow, request: ClaimRequest, now: datetime
) -> SlotWait | None:
    """Return the wait of ``row`` for a slot or for room in its worker; None if it gets a slot.

    A direct call never waits.
    """
    if row.job_id is None and row.started_by.is_direct:
        return None
    if request.most is not None:
        slots = _Slots(request.most, request.classes, await _count(session, _IS_HELD))
        name = row.policy.class_
        ahead = await _count(session, _expected_claims(now) & earlier(row))
        overdue = await _count(session, _missed_claims(now) & earlier(row)) if ahead else {}
        if why := slots.refusal(name, ahead, overdue):
            if slots.free(name) and not request.full:
                return SlotWait(now + SLOT_CLAIM_TIMEOUT, why, waits.SLOT, free=True)
            until = now + _delay(MIN_RETRY_INTERVAL, ahead, request.most)
            return SlotWait(until, why, waits.SLOT, is_full=not slots.free())
    if request.full:
        ahead = await _count(session, _WAITS_FOR_ROOM & earlier(row))
        until = now + _delay(WORKER_RETRY_INTERVAL, ahead, request.most or 1)
        return SlotWait(until, "the worker has no free slot", waits.WORKER)
    return None


def _delay(interval: timedelta, ahead: Mapping[str, int], most: int) -> timedelta:
    """Return how long a run waits for its own claim, with ``ahead`` runs before it in the queue."""
    return min(interval * (1 + sum(ahead.values()) / max(most, 1)), MAX_RETRY_INTERVAL)


async def wait_for_agent(
    session: AsyncSession, row: RunRow, request: ClaimRequest, now: datetime
) -> SlotWait | None:
    """Return the wait of ``row`` for its agent; None if the agent has no limit or is below it.

    A direct call, and a run whose kind asks no agent, never wait for an agent.

    The limit counts the other claimed and running runs that name the agent, even if a fallback
    agent answers. Runs that wait for the agent and were due earlier count too, if they should claim
    in the next `AGENT_RETRY_INTERVAL` or should have claimed in the last `SLOT_CLAIM_TIMEOUT`.
    """
    if not row.asks_agent or (row.job_id is None and row.started_by.is_direct):
        return None
    agent = agent_name(row.parameters)
    limit = request.max_per_agent.get(agent)
    if limit is None:
        return None
    given = func.coalesce(func.nullif(col(RunRow.agent), ""), DEFAULT_AGENT)
    of_agent = and_(
        col(RunRow.kind).in_(job_kinds.ASK_AGENTS),
        or_(given == agent, given.endswith(f"/{agent}", autoescape=True)),
    )
    group = _Group(
        of_agent,
        f"runs of the agent {agent}",
        waits.AGENT,
        queued=lambda each: each is waits.AGENT,
        interval=AGENT_RETRY_INTERVAL,
        max_interval=MAX_AGENT_RETRY_INTERVAL,
    )
    return await group.wait(session, row, limit, now)


async def wait_for_label(
    session: AsyncSession, row: RunRow, request: ClaimRequest, now: datetime
) -> SlotWait | None:
    """Return the wait of ``row`` for the label of its job; None if there is no limit, or if fewer
    runs with the label are active. A direct call never waits.

    The runs are counted as in `wait_for_agent`. If a run with the label ends, the next one goes to
    the queue for slots (`release_label`), so a run that waits seldom claims again by itself.
    """
    label = row.policy.worker_label
    limit = request.max_per_label.get(label) if label else None
    if limit is None or (row.job_id is None and row.started_by.is_direct):
        return None
    group = _Group(
        label == WORKER_LABEL,
        f"runs with the label {label}",
        waits.LABEL,
        queued=lambda each: each in (waits.LABEL, waits.SLOT),
        interval=MIN_RETRY_INTERVAL,
        max_interval=MAX_RETRY_INTERVAL,
    )
    return await group.wait(session, row, limit, now)


@dataclass(frozen=True)
class _Group:
    """Runs that have a limit of their own: those that match ``rows``.

    A run that waits for a reason that is ``queued`` is ahead if it was due earlier, and ``reason``
    is that of a run beyond the limit. The first run in the queue claims again after
    ``interval``, and the last one after at most ``max_interval``.
    """

    rows: ColumnElement[bool]
    noun: str
    reason: WaitReason
    queued: Callable[[WaitReason], bool]
    interval: timedelta
    max_interval: timedelta

    async def wait(
        self, session: AsyncSession, row: RunRow, limit: int, now: datetime
    ) -> SlotWait | None:
        """Return the wait of ``row`` for the group; None if fewer runs are active."""
        others = self.rows & (col(RunRow.id) != row.id)
        held = sum((await _count(session, _IS_HELD & others)).values())
        waiting = and_(
            col(RunRow.status) == Status.WAITING,
            col(RunRow.waits_for).in_(waits.names(self.queued)),
            self.rows,
            earlier(row),
        )
        if held >= limit:
            before = sum((await _count(session, waiting)).values())
            delay = min(self.interval * (1 + before / limit), self.max_interval)
            why = f"{held} of {limit} {self.noun} are active"
            return SlotWait(now + delay, why, self.reason)
        soon = and_(
            waiting,
            col(RunRow.until) >= now - SLOT_CLAIM_TIMEOUT,
            col(RunRow.until) <= now + AGENT_RETRY_INTERVAL,
        )
        first = sum((await _count(session, soon)).values())
        if held + first < limit:
            return None
        why = _full_text(held, limit, self.noun, first)
        return SlotWait(now + AGENT_RETRY_INTERVAL, why, self.reason)


async def wake_next(
    session: AsyncSession,
    now: datetime,
    most: int,
    classes: Mapping[str, int],
    *,
    at_hand: Collection[str] = (),
    after: timedelta | None = None,
    choose: Callable[[list[RunRow]], list[RunRow]] = lambda rows: rows,
) -> list[RunRow]:
    """Wake the next runs for the free slots, so that they claim now; return the woken runs.

    ``at_hand`` is as in `next_up`. With ``after``, leave out runs whose `until` passed less than
    ``after`` ago, because they may just have been woken. Of the next runs, ``choose`` returns those
    to wake.
    """
    woken = list[RunRow]()
    for row in choose(await next_up(session, now, most, classes, at_hand)):
        until = row.until or now
        if after is not None and now - after < until <= now:
            continue
        if until > now:
            row.until = now
            session.add(row)
        woken.append(row)
    return woken


async def next_up(
    session: AsyncSession,
    now: datetime,
    most: int,
    classes: Mapping[str, int],
    at_hand: Collection[str] = (),
) -> list[RunRow]:
    """Return the runs that wait for a slot, at most as many as slots are free, in `ORDER`.

    Add up to the same number of runs that wait for room in a worker and whose Prefect runs are in
    ``at_hand``: the caller can start them. Leave out runs that should have claimed a slot more than
    `SLOT_CLAIM_TIMEOUT` ago. ``most`` is the limit for all runs, ``classes`` has limits of single
    classes.
    """
    waiting = select(RunRow.id).where(
        col(RunRow.status) == Status.WAITING,
        WAITS_FOR_SLOT,
    )
    if (await session.execute(waiting.limit(1))).first() is None:
        return []  # nearly always, no run waits
    slots = _Slots(most, classes, await _count(session, _IS_HELD))
    if not slots.free():
        return []
    runs: list[RunRow] = []
    free_by_class = [(_CLASS.in_([name]), slots.free(name)) for name in classes]
    queues = [_expected_claims(now)]
    if at_hand:
        queues.append(_WAITS_FOR_ROOM & col(RunRow.flow_run_id).in_(at_hand))
    for queue in queues:
        batch: list[RunRow] = []
        for of_kind, free in [*free_by_class, (_CLASS.not_in(classes), slots.free())]:
            first = select(RunRow).where(queue, of_kind).order_by(*ORDER)
            batch += (await session.execute(first.limit(free))).scalars()
        runs += sorted(batch, key=order_key)[: slots.free()]
    return sorted(runs, key=order_key)


@dataclass(frozen=True)
class _Slots:
    """The limits, and the number of held runs of each class."""

    most: int
    classes: Mapping[str, int]
    held: Mapping[str, int]

    def free(self, name: str = "") -> int:
        """Return how many more runs may begin, in total or, with ``name``, of that class."""
        free = self.most - sum(self.held.values())
        if name in self.classes:
            free = min(free, self.classes[name] - self.held.get(name, 0))
        return max(free, 0)

    def _reserved(self, name: str, ahead: Mapping[str, int], overdue: Mapping[str, int]) -> int:
        """Return how many of the free slots are reserved for runs of the class ``name``."""
        return min(ahead.get(name, 0), max(self.free(name) - overdue.get(name, 0), 0))

    def refusal(self, name: str, ahead: Mapping[str, int], overdue: Mapping[str, int]) -> str:
        """Return why a run of class ``name`` gets no slot; "" if it gets a slot.

        ``ahead`` and ``overdue`` are counts of runs by class, as in the module's diagram.
        """
        before = sum(self._reserved(each, ahead, overdue) for each in ahead)
        all_held = sum(self.held.values())
        if all_held + before >= self.most:
            return _full_text(all_held, self.most, "runs", sum(ahead.values()))
        if name not in self.classes:
            return ""
        held, limit = self.held.get(name, 0), self.classes[name]
        if held + self._reserved(name, ahead, overdue) < limit:
            return ""
        return _full_text(held, limit, f"{name} runs", ahead.get(name, 0))


def _full_text(held: int, most: int, kind: str, ahead: int) -> str:
    waiting = f", and {ahead} due earlier are waiting" if held < most else ""
    return f"{held} of {most} {kind} are active{waiting}"


async def release_slot(session: AsyncSession, ended: RunRow, now: datetime) -> None:
    """Move the next run of the job of ``ended`` to the queue for slots.

    `outcomes.record` calls this function at the end of each run. A moved run is then among the
    woken runs, so no run of another job that was due later gets the slot. While a process holds
    another run of the job, the job's next run stays.
    """
    if ended.job_id is None:
        return
    of_job = and_(col(RunRow.job_id) == ended.job_id, col(RunRow.id) != ended.id)
    if not await _exists(session, of_job & _IS_HELD):
        await _move_next(session, of_job, lambda each: each.ends_with_run, now)


async def release_label(session: AsyncSession, row: RunRow, now: datetime) -> None:
    """Move the next run with the label of ``row``, which had a place in it, to the slot queue."""
    if label := row.policy.worker_label:
        await _move_next(session, label == WORKER_LABEL, lambda each: each is waits.LABEL, now)


async def release_session(session: AsyncSession, row: RunRow, now: datetime) -> None:
    """Move the next message of the session of ``row`` to the queue for slots.

    Do nothing while a process holds another run of the session, or another message has its turn.
    Only the messages that a worker executes are moved: any other run of a session claims again
    every few seconds.
    """
    if row.session_id is None:
        return
    others = others_of_session(row)
    messages = HAS_SESSION_KEY & (col(RunRow.status) == Status.WAITING)
    waits_for_session = col(RunRow.waits_for) == waits.SESSION.name
    if not await _exists(session, others & messages & waits_for_session):
        return
    has_turn = messages & WAITS_FOR_SLOT
    if not await _exists(session, others & (_IS_HELD | has_turn)):
        await _move_next(session, others & HAS_SESSION_KEY, lambda each: each is waits.SESSION, now)


def others_of_session(row: RunRow) -> ColumnElement[bool]:
    """Return the condition for the other runs of the session of ``row``."""
    return and_(col(RunRow.session_id) == row.session_id, col(RunRow.id) != row.id)


async def _exists(session: AsyncSession, which: ColumnElement[bool]) -> bool:
    found = await session.execute(select(RunRow.id).where(which).limit(1))
    return found.first() is not None


async def _move_next(
    session: AsyncSession,
    which: ColumnElement[bool],
    queued: Callable[[WaitReason], bool],
    now: datetime,
) -> None:
    """Move the first of these runs that waits for a reason ``queued`` to the queue for slots."""
    waiting = select(RunRow).where(
        which, col(RunRow.status) == Status.WAITING, col(RunRow.waits_for).in_(waits.names(queued))
    )
    next_run: RunRow | None = (
        await session.execute(waiting.order_by(*ORDER).limit(1))
    ).scalar_one_or_none()
    if next_run is not None:
        next_run.waits_for = waits.SLOT.name
        next_run.until, next_run.reason = now, "it is its turn"
        session.add(next_run)


_BACKFILLS_LAST = case((col(RunRow.trigger) == triggers.BACKFILL.name, 1), else_=0)
ORDER = (_BACKFILLS_LAST, col(RunRow.due), col(RunRow.queued_at), col(RunRow.id))
"""The order in which waiting runs get slots: by due time, with all backfills last."""


def order_key(row: RunRow) -> tuple[bool, datetime, datetime, str]:
    """Return the sort key of ``row`` in `ORDER`."""
    return row.started_by.is_backfill, row.due, row.queued_at, row.id


_IS_HELD = col(RunRow.status).in_(HELD)
_WAITS_FOR_ROOM = and_(
    col(RunRow.status) == Status.WAITING, col(RunRow.waits_for) == waits.WORKER.name
)
WAITS_FOR_SLOT = col(RunRow.waits_for).in_(waits.names(lambda each: each.for_slot))
"""The condition for runs whose wait a free slot may end, if they still wait."""
_PARAMETERS = valid_json(col(RunRow.parameters))
WORKER_LABEL = _PARAMETERS[("policy", "worker_label")].as_string()
_CLASS = func.coalesce(_PARAMETERS[("policy", "class")].as_string(), policy.Policy().class_)


async def _count(session: AsyncSession, which: ColumnElement[bool]) -> dict[str, int]:
    """Return how many runs of each class match ``which``."""
    counted = select(_CLASS, func.count()).where(which).group_by(_CLASS)
    return {str(name): count for name, count in (await session.execute(counted)).all()}


def _expected_claims(now: datetime) -> ColumnElement[bool]:
    """Return the condition for runs whose claim is expected (``ahead`` in the diagram)."""
    return and_(
        col(RunRow.status) == Status.WAITING,
        col(RunRow.waits_for) == waits.SLOT.name,
        col(RunRow.until) >= now - SLOT_CLAIM_TIMEOUT,
    )


def has_label(labels: Collection[str]) -> ColumnElement[bool]:
    """Return the condition for runs that have none but one of these labels of workers."""
    return or_(WORKER_LABEL.is_(None), WORKER_LABEL.in_(("", *labels)))


def _missed_claims(now: datetime) -> ColumnElement[bool]:
    """Return the condition for runs that missed their claim (``overdue`` in the diagram)."""
    return and_(
        col(RunRow.status) == Status.WAITING,
        col(RunRow.waits_for) == waits.SLOT.name,
        col(RunRow.until) < now - SLOT_CLAIM_TIMEOUT,
        col(RunRow.until) >= now - MAX_RETRY_INTERVAL,
    )


def earlier(row: RunRow) -> ColumnElement[bool]:
    """Return the condition for runs that come before ``row`` in `ORDER`."""
    after, due, queued_at, number = ORDER
    place = int(row.started_by.is_backfill)
    of_time = or_(
        due < row.due,
        and_(due == row.due, queued_at < row.queued_at),
        and_(due == row.due, queued_at == row.queued_at, number < row.id),
    )
    return or_(after < place, and_(after == place, of_time))
