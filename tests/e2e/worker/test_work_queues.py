"""Sixty runs in three classes, with two workers that serve different queues, one of them killed."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from daybook.ledger.tables import RunRow
from daybook.prefect.parameter_schema import WORK_POOL
from daybook.prefect.work_queues import CLASS_QUEUES
from tests.conftest import PrefectServer
from tests.timings import SHORT
from tests.waiting import becomes_true
from tests.world.agents import WORKS
from tests.world.home import at_prefect
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]

LIGHT, MEDIUM, HEAVY = CLASS_QUEUES
LIMITS = {LIGHT: 1, MEDIUM: 2, HEAVY: 1}
RUNS_PER_CLASS = 20
TIMING = replace(SHORT, run_lease=timedelta(seconds=20), leader_lease=timedelta(seconds=20))
"""Leases that two busy workers renew in time also on a busy machine."""


@pytest.fixture
async def world(
    prefect_server: PrefectServer, daybook_home: Any, tmp_path: Path
) -> AsyncIterator[PrefectWorld]:
    async with at_prefect(tmp_path, prefect_server, timing=TIMING) as world:
        world.workers.variables |= {
            "DAYBOOK_MAX_LIGHT": "1",
            "DAYBOOK_MAX_MEDIUM": "2",
            "DAYBOOK_MAX_RESOURCE_INTENSIVE": "1",
        }
        yield world


def class_of(row: RunRow) -> str:
    return str(row.parameters["policy"]["class"])


@pytest.mark.timeout(900)
@pytest.mark.floor("C", "Light, medium and resource-intensive jobs have queues of their own")
async def test_sixty_runs_of_three_classes_keep_their_limits_and_none_is_lost(
    world: PrefectWorld,
) -> None:
    agent = await world.agents.add(WORKS)
    fields = {"agent": agent.name, "session": "new", "overlap": "allow", "on_lost": "rerun"}
    jobs = [await world.deploy(**fields, **{"class": name}) for name in CLASS_QUEUES]
    first = await world.workers.begin(most=20, queues=[LIGHT, MEDIUM])
    second = await world.workers.begin(most=20, queues=[HEAVY])
    for _ in range(RUNS_PER_CLASS):
        for job in jobs:
            await world.prefect.custom_run(job)
    total = len(jobs) * RUNS_PER_CLASS

    async def all_known() -> bool:
        return len(await world.runs.rows()) == total

    assert await becomes_true(all_known, 120.0), world.workers.logs()
    for _ in range(sum(LIMITS.values())):
        await agent.says("running", within=180.0)
    rows = await world.runs.rows()
    running = [row for row in rows if row.status == "running"]
    assert Counter(map(class_of, running)) == LIMITS
    # The claim decides: the other runs wait for their class, and none is hidden in Prefect.
    waiting = [row for row in rows if row.status == "waiting"]
    assert len(waiting) == total - len(running)
    assert {row.waits_for for row in waiting} == {"slot"}
    assert "1 of 1 light runs are active" in {row.reason for row in waiting}
    holders = {name: {row.holder for row in running if class_of(row) == name} for name in LIMITS}
    assert holders[LIGHT] == holders[MEDIUM] != holders[HEAVY]

    os.kill(first.pid, signal.SIGKILL)
    await first.wait_for_exit(10.0)
    await world.workers.begin(most=20, queues=[LIGHT, MEDIUM])
    agent.release(2 * total)

    async def all_ended() -> bool:
        return {row.status for row in await world.runs.rows()} == {"succeeded"}

    if not await becomes_true(all_ended, 600.0):
        counted = Counter(row.status for row in await world.runs.rows())
        raise AssertionError(f"{counted}\n{world.workers.logs()}")
    assert second.child.exit_code is None

    rows = await world.runs.rows()
    assert len(rows) == total
    assert Counter(map(class_of, rows)) == dict.fromkeys(LIMITS, RUNS_PER_CLASS)
    attempts = {row.id: await world.runs.attempts(row) for row in rows}
    # Only the runs that the killed worker had begun were repeated.
    repeated = {row.id for row in rows if len(attempts[row.id]) > 1}
    assert repeated <= {row.id for row in running if class_of(row) != HEAVY}
    assert agent.effect_count == sum(map(len, attempts.values()))
    for name, limit in LIMITS.items():
        of_class = [row for row in rows if class_of(row) == name]
        tries = [each for row in of_class for each in attempts[row.id]]
        spans = [(each.started_at, each.finished_at) for each in tries if each.finished_at]
        assert len(spans) == len(tries)
        for started, _ in spans:
            assert sum(begin <= started < end for begin, end in spans) <= limit
        # The earliest due run of a class is next, whatever waits in the other classes.
        later = [row for row in of_class if row.id not in {each.id for each in running}]
        by_start = sorted(later, key=lambda row: attempts[row.id][0].started_at)
        order = sorted(later, key=lambda row: (row.due, row.queued_at, row.id))
        for place, row in enumerate(by_start):
            assert abs(order.index(row) - place) <= 2 * limit
    for found in await world.prefect.ui.read_work_queues(work_pool_name=WORK_POOL):
        if found.name in LIMITS:
            assert found.concurrency_limit is None
