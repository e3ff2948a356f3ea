"""Removing an agent that jobs still ask."""

from __future__ import annotations

import pytest

from daybook.api import agents
from daybook.clock import SYSTEM_CLOCK
from daybook.errors import InvalidInput
from daybook.home import Home
from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.ledger.engine import open_ledger

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("asked", "removed"),
    [
        ("writer", "writer"),
        ("writer", "daybook-model-agent/writer"),
        ("daybook-model-agent/writer", "writer"),
        ("daybook-model-agent/writer", "daybook-model-agent/writer"),
    ],
)
async def test_an_agent_in_use_is_not_removed_however_it_is_written(
    daybook_home: Home, asked: str, removed: str
) -> None:
    await _job(asked)
    with pytest.raises(InvalidInput, match="is used by brief"):
        await agents.remove(removed)


@pytest.mark.parametrize("other", ["reader", "daybook-command-agent/writer", "writer/reader"])
async def test_a_job_of_another_agent_is_no_user(daybook_home: Home, other: str) -> None:
    await _job("daybook-model-agent/writer")
    assert await agents._users(other) == []


async def _job(agent: str) -> None:
    job = new_job(now=SYSTEM_CLOCK.now(), name="brief", prompt="x", on_demand=True, agent=agent)
    async with open_ledger() as ledger, ledger.write() as session:
        await store.add(session, job, slug="brief", now=SYSTEM_CLOCK.now())
