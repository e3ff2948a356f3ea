"""The tool `notify.send`, with which an agent sends messages while its run goes on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlmodel import col, select

from daybook.delivery.messages import MAX_MESSAGE_LENGTH
from daybook.errors import FenceRefused, InvalidInput
from daybook.features.notify_tool.tools import MAX_MESSAGES
from daybook.ledger.states import Status
from daybook.ledger.tables import OutboxRow
from daybook.redaction import TOKEN_PREFIX
from tests.unit.features.attempts import Started, attempt
from tests.world import World

pytestmark = pytest.mark.anyio

INBOX: dict[str, Any] = {"channel": "inbox"}


async def sent(world: World) -> list[OutboxRow]:
    async with world.ledger.read() as session:
        query = select(OutboxRow).order_by(col(OutboxRow.created_at), col(OutboxRow.body))
        return list((await session.execute(query)).scalars())


@pytest.mark.dialect
async def test_a_message_goes_to_the_channel_of_the_job(world: World, running: Started) -> None:
    granted = await running(channel="ops", chat_id="42")
    async with attempt(granted, "notify") as call:
        answer = await call("notify_send", text="Half is done.\n", subject="the\nfirst half")
    assert "4 more" in answer
    (row,) = await sent(world)
    assert (row.address, row.chat_id, row.purpose) == ("ops", "42", "message")
    assert (row.subject, row.body) == ("brief: the first half", "Half is done.")
    assert (row.run_id, row.status) == (granted.run_id, "pending")
    assert (await world.runs.row(granted.run_id)).delivery == "pending"


async def test_a_run_sends_at_most_five_messages_in_all_its_attempts(
    world: World, running: Started
) -> None:
    granted = await running(**INBOX)
    for expected in ([4, 3, 2, 1, 0], [0] * 5):  # the second attempt repeats all, without a journal
        async with attempt(granted, "notify") as call:
            for number, left in enumerate(expected):
                assert f" {left} more" in await call("notify_send", text=f"message {number}")
            with pytest.raises(InvalidInput, match="is the limit"):
                await call("notify_send", text="one more")
    bodies = [each.body for each in await sent(world)]
    assert sorted(bodies) == [f"message {number}" for number in range(MAX_MESSAGES)]
    await world.runs.finish(granted, Status.SUCCEEDED)
    async with attempt(await running(), "notify") as call:
        assert " 4 more" in await call("notify_send", text="message 0")


async def test_equal_messages_are_two_messages(world: World, running: Started) -> None:
    async with attempt(await running(**INBOX), "notify") as call:
        for _ in range(2):
            await call("notify_send", text="Still at it.")
    assert [each.body for each in await sent(world)] == ["Still at it."] * 2


@pytest.mark.dialect
async def test_a_process_without_the_claim_sends_nothing(world: World, running: Started) -> None:
    granted = await running(**INBOX)
    async with attempt(replace(granted, fence=granted.fence - 1), "notify") as call:
        with pytest.raises(FenceRefused):
            await call("notify_send", text="Hello")
    assert await sent(world) == []


@pytest.mark.parametrize(
    "arguments",
    [
        *[{}, {"text": " "}, {"text": 7}, {"text": "x", "subject": 7}],
        *[{"text": "x" * (MAX_MESSAGE_LENGTH + 1)}, {"text": "x" * 100_000_000}],
    ],
    ids=["none", "blank", "number", "subject", "long", "very long"],
)
async def test_an_invalid_message_is_refused(
    world: World, running: Started, arguments: dict[str, Any]
) -> None:
    async with attempt(await running(**INBOX), "notify") as call:
        with pytest.raises(InvalidInput) as refused:
            await call("notify_send", **arguments)
    assert len(str(refused.value)) < 300
    assert await sent(world) == []


async def test_a_long_subject_is_shortened_and_tokens_are_hidden(
    world: World, running: Started
) -> None:
    token = f"{TOKEN_PREFIX}{'A' * 43}"
    async with attempt(await running(**INBOX), "notify") as call:
        await call("notify_send", text=f"Use {token}", subject="x" * 100_000_000)
        await call("notify_send", text="Hello", subject=token)
    first, second = sorted(await sent(world), key=lambda each: each.body, reverse=True)
    assert len(first.subject) <= 200
    assert token not in f"{first.body}{second.subject}" and TOKEN_PREFIX in first.body


async def test_a_silent_job_sends_nothing_and_its_run_goes_on(
    world: World, running: Started
) -> None:
    async with attempt(await running(**INBOX, silent=True), "notify") as call:
        assert "silenced" in await call("notify_send", text="Hello")
    assert await sent(world) == []


async def test_without_a_channel_each_call_is_refused(world: World, running: Started) -> None:
    async with attempt(await running(), "notify") as call:
        with pytest.raises(InvalidInput, match="--channel"):
            await call("notify_send", text="Hello")
    assert await sent(world) == []
