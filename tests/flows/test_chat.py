"""Jobs with `session: chat` continue the conversation of their channel and chat id.

The tests read what the model receives at a server that speaks its protocol (requirement 26).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest

from daybook.agents import documents
from daybook.jobs.store import StoredJob
from tests.providers import KEY, Provider, provider
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]


class Chats:
    """Jobs of one model agent, each in a chat."""

    def __init__(self, world: PrefectWorld, fake_provider: Provider, agent: str) -> None:
        self.world, self.fake_provider, self.agent = world, fake_provider, agent

    async def job(self, prompt: str, channel: str = "inbox", **given: Any) -> StoredJob:
        given = {"on_demand": True, "agent": self.agent, "session": "chat", **given}
        return await self.world.deploy(prompt=prompt, channel=channel, **given)

    async def messages_received(self, stored: StoredJob) -> list[tuple[str, str]]:
        """Run the job; return the role and text of each message that the model received."""
        before = len(self.fake_provider.requests)
        state = await self.world.executions.complete(await self.world.prefect.custom_run(stored))
        assert state.is_completed(), state.message
        [request] = self.fake_provider.requests[before:]
        return request.messages


@pytest.fixture
async def chats(world: PrefectWorld) -> AsyncIterator[Chats]:
    with provider() as fake_provider:
        name = f"m-{uuid4().hex[:8]}"
        settings = {
            "model": "openai:gpt-4o-mini",
            "base_url": fake_provider.address,
            "api_key": KEY,
        }
        await documents.add(world.client, name, "model", settings)
        yield Chats(world, fake_provider, name)


@pytest.mark.floor("E", "A job continues the conversation of its chat")
async def test_two_jobs_of_one_chat_continue_one_conversation(chats: Chats) -> None:
    chats.fake_provider.script = ["It rains.", "An umbrella.", "You are welcome."]
    weather = await chats.job("What is the weather?", chat_id="-1001")
    advice = await chats.job("What shall I take?", chat_id="-1001")

    assert await chats.messages_received(weather) == [("user", "What is the weather?")]
    spoken = [("user", "What is the weather?"), ("assistant", "It rains.")]
    assert await chats.messages_received(advice) == [*spoken, ("user", "What shall I take?")]
    spoken += [("user", "What shall I take?"), ("assistant", "An umbrella.")]
    assert await chats.messages_received(weather) == [*spoken, ("user", "What is the weather?")]
    rows = await chats.world.runs.rows()
    assert {each.session_id for each in rows} == {f"{chats.agent}:chat:inbox:-1001"}


@pytest.mark.floor("E", "A job of another chat does not see it")
@pytest.mark.parametrize(
    "elsewhere",
    [{"chat_id": "-1002"}, {"channel": "console", "chat_id": "-1001"}, {"session": "reuse"}],
    ids=["another chat", "another channel", "no chat"],
)
async def test_a_job_outside_the_chat_does_not_see_its_conversation(
    chats: Chats, elsewhere: dict[str, Any]
) -> None:
    first = await chats.job("What is the weather?", chat_id="-1001")
    other = await chats.job("What did I ask?", **({"chat_id": "-1001"} | elsewhere))

    await chats.messages_received(first)
    assert await chats.messages_received(other) == [("user", "What did I ask?")]


async def test_a_run_moved_to_another_chat_continues_that_conversation(chats: Chats) -> None:
    chats.fake_provider.script = ["It rains.", "You asked of the weather."]
    there = await chats.job("What is the weather?", chat_id="-1001")
    mover = await chats.job("What did I ask?", chat_id="-1002")
    await chats.messages_received(there)

    notify = mover.job.notify.model_copy(update={"chat_id": "-1001"})
    moved = await chats.world.prefect.custom_run(mover, notify=notify.model_dump(mode="json"))
    before = len(chats.fake_provider.requests)
    state = await chats.world.executions.complete(moved)
    assert state.is_completed(), state.message
    [request] = chats.fake_provider.requests[before:]
    assert request.messages[:2] == [("user", "What is the weather?"), ("assistant", "It rains.")]
