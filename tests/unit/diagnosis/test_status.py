"""The report of `status` on a ledger, and on a Prefect that does not answer."""

from __future__ import annotations

import inspect
import re
import sqlite3
from contextlib import closing

import pytest

from daybook.diagnosis import findings, outbox_status, status
from daybook.diagnosis.checks import home as home_checks
from daybook.home import Home
from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.keeper import leader_lease
from daybook.ledger.engine import Ledger
from daybook.operations import home_lock
from daybook.settings import STATUS_FINDINGS
from tests.servers import NOWHERE
from tests.unit.operations.test_home_lock import begin

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(("times", "expected"), [(1, "once"), (2, "2 times in a row")])
async def test_status_says_how_often_a_job_failed(
    daybook_home: Home, times: int, expected: str
) -> None:
    file = daybook_home.path / "ledger.db"
    async with Ledger(f"sqlite+aiosqlite:///{file}") as ledger, ledger.write() as session:
        job = new_job(now=ledger.now(), prompt="Hello?", name="brief", on_demand=True)
        await store.add(session, job, "brief", ledger.now())
    with sqlite3.connect(file) as connection:
        failed = "UPDATE jobs SET consecutive_failures = ?, last_error = 'no answer'"
        connection.execute(failed, (times,))
    found = await status.status()
    sentence = f"brief failed {expected}: no answer; fix: daybook show brief"
    assert sentence in [str(each) for each in found.problems]


async def test_the_findings_that_count_are_all_without_the_warnings_or_the_named_ones(
    daybook_home: Home,
) -> None:
    file = daybook_home.path / "ledger.db"
    async with Ledger(f"sqlite+aiosqlite:///{file}") as ledger, ledger.write() as session:
        job = new_job(now=ledger.now(), prompt="Hello?", name="brief", on_demand=True)
        await store.add(session, job, "brief", ledger.now())
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE jobs SET consecutive_failures = 1, sync_pending = 1")
    overview = await status.overview()
    assert {each.check for each in overview.that_count([])} == {"prefect", "sync"}
    (found,) = overview.that_count(["jobs", "late"])
    assert (found.check, found.severity) == ("jobs", "warning")
    assert str(found) == "brief failed once; fix: daybook show brief"


def test_every_name_of_a_finding_of_status_can_be_chosen_for_the_ping() -> None:
    sources = [findings, outbox_status, status, home_checks]
    call = r'\b(?:(?:problem|warning|clock)\(\s*|check=)"([a-z ]+)"'
    named = {name for each in sources for name in re.findall(call, inspect.getsource(each))}
    of_doctor = {"home", "modes", "maintenance"}
    assert named - of_doctor == set(STATUS_FINDINGS)


async def test_an_unreachable_prefect_is_reported_with_no_workers(
    daybook_home: Home,
) -> None:
    found = await status.status()
    assert found.ready is False
    assert (found.prefect.reachable, found.prefect.api_url) == (False, NOWHERE)
    assert (found.worker.online, found.worker.workers) == (0, [])
    assert await status.worker_online() is False


async def test_a_leading_keeper_has_a_worker_even_if_prefect_does_not_answer(
    daybook_home: Home,
) -> None:
    async with Ledger(f"sqlite+aiosqlite:///{daybook_home.path}/ledger.db") as ledger:
        await leader_lease.acquire(ledger, leader_lease.LEADERSHIP_NAME, "here:1:a")
    assert await status.worker_online() is True


async def test_a_killed_up_is_reported_before_what_follows_from_it(daybook_home: Home) -> None:
    child = await begin(daybook_home, "worker")
    try:
        with home_lock.hold(daybook_home) as killed:
            killed.add_child(child)
        found = await status.status()
    finally:
        await child.terminate()
    assert found.problems[0].title.startswith("`daybook up` was killed")
    assert NOWHERE in found.problems[1].title


async def test_a_locked_ledger_is_reported(daybook_home: Home) -> None:
    file = daybook_home.path / "ledger.db"
    async with Ledger(f"sqlite+aiosqlite:///{file}"):
        pass
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        found = await status.status()
        other.execute("ROLLBACK")
    problems = [str(each) for each in found.problems if "is not writable" in each.title]
    assert problems == [
        "the ledger is not writable: database is locked; fix: end the process that holds its lock"
    ]
