"""Contract tests that run against every agent adapter; add a new adapter to `AGENTS`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from daybook.agents import kinds
from daybook.agents.base import Agent, AgentReply, AgentRequest, ChatMessage
from daybook.agents.command import CommandAgent
from daybook.agents.offline import OfflineAgent
from daybook.errors import AgentMisconfigured
from daybook.testing import ScriptedAgent
from tests.providers import KEY, Provider, provider

pytestmark = pytest.mark.anyio


def _model(name: str, model: str, base_url: str) -> Agent:
    settings = {"model": model, "base_url": base_url, "api_key": KEY}
    return kinds.build("daybook-model-agent", name, settings)


AGENTS: dict[str, Callable[[str, Provider], Agent]] = {
    "scripted": lambda name, _: ScriptedAgent(name=name),
    "offline": lambda name, _: kinds.build("daybook-offline-agent", name, {}),
    "command": lambda name, _: kinds.build("daybook-command-agent", name, {"command": ["cat"]}),
    "model": lambda name, fake_provider: _model(name, "openai:gpt-6-luna", fake_provider.address),
    "model (Anthropic)": lambda name, fake_provider: _model(
        name, "anthropic:claude-haiku-4-5", fake_provider.origin
    ),
}


@pytest.fixture(scope="module")
def fake_provider() -> Iterator[Provider]:
    with provider() as fake_provider:
        yield fake_provider


@pytest.fixture(params=AGENTS)
def agent(request: pytest.FixtureRequest, fake_provider: Provider) -> Agent:
    return AGENTS[request.param]("brief-writer", fake_provider)


def _request(prompt: str = "Summarise the log.") -> AgentRequest:
    return AgentRequest(prompt=prompt, timeout=20, occurrence="flow:1")


def test_every_agent_kind_has_a_contract_case() -> None:
    assert {kind.word for kind in kinds.KINDS.values()} <= set(AGENTS)


@pytest.mark.slow
async def test_an_agent_answers_under_its_name(agent: Agent) -> None:
    reply = await agent.answer(_request())
    assert agent.name == reply.agent == "brief-writer"
    assert reply.text.strip() == reply.text != ""


async def test_the_result_and_usage_of_a_reply_can_be_stored_as_json(agent: Agent) -> None:
    reply = await agent.answer(_request())
    assert json.loads(json.dumps([reply.result, reply.usage])) == [reply.result, reply.usage]
    assert reply.model is None or reply.model


async def test_the_same_request_gets_the_same_reply(agent: Agent) -> None:
    assert await agent.answer(_request()) == await agent.answer(_request())


async def test_concurrent_requests_get_their_own_replies(agent: Agent) -> None:
    prompts = ("One", "Two")
    together = await asyncio.gather(*(agent.answer(_request(prompt)) for prompt in prompts))
    assert together == [await agent.answer(_request(prompt)) for prompt in prompts]


@pytest.mark.parametrize("prompt", ["Grüße, 世界 🌍", "line\nline\n\nline", "{job} $HOME `x` %s"])
async def test_an_agent_accepts_any_prompt_text(agent: Agent, prompt: str) -> None:
    assert isinstance(await agent.answer(_request(prompt)), AgentReply)


async def test_an_agent_propagates_cancellation(agent: Agent) -> None:
    answer = asyncio.create_task(agent.answer(_request()))
    asyncio.get_running_loop().call_soon(answer.cancel)  # after its first step
    with pytest.raises(asyncio.CancelledError):
        await answer


async def test_an_agent_answers_a_request_with_history(agent: Agent) -> None:
    history = (ChatMessage("user", "I am Ada."), ChatMessage("assistant", "Hello, Ada."))
    reply = await agent.answer(replace(_request("Who am I?"), history=history))
    assert reply.text.strip()


@pytest.mark.floor("E", "A job has a model of its own")
async def test_an_agent_uses_the_requested_model_or_refuses_it(agent: Agent) -> None:
    wants = replace(_request(), model="other-1")
    if isinstance(agent, CommandAgent | OfflineAgent):
        with pytest.raises(AgentMisconfigured, match='requests the model "other-1"'):
            await agent.answer(wants)
    else:
        assert (await agent.answer(wants)).model in (None, "other-1")
