"""Promises 1 and 9 under crashes: the due time that matters runs, and nothing runs twice.

Hypothesis draws when the runs, the workers, the keeper and the ledger fail and come back (`lives`).
A due time may be skipped only for a run that was really alive when it was due or later, or for a
later due time; it may be missed only if no worker was available in time.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import HealthCheck, example, given, note, settings
from hypothesis import strategies as st

from daybook.ledger.engine import Ledger
from daybook.testing import ManualClock
from tests import databases
from tests.costs import examples
from tests.unit.runs import lives
from tests.unit.runs.lives import ALL, KEEPER, LEDGER, RUN, SECOND, WORKERS, Case, Fault, Life

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)

_seconds = st.integers
_every = st.sampled_from((60, 120, 600, 3600))


@st.composite
def _cases(draw: st.DrawFn) -> Case:
    every = draw(_every)
    faults, at = [], 0
    for _ in range(draw(st.integers(1, 3))):
        # Near a due time, when a run is active, prepares or waits.
        at += every * draw(st.integers(1, 2)) + draw(_seconds(-10, 130))
        lasts = draw(st.one_of(_seconds(1, 130), _seconds(1, 5 * every // 2)))
        who = draw(st.sampled_from((ALL, ALL, ALL, *WORKERS, KEEPER, LEDGER, RUN)))
        faults.append(Fault(who, at * SECOND, lasts * SECOND))
    return Case(
        every * SECOND,
        draw(st.sampled_from((0, 2, 30))) * SECOND,
        draw(_seconds(1, 200)) * SECOND,
        draw(st.sampled_from(("unknown", "rerun"))),
        draw(st.integers(1, 2)),
        tuple(faults),
    )


class _Book:
    """One ledger for all examples; each example has its own days."""

    def __init__(self, portal: BlockingPortal, ledger: Ledger, clock: ManualClock) -> None:
        self.portal, self.ledger, self.clock = portal, ledger, clock

    def simulate(self, case: Case) -> Life:
        midnight = self.clock.now().replace(hour=0, minute=0, second=0, microsecond=0)
        life = Life(self.ledger, self.clock, case, midnight + DAY)
        self.portal.call(life.simulate)
        return life


def _check(life: Life) -> None:
    rerun = life.case.on_lost == "rerun"
    for due, row in life.rows.items():
        note(f"{due:%H:%M:%S} {row.status}, {row.attempts} attempts, {row.reason}")
        effects = [run for run in life.runs if run.due == due and run.began is not None]
        assert len(effects) == row.attempts
        assert len(effects) <= 1 + rerun
        ended = row.finished_at
        assert ended is not None
        if row.status == "missed":
            assert not life.could_be_claimed(due)
        if row.status == "skipped" and "replaced it" in row.reason:
            assert any(due < each <= ended for each in life.rows)
        elif row.status == "skipped":
            # A run that will run again counts as alive between its attempts.
            assert life.another_lived(due, due, lives.NEVER if rerun else ended)
    living = sorted((run.since, run.until) for run in life.runs)
    assert all(until <= since for (_, until), (since, _) in pairwise(living))


_HOURLY = Case(
    timedelta(hours=1),
    timedelta(),
    10 * MINUTE,
    "unknown",
    1,
    (Fault(ALL, timedelta(hours=1, minutes=5), timedelta(hours=1, minutes=15)),),
)
"""The machine dies during a run, and comes back 20 minutes after the next due time."""


_SOON = Case(
    MINUTE,
    timedelta(),
    30 * SECOND,
    "unknown",
    1,
    (Fault(ALL, 75 * SECOND, 20 * SECOND),),
)
"""The lease of the dead run still runs when its next due time is claimed."""


@pytest.mark.floor("A", "Start loads the stored jobs, which go on to fire")
@pytest.mark.floor("B", "Stored jobs run after a restart")
@pytest.mark.hypothesis
@pytest.mark.timeout(400)
def test_no_due_time_is_lost_or_runs_twice_whatever_crashes(tmp_path: Path) -> None:
    there = databases.of_kind("sqlite", tmp_path / "ledger.db", _no_server, prepared=True)
    clock = ManualClock(datetime(2026, 1, 15, tzinfo=UTC))
    with start_blocking_portal("asyncio") as portal:
        ledger = Ledger(there.address, clock)
        with portal.wrap_async_context_manager(ledger):
            world = _Book(portal, ledger, clock)

            @settings(
                max_examples=examples(20),
                suppress_health_check=list(HealthCheck),
                database=None,
                derandomize=True,
            )
            @given(_cases())
            @example(_HOURLY)
            @example(_SOON)
            def holds(case: Case) -> None:
                _check(world.simulate(case))

            holds()


def _no_server() -> databases.Server:
    raise AssertionError("it is asked for with SQLite only")
