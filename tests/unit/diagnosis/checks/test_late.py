"""Checks for outcomes left in the spool, and for a ledger ahead of the clock."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest

from daybook import settings
from daybook.clock import SYSTEM_CLOCK
from daybook.diagnosis.checks import late
from daybook.execution import outcome_spool
from daybook.execution.outcome_spool import SpooledOutcome
from daybook.home import Home
from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Outcome, Status
from daybook.schedules.zones import time_with_zone

pytestmark = pytest.mark.anyio

KNOWN = SpooledOutcome("ledger", "0" * 32, 1, Outcome(Status.SUCCEEDED))


def test_a_home_without_a_spool_has_no_problems(daybook_home: Home) -> None:
    assert late.outcomes() == []


def test_a_recently_spooled_outcome_is_no_problem(daybook_home: Home) -> None:
    outcome_spool.put(KNOWN)
    assert late.outcomes() == []


def test_an_outcome_left_in_the_spool_is_reported(daybook_home: Home) -> None:
    then = SYSTEM_CLOCK.now().timestamp() - late.SPOOL_GRACE_SECONDS - 1
    os.utime(outcome_spool.put(KNOWN), (then, then))
    (problem,) = late.outcomes()
    assert (
        problem.message
        == f"not recorded in the ledger yet: one outcome in {outcome_spool.folder()}"
    )
    assert problem.fix.startswith("run daybook keeper")


def test_an_outcome_file_that_was_set_aside_is_reported_by_name(daybook_home: Home) -> None:
    file = outcome_spool.put(KNOWN)
    aside = file.rename(file.with_suffix(outcome_spool.ASIDE_SUFFIX))
    (problem,) = late.outcomes()
    assert str(aside) in problem.message
    assert f"mv {aside} {file}" in problem.fix


async def test_a_watermark_ahead_of_the_clock_is_reported_with_its_job(daybook_home: Home) -> None:
    now = SYSTEM_CLOCK.now()
    ahead = (now + timedelta(days=1)).replace(microsecond=0)
    address = f"sqlite+aiosqlite:///{daybook_home.path}/ledger.db"
    async with Ledger(address) as ledger, ledger.write() as session:
        for name, until in (("sound", now), ("brief", ahead)):
            job = new_job(now=now, prompt="Hello?", name=name, cron="0 * * * *")
            (await store.add(session, job, name, now)).row.audited_until = until

    (problem,) = await late.ledger_clock()

    assert problem.message.startswith("a clock ran ahead and was set back")
    assert problem.message.endswith(
        f"up to {time_with_zone(ahead, settings.load().timezone)}: brief"
    )
    assert "until then" in problem.fix


async def test_a_home_without_a_ledger_has_no_clock_problem(daybook_home: Home) -> None:
    assert await late.ledger_clock() == []
