"""Removing an agent that jobs use, and testing one whose result is not valid JSON."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from daybook.agents.base import AgentReply, AgentRequest
from daybook.api import agents
from daybook.api.documents import stored_jobs
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
async def test_an_agent_that_a_job_uses_cannot_be_removed_by_any_form_of_its_name(
    daybook_home: Home, asked: str, removed: str
) -> None:
    await _job(asked)
    with pytest.raises(InvalidInput, match="is used by brief"):
        await agents.remove(removed)


@pytest.mark.parametrize("other", ["reader", "daybook-command-agent/writer", "writer/reader"])
async def test_a_job_does_not_count_as_a_user_of_another_agent(
    daybook_home: Home, other: str
) -> None:
    await _job("daybook-model-agent/writer")
    assert agents._users(other, await stored_jobs()) == []


async def _job(agent: str) -> None:
    job = new_job(now=SYSTEM_CLOCK.now(), name="brief", prompt="x", on_demand=True, agent=agent)
    async with open_ledger() as ledger, ledger.write() as session:
        await store.add(session, job, slug="brief", now=SYSTEM_CLOCK.now())


async def test_a_result_with_an_invalid_character_is_returned_with_a_replacement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Answering:
        async def answer(self, request: AgentRequest) -> AgentReply:
            return AgentReply("", "here", result={"\ud800": 1})

    async def get(client: object, name: str) -> Answering:
        return Answering()

    monkeypatch.setattr("daybook.prefect.client.connected", nullcontext)
    monkeypatch.setattr("daybook.agents.documents.get", get)
    assert (await agents.test("here")).model_dump(mode="json")["result"] == {"\ufffd": 1}
