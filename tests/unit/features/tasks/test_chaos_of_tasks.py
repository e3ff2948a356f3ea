"""Random interleavings of all operations on task runs: never two holders, never a lost run.

A model of the queue predicts the result of each operation: which session gets which run, which
token is refused, which leases a sweep expires. After each step the ledger equals the model, and the
numbers of its events add up. There are two kinds of crash: a committed write whose answer was lost,
and a process that died before its transaction was committed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, delete, select

from daybook.errors import NothingClaimable, TokenRefused
from daybook.features.tasks import claims, queue, sessions
from daybook.features.tasks import lease_expiry as sweep
from daybook.features.tasks import model as tasks
from daybook.features.tasks import pause as switch
from daybook.features.tasks.policy import DEFAULTS, SchedulerPolicy
from daybook.features.tasks.tables import TaskEventRow, TaskRow, TaskRunRow, TaskSessionRow
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import Fact
from daybook.testing import ManualClock
from tests import databases
from tests.unit.features.tasks.model import Model, Run, Session

INSTANT = timedelta(microseconds=1)
NAMES = ("one", "two", "three", "four")
WORDS = ("dig", "sow")
ENDS = {"complete": "completed", "fail": "failed", "release": "queued"}
OPERATORS = ("the scheduler", "a task", "recover", "cancel", "retry", "retry")
SAYS = (("idle", False), ("idle", False), ("idle", True), ("active", False))
# Draws never depend on ids, which are random, so that an example can be repeated.
NAME = st.sampled_from(NAMES)
PLACE = st.sampled_from((0, 0, 0, 1, 1, 2, 3, 5, 8))
LEASE = st.sampled_from((1, 60, 3600))
NEVER = timedelta.min
LATE = st.sampled_from((NEVER, NEVER, -INSTANT, timedelta(0), INSTANT))
OFTEN = st.sampled_from((True, True, False))
FEW = st.frozensets(st.sampled_from(WORDS), max_size=1) | st.just(frozenset(WORDS))
MINUTE = timedelta(minutes=1)
HELD = {"complete": "completed", "fail": "failed", "release": "released"}


class Died(Exception):
    """A simulated kill before the commit."""


class DyingLedger(Ledger):
    """A ledger whose write transactions all fail directly before their commit."""

    @asynccontextmanager
    async def write(self, within: timedelta | None = None) -> AsyncIterator[AsyncSession]:
        async with super().write(within) as session:
            yield session
            await session.flush()
            raise Died


class Storm(RuleBasedStateMachine):
    """The state machine: one ledger, emptied for each example, and the model of it."""

    def __init__(
        self,
        portal: BlockingPortal,
        ledger: Ledger,
        dying: Ledger,
        clock: ManualClock,
        met: Counter[str],
    ) -> None:
        super().__init__()
        self.portal, self.ledger, self.dying, self.clock = portal, ledger, dying, clock
        # How often each case occurred over all examples: a case that never occurs proves nothing.
        self.met = met
        self.model = Model()
        # Each token that a claim returned, with the id of its run.
        self.tokens: list[tuple[str, str]] = []

    def call(self, act: Callable[..., Awaitable[Any]], *given: Any, **named: Any) -> Any:
        async def done() -> Any:
            return await act(*given, **named)

        return self.portal.call(done)

    def now(self) -> datetime:
        return self.clock.now()

    @initialize()
    def empty(self) -> None:
        async def clear() -> None:
            async with self.ledger.write() as session:
                for table in (TaskEventRow, TaskRunRow, TaskRow, TaskSessionRow):
                    await session.execute(delete(table))
                await session.execute(delete(Fact).where(col(Fact.key) == switch.FACT_KEY))

        self.call(clear)
        for name in NAMES[:3]:
            self.register(name, frozenset(WORDS))
        for priority in ("medium", "low", "medium", "urgent"):
            self.add(priority, frozenset())

    # --- the queue and its sessions

    @rule(priority=st.sampled_from(tasks.PRIORITIES), needs=FEW)
    def add(self, priority: str, needs: frozenset[str]) -> None:
        _, run = self.call(queue.add, self.ledger, "a task", priority=priority, capabilities=needs)
        place = tasks.PRIORITIES.index(priority)
        self.model.runs[run.id] = Run(run.id, run.task_id, place, needs, self.now())
        self.model.happened["added"] += 1

    @rule(kind=st.sampled_from(["register", "register", "remove"]), name=NAME, has=FEW)
    def a_session(self, kind: str, name: str, has: frozenset[str]) -> None:
        if kind == "remove" and name in self.model.sessions:
            self.remove(name)
        else:
            self.register(name, has)

    @rule(name=NAME, says=st.sampled_from(SAYS))
    def report(self, name: str, says: tuple[str, bool]) -> None:
        if name not in self.model.sessions:
            return
        state, prompting = says
        self.call(sessions.report, self.ledger, name, state=state, prompting=prompting)
        one = self.model.sessions[name]
        one.state, one.prompting = state, prompting
        one.expires_at = self.now() + sessions.SESSION_TIMEOUT

    def register(self, name: str, has: frozenset[str]) -> None:
        self.call(sessions.register, self.ledger, name, capabilities=has)
        self.model.sessions[name] = Session(self.now() + sessions.SESSION_TIMEOUT, has)

    def remove(self, name: str) -> None:
        self.call(sessions.remove, self.ledger, name)
        del self.model.sessions[name]
        held = self.model.held_by(name)
        if held is not None:
            held.end_claim("queued")
            held.queued_at, held.expiries = self.now(), 0
            self.model.happened["recover while held"] += 1

    # --- operations of a session

    @rule(name=NAME, seconds=LEASE, touches=OFTEN)
    def claim(self, name: str, seconds: int, touches: bool) -> None:
        if name not in self.model.sessions:
            return
        expected = self.model.claim(name, self.now())
        try:
            got = self.call(claims.claim, self.ledger, name, timedelta(seconds=seconds))
        except NothingClaimable:
            assert expected is None
            self.met["nothing claimable"] += 1
            return
        assert expected is not None, f"{name} got {got.run.id}"
        assert got.run.id == expected.id
        expected.status, expected.holder = "claimed", name
        expected.lease = timedelta(seconds=seconds)
        expected.lease_until = self.now() + expected.lease
        expected.fence += 1
        expected.token = got.token
        self.met["claim"] += 1
        self.model.happened["claimed"] += 1
        if touches:  # otherwise the answer with the token was lost
            self.tokens.append((got.run.id, got.token))

    @rule(name=NAME, seconds=LEASE, late=LATE, kind=st.sampled_from(["heartbeat", *ENDS]))
    def claim_and_act(self, name: str, seconds: int, late: timedelta, kind: str) -> None:
        """Claim, then act at once, or directly before, at or after the end of the lease."""
        self.claim(name, seconds, True)
        self.clock.move(timedelta(0) if late is NEVER else timedelta(seconds=seconds) + late)
        if self.tokens:
            run_id, token = self.tokens[-1]
            earlier = [each for id_, each in self.tokens[:-1] if id_ == run_id]
            for other in (f"{token}x", *earlier[-1:], token):
                self._act(kind, run_id, other)

    @rule(place=PLACE, kind=st.sampled_from(["heartbeat", *ENDS]), again=st.booleans())
    def act(self, place: int, kind: str, again: bool) -> None:
        """Act with any token ever returned; ``again`` repeats the call, as after a lost answer."""
        if not self.tokens:
            return
        run_id, token = self._token(place)
        for _ in range(1 + again):
            self._act(kind, run_id, token)

    def _act(self, kind: str, run_id: str, token: str) -> None:
        run = self.model.runs[run_id]
        if run.token != token or run.lease_until is None or run.lease_until <= self.now():
            with pytest.raises(TokenRefused):
                self.call(getattr(claims, kind), self.ledger, run_id, token)
            self.met[f"{kind} refused"] += 1
            return
        self.call(getattr(claims, kind), self.ledger, run_id, token)
        self.met[kind] += 1
        assert run.holder is not None
        self.model.sessions[run.holder].expires_at = self.now() + sessions.SESSION_TIMEOUT
        if kind == "heartbeat":
            run.lease_until = self.now() + run.lease
        else:
            run.end_claim(ENDS[kind])
            self.model.happened[HELD[kind]] += 1

    # --- the scheduler, the operator, and time

    @rule(limit=st.sampled_from([1, 2, DEFAULTS.sweep_limit]))
    def sweep(self, limit: int) -> None:
        over = [
            run
            for run in self.model.runs.values()
            if run.lease_until is not None and run.lease_until <= self.now()
        ]
        over.sort(key=lambda run: (run.lease_until, run.id))

        async def swept() -> list[str]:
            async with self.ledger.write() as session:
                policy = SchedulerPolicy(sweep_limit=limit)
                return [run.id for run in await sweep.expire_leases(session, self.now(), policy)]

        assert self.call(swept) == [run.id for run in over[:limit]]
        for run in over[:limit]:
            run.take_back(self.now())
            self.model.happened["expired"] += 1
            self.met["needs attention"] += run.status == "needs_attention"

    @rule(place=PLACE, by=st.sampled_from([INSTANT, MINUTE, None]))
    def wait(self, place: int, by: timedelta | None) -> None:
        """Move the clock by ``by``, or to the exact instant at which a lease or a session ends."""
        if by is not None:
            self.clock.move(by)
            return
        expiries = [run.lease_until for run in self.model.runs.values() if run.lease_until]
        expiries += [one.expires_at for one in self.model.sessions.values()]
        to_come = sorted({end for end in expiries if end > self.now()})
        if to_come:
            self.clock.set(to_come[place % len(to_come)])

    @rule(kind=st.sampled_from(OPERATORS), place=PLACE, on=OFTEN)
    def the_operator(self, kind: str, place: int, on: bool) -> None:
        runs = list(self.model.runs.values())
        run = runs[place % len(runs)]
        if kind == "the scheduler":
            self.switch(not on)
        elif kind == "a task":
            self.switch_a_task(run, not on)
        else:
            self.by_hand(run, kind)

    def switch(self, paused: bool) -> None:
        self.call(switch.pause if paused else switch.resume, self.ledger)
        self.model.paused = paused

    def switch_a_task(self, run: Run, paused: bool) -> None:
        self.call(queue.pause if paused else queue.resume, self.ledger, run.id)
        if paused:
            self.model.paused_tasks.add(run.task_id)
        else:
            self.model.paused_tasks.discard(run.task_id)

    def by_hand(self, run: Run, kind: str) -> None:
        legal = {
            "recover": {"claimed", "needs_attention"},
            "cancel": {"queued", "claimed", "needs_attention"},
            "retry": {"failed", "cancelled", "needs_attention"},
        }
        last = max(each.number for each in self.model.runs.values() if each.task_id == run.task_id)
        if run.status not in legal[kind]:
            return
        if kind == "retry" and not run.number == last < tasks.MAX_RUNS_PER_TASK:
            return
        held = run.status == "claimed"
        found = self.call(getattr(queue, kind), self.ledger, run.id)
        if kind == "retry":
            if run.status == "needs_attention":
                run.end_claim("cancelled")
            again = Run(found.id, run.task_id, run.priority, run.needs, self.now())
            again.number = run.number + 1
            self.model.runs[found.id] = again
            self.model.happened["retried"] += 1
            return
        run.end_claim("queued" if kind == "recover" else "cancelled")
        if kind == "recover":
            run.expiries, run.queued_at = 0, self.now()
        if held:
            self.model.happened[f"{kind} while held"] += 1

    # --- crashes before the commit

    @rule(kind=st.sampled_from(["claim", "sweep", "heartbeat", *ENDS]), name=NAME, place=PLACE)
    def die(self, kind: str, name: str, place: int) -> None:
        """Fail an operation before its commit; the model stays, as nothing may be written."""
        if kind == "claim":
            if name in self.model.sessions:
                # If no run is claimable, the claim may also have nothing to write.
                with pytest.raises((Died, NothingClaimable)) as caught:
                    self.call(claims.claim, self.dying, name)
                self.met["a claim died"] += caught.type is Died
            return
        if kind == "sweep":

            async def swept() -> None:
                async with self.dying.write() as session:
                    await sweep.expire_leases(session, self.now())

            with pytest.raises(Died):
                self.call(swept)
            return
        if not self.tokens:
            return
        run_id, token = self._token(place)
        if self.model.runs[run_id].token != token:
            return
        with pytest.raises((Died, TokenRefused)):
            self.call(getattr(claims, kind), self.dying, run_id, token)

    # --- invariants after each step

    @invariant()
    def the_ledger_is_what_the_model_says(self) -> None:
        async def read() -> tuple[list[TaskRunRow], list[TaskSessionRow], list[str]]:
            async with self.ledger.read() as session:
                runs = (await session.execute(select(TaskRunRow))).scalars().all()
                there = (await session.execute(select(TaskSessionRow))).scalars().all()
                events = (await session.execute(select(TaskEventRow.event))).scalars().all()
            return list(runs), list(there), list(events)

        runs, there, events = self.call(read)
        names = {row.id: row.name for row in there}
        ledger = {
            row.id: (
                row.status,
                names[row.session_id] if row.session_id else None,
                row.lease_until,
                row.queued_at,
                row.fence,
                row.expiries,
                row.number,
                row.finished_at is not None,
            )
            for row in runs
        }
        model = {
            run.id: (
                run.status,
                run.holder,
                run.lease_until,
                run.queued_at,
                run.fence,
                run.expiries,
                run.number,
                run.status in ("completed", "failed", "cancelled"),
            )
            for run in self.model.runs.values()
        }
        assert ledger == model
        assert {row.name: row.expires_at for row in there} == {
            name: one.expires_at for name, one in self.model.sessions.items()
        }
        self._no_two_holders(runs)
        self._add_up(runs, Counter(events))

    @staticmethod
    def _no_two_holders(runs: list[TaskRunRow]) -> None:
        held = [row.session_id for row in runs if row.session_id is not None]
        assert len(held) == len(set(held))
        for row in runs:
            claimed = row.status == "claimed"
            assert (row.session_id is not None) == claimed
            assert (row.token_digest is not None) == claimed
            assert (row.lease_until is not None) == claimed

    def _add_up(self, runs: list[TaskRunRow], events: Counter[str]) -> None:
        happened = self.model.happened
        for name in ("added", "retried", "claimed", "completed", "failed", "released", "expired"):
            assert events[name] == happened[name], name
        statuses = Counter(row.status for row in runs)
        assert len(runs) == happened["added"] + happened["retried"]
        assert sum(row.fence for row in runs) == happened["claimed"]
        assert (statuses["completed"], statuses["failed"]) == (
            happened["completed"],
            happened["failed"],
        )
        # Each claim has exactly one end, except those that are still held.
        event_list = ("completed", "failed", "released", "expired")
        ended = sum(happened[name] for name in (*event_list, "cancel while held"))
        recovered = happened["recover while held"]
        assert happened["claimed"] == ended + recovered + statuses["claimed"]

    # --- helpers for random choices

    def _token(self, place: int) -> tuple[str, str]:
        """Return a token and its run id; small places select the newest, often still valid."""
        return self.tokens[-1 - place % len(self.tokens)]


@pytest.mark.slow
def test_the_ledger_matches_the_model_after_random_interleavings(tmp_path: Path) -> None:
    """Run the state machine, and check that the examples covered the important cases."""
    path, clock, met = tmp_path / "ledger.db", ManualClock(), Counter[str]()
    there = databases.of_kind("sqlite", path, lambda: pytest.fail("no server"), prepared=True)
    few = settings(
        max_examples=25,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        derandomize=True,
    )
    with start_blocking_portal("asyncio") as portal:
        ledgers = (Ledger(there.address, clock), DyingLedger(there.address, clock))
        with (
            portal.wrap_async_context_manager(ledgers[0]) as ledger,
            portal.wrap_async_context_manager(ledgers[1]) as dying,
        ):

            class Here(Storm):
                def __init__(self) -> None:
                    super().__init__(portal, ledger, dying, clock, met)

            run_state_machine_as_test(Here, settings=few)

    # The examples covered these cases.
    assert met["claim"] and met["nothing claimable"] and met["a claim died"]
    for suffix in ("", " refused"):
        assert sum(met[f"{kind}{suffix}"] for kind in ("heartbeat", *ENDS))
