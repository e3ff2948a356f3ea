"""What a message of a person to a session takes over from the session's job."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from daybook import api
from daybook.api import sessions
from daybook.json_text import JsonObject
from daybook.policies.policy import Policy
from daybook.runs import claim_requests
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("shared_ledger")]


async def test_a_field_that_is_off_stays_off(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = await world.jobs.add(
        "fix", on_demand=True, repo="/srv/shop", repairs=0, project_instructions=False
    )
    agent = claim_requests.agent_name(stored.job.parameters())
    row = SimpleNamespace(id=f"{agent}:fix", job_id=stored.id, agent=agent)
    given: list[JsonObject] = []

    async def find(*_: object) -> SimpleNamespace:
        return SimpleNamespace(row=row)

    async def ask(parameters: JsonObject) -> None:
        given.append(parameters)

    monkeypatch.setattr(sessions, "_find", find)
    monkeypatch.setattr(api.runs, "ask_here", ask)
    await api.sessions.send("fix", "Go on.")
    policy = Policy.model_validate(given[0]["policy"])
    assert (policy.repo, policy.repairs, policy.project_instructions) == ("/srv/shop", 0, False)
