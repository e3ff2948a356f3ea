"""Model of a job, checked against its agent when the job is stored, not at its first run."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from daybook.agents import documents
from daybook.api import jobs
from daybook.errors import InvalidInput, UnknownName
from daybook.jobs.actions import Action, AgentPrompt
from tests.providers import KEY
from tests.world.prefect_world import PrefectWorld

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow]

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "keyed": ("model", {"model": "openai:gpt-6-luna", "api_key": KEY}),
    "here": ("model", {"model": "llama3:8b", "base_url": "http://127.0.0.1:9/v1"}),
    "program": ("command", {"command": ["cat"]}),
    "offline": ("offline", {}),
}


async def _agent(world: PrefectWorld, which: str) -> str:
    name = f"{which}-{uuid4().hex[:8]}"
    kind, settings = KINDS[which]
    await documents.add(world.client, name, kind, settings)
    return name


def _agent_and_model(action: Action) -> tuple[str, str]:
    """Return the agent and the model of an action."""
    assert isinstance(action, AgentPrompt)
    return action.agent, action.model


async def _named() -> list[str]:
    return [each.name for each in await jobs.list_jobs()]


@pytest.mark.parametrize(
    ("which", "model", "words"),
    [
        ("keyed", "nosuchprovider:x", '"nosuchprovider:x" names no known provider'),
        ("keyed", "anthropic:claude-haiku-4-5", "the agent's key or base URL is for openai"),
        ("program", "gpt-6-luna", "is a command and has no choice of models"),
        ("offline", "gpt-6-luna", "is offline and has no choice of models"),
    ],
)
async def test_a_model_that_the_agent_cannot_use_is_refused(
    world: PrefectWorld, which: str, model: str, words: str
) -> None:
    agent = await _agent(world, which)
    given: dict[str, Any] = {"prompt": "x", "on_demand": True, "agent": agent, "model": model}
    with pytest.raises(InvalidInput, match=words) as refused:
        await jobs.add(given)
    assert refused.value.field == "model"
    assert await _named() == []

    made = await jobs.add(given | {"model": ""})
    with pytest.raises(InvalidInput, match=words):
        await jobs.edit_job(made.id, {"model": model})
    assert _agent_and_model((await jobs.show(made.id)).action)[1] == ""
    await jobs.edit_job(made.id, {"model": "", "description": "as before"})
    await jobs.remove(made.id)


async def test_a_change_of_agent_is_refused_if_the_new_one_cannot_use_the_jobs_model(
    world: PrefectWorld,
) -> None:
    keyed, offline = await _agent(world, "keyed"), await _agent(world, "offline")
    given = {"prompt": "x", "on_demand": True, "agent": keyed, "model": "gpt-6"}
    made = await jobs.add(given)

    with pytest.raises(InvalidInput, match="is offline and has no choice of models"):
        await jobs.edit_job(made.id, {"agent": offline})
    with pytest.raises(UnknownName):
        await jobs.edit_job(made.id, {"agent": "nobody"})
    edited = await jobs.edit_job(made.id, {"agent": offline, "model": ""})

    assert _agent_and_model(edited.action) == (offline, "")
    await jobs.remove(made.id)


async def test_an_agent_with_its_own_base_url_accepts_any_model_name(world: PrefectWorld) -> None:
    agent = await _agent(world, "here")
    for model in ("mistral:7b", "nosuchprovider:x", "small"):
        made = await jobs.add({"prompt": "x", "on_demand": True, "agent": agent, "model": model})
        assert _agent_and_model(made.action) == (agent, model)
        await jobs.remove(made.id)
