"""What `status` says of a ledger, and of a Prefect that does not answer."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from daybook.home import Home
from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.ledger.engine import Ledger
from daybook.operations import status

pytestmark = pytest.mark.anyio

# Nobody listens on port 9 (discard) of a machine that runs tests.
NOWHERE = "http://127.0.0.1:9/api"


@pytest.fixture
def nowhere(daybook_home: Home) -> Iterator[Home]:
    with temporary_settings({PREFECT_API_URL: NOWHERE}):
        yield daybook_home


@pytest.mark.parametrize(("times", "said"), [(1, "once"), (2, "2 times in a row")])
async def test_how_often_a_job_failed_is_said_in_words(
    nowhere: Home, times: int, said: str
) -> None:
    file = nowhere.path / "ledger.db"
    async with Ledger(f"sqlite+aiosqlite:///{file}") as ledger, ledger.write() as session:
        job = new_job(now=ledger.now(), prompt="Hello?", name="brief", on_demand=True)
        await store.add(session, job, "brief", ledger.now())
    with sqlite3.connect(file) as connection:
        failed = "UPDATE jobs SET consecutive_failures = ?, last_error = 'no answer'"
        connection.execute(failed, (times,))
    found = await status.status()
    assert f"brief failed {said}: no answer" in found["problems"]


async def test_a_prefect_that_does_not_answer_is_named_and_nobody_works_there(
    nowhere: Home,
) -> None:
    found = await status.status()
    assert found["ready"] is False
    assert (found["prefect"]["reachable"], found["prefect"]["api_url"]) == (False, NOWHERE)
    assert found["worker"] == {"online": 0, "workers": []}
    assert await status.worker_online() is False


async def test_a_ledger_that_cannot_be_written_is_named(nowhere: Home) -> None:
    file = nowhere.path / "ledger.db"
    async with Ledger(f"sqlite+aiosqlite:///{file}"):
        pass
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        found = await status.status()
        other.execute("ROLLBACK")
    told = [each for each in found["problems"] if "cannot be written" in each]
    assert told == [
        "the ledger cannot be written: database is locked; "
        "fix: end the process that keeps it locked"
    ]
