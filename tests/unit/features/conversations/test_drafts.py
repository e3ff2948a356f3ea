"""Drafts: the text so far of an answer is one message, which is deleted when the run has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

import pytest
from sqlmodel import col, select

from daybook.errors import LedgerUnreachable
from daybook.features.conversations import store
from daybook.features.conversations.drafts import MARK, SENDING, Drafts
from daybook.features.conversations.handling import finish_asked
from daybook.features.conversations.platform import (
    AccessRevoked,
    PlatformError,
    Post,
    Update,
    UpdateKind,
)
from daybook.features.conversations.store import UpdateState
from daybook.features.conversations.tables import UpdateRow
from daybook.jobs.model import normal_parameters
from daybook.ledger.states import Status
from daybook.ledger.tables import OutboxRow, RunRow
from daybook.runs import claims, steps
from daybook.runs.claim_requests import Granted
from tests.unit.features.conversations.test_handling import FakeAccount, FakePlatform
from tests.world import World
from tests.world.runs import step_of

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("shared_ledger", "daybook_home"),
]

CHANNEL = "telegram"
LONG = "The first sentence of an answer that is long."


class Editing(FakePlatform):
    """A service with its messages by id; each of ``faults`` is the error of one request."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: dict[str, str] = {}
        self.requests: list[str] = []
        self.faults: list[PlatformError | None] = []
        self.while_typing: Awaitable[None] | None = None
        self.begun, self.gate = asyncio.Event(), asyncio.Event()
        self.gate.set()

    def _requested(self, what: str) -> None:
        self.requests.append(what)
        if self.faults and (fault := self.faults.pop(0)):
            raise fault

    async def show_typing(self, chat_id: str, message_id: str) -> None:
        if self.while_typing is not None:
            await self.while_typing

    async def send(self, post: Post) -> str:
        assert post.is_draft
        self.begun.set()
        await self.gate.wait()
        self._requested("send")
        id_ = str(100 + len(self.requests))
        self.messages[id_] = f"{post.text}\n{post.note}"
        return id_

    async def edit(self, message_id: str, post: Post) -> None:
        self._requested("edit")
        if message_id not in self.messages:
            raise PlatformError("message to edit not found", is_temporary=False)
        self.messages[message_id] = f"{post.text}\n{post.note}"

    async def delete(self, chat_id: str, message_id: str) -> None:
        self._requested("delete")
        self.messages.pop(message_id, None)


class Answering:
    """A run that answers an update, and the listener that follows it."""

    def __init__(self, world: World) -> None:
        self.world, self.platform = world, Editing()
        self.drafts = Drafts(world.ledger, self.platform)

    async def asks(self, id_: str = "1", chat_id: str = "1", **policy: Any) -> Granted:
        update = Update(id_, int(id_), UpdateKind.MESSAGE, chat_id, "1", "Anna", "50", "why?")
        await store.put(self.world.ledger, CHANNEL, [update])
        given = {"prompt": "why?", "notify": {"channel": CHANNEL, "chat_id": chat_id}}
        parameters = dict(normal_parameters("agent-prompt", given | {"policy": policy}))
        key = store.answer_key(CHANNEL, id_)
        run = await claims.request_answer(self.world.ledger, f"default:{id_}", key, parameters)
        async with self.world.ledger.write() as session:
            row = await store.get_update(session, CHANNEL, id_)
            assert row is not None
            row.state, row.run_id = UpdateState.ASKED, run.id
            session.add(row)
        granted = await self.world.runs.running(run)
        await steps.start(
            self.world.ledger, granted.fence, step_of(granted.run_id, self.world.ledger.now())
        )
        return granted

    async def writes(self, granted: Granted, text: str) -> None:
        await steps.show(self.world.ledger, granted.fence, granted.run_id, 1, text)
        await self.follows()

    async def follows(self) -> int:
        return await finish_asked(self.world.ledger, FakeAccount(), self.platform, self.drafts)

    async def ends(self, granted: Granted) -> None:
        await self.world.runs.finish(granted, Status.SUCCEEDED, output="done")

    async def says(self) -> list[str]:
        """Return Daybook's own messages to the chat."""
        async with self.world.ledger.read() as session:
            query = select(OutboxRow.body).where(col(OutboxRow.event) == store.EVENT)
            return list((await session.execute(query)).scalars())

    def restarts(self) -> None:
        self.drafts = Drafts(self.world.ledger, self.platform)

    async def row(self, id_: str = "1") -> UpdateRow:
        async with self.world.ledger.read() as session:
            return await session.get_one(UpdateRow, (CHANNEL, id_))


@pytest.fixture
def answering(world: World) -> Answering:
    return Answering(world)


async def test_the_text_so_far_is_one_message_until_the_run_ends(answering: Answering) -> None:
    granted = await answering.asks()
    await answering.writes(granted, "[SILENT")  # too short: it may be a marker
    assert answering.platform.messages == {}
    for text in (LONG, LONG, f"{LONG} And more."):
        await answering.writes(granted, text)
    assert list(answering.platform.messages.values()) == [f"{LONG} And more.\n{MARK}"]
    assert answering.platform.requests == ["send", "edit"]
    await answering.world.runs.finish(granted, Status.SUCCEEDED, output="done")
    assert await answering.follows() == 0
    assert answering.platform.messages == {}
    assert (await answering.row()).state == UpdateState.DONE


async def test_a_restart_goes_on_with_the_same_message(answering: Answering) -> None:
    granted = await answering.asks()
    await answering.writes(granted, LONG)
    answering.restarts()
    await answering.writes(granted, f"{LONG} And more.")
    assert len(answering.platform.messages) == 1
    answering.restarts()
    await answering.world.runs.finish(granted, Status.CANCELLED)
    await answering.follows()
    assert answering.platform.messages == {}


@pytest.mark.parametrize("is_sent", [False, True])
async def test_a_process_that_is_killed_while_it_sends_causes_no_second_draft(
    answering: Answering, monkeypatch: pytest.MonkeyPatch, is_sent: bool
) -> None:
    granted = await answering.asks()
    killed = RuntimeError("kill -9")

    async def send(post: Post) -> str:
        if is_sent:
            await Editing.send(answering.platform, post)
        raise killed

    with monkeypatch.context() as patch:
        patch.setattr(answering.platform, "send", send)
        with suppress(RuntimeError):
            await answering.writes(granted, LONG)
    assert (await answering.row()).draft == SENDING
    answering.restarts()
    await answering.writes(granted, f"{LONG} And more.")
    await answering.world.runs.finish(granted, Status.SUCCEEDED, output="done")
    assert await answering.follows() == 0
    # What is left, if anything, does not look finished.
    assert list(answering.platform.messages.values()) == [f"{LONG}\n{MARK}"] * is_sent


async def test_a_cancelled_listener_stores_the_id_of_its_draft(answering: Answering) -> None:
    granted = await answering.asks()
    answering.platform.gate.clear()
    task = asyncio.create_task(answering.writes(granted, LONG))
    await answering.platform.begun.wait()
    assert (await answering.row()).draft == SENDING
    task.cancel()
    answering.platform.gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await answering.row()).draft in answering.platform.messages


async def test_a_draft_that_is_sent_after_its_run_has_ended_is_deleted(
    answering: Answering,
) -> None:
    granted = await answering.asks()
    answering.platform.gate.clear()
    task = asyncio.create_task(answering.writes(granted, LONG))
    await answering.platform.begun.wait()
    await answering.world.runs.finish(granted, Status.SUCCEEDED, output="done")
    other = Answering(answering.world)  # the next leader
    assert await other.follows() == 0
    answering.platform.gate.set()
    await task
    assert answering.platform.messages == {}
    assert answering.platform.requests == ["send", "delete"]


async def test_the_limits_of_the_service_are_kept(answering: Answering) -> None:
    first, second = await answering.asks("1"), await answering.asks("2")
    await answering.writes(first, LONG)
    await answering.writes(second, LONG)
    answering.platform.requests.clear()
    for granted in (first, second):
        await steps.show(answering.world.ledger, granted.fence, granted.run_id, 1, LONG * 2)
    answering.platform.faults = [PlatformError("too many", retry_after=30)]
    await answering.follows()
    assert answering.platform.requests == ["edit"]  # one for a chat, and none after a 429
    answering.world.passes(seconds=29)
    await answering.world.runs.finish(first, Status.SUCCEEDED, output="done")
    assert await answering.follows() == 2
    assert answering.platform.requests == ["edit"]
    answering.world.passes(seconds=2)
    assert await answering.follows() == 1
    assert answering.platform.requests == ["edit", "delete", "edit"]


async def test_a_draft_that_cannot_be_deleted_is_tried_again(answering: Answering) -> None:
    granted = await answering.asks()
    await answering.writes(granted, LONG)
    await answering.world.runs.finish(granted, Status.SUCCEEDED, output="done")
    answering.platform.faults = [PlatformError("502"), PlatformError("no", is_temporary=False)]
    assert await answering.follows() == 1
    assert (await answering.row()).state == UpdateState.ASKED
    assert await answering.follows() == 0


async def test_a_refused_token_ends_the_connection_so_that_drafts_wait_for_a_new_one(
    answering: Answering,
) -> None:
    granted = await answering.asks()
    await answering.writes(granted, LONG)
    await answering.ends(granted)
    answering.platform.faults = [AccessRevoked("the service refuses the token")]
    with pytest.raises(AccessRevoked):
        await answering.follows()
    assert (await answering.row()).state == UpdateState.ASKED
    await answering.follows()
    assert answering.platform.messages == {}


async def test_an_answer_that_a_person_has_to_approve_has_no_draft(answering: Answering) -> None:
    granted = await answering.asks(approve=["answer"])
    await answering.writes(granted, LONG)
    assert answering.platform.requests == []


async def test_a_run_that_ends_after_it_was_read_gets_no_draft(answering: Answering) -> None:
    granted = await answering.asks()
    await steps.show(answering.world.ledger, granted.fence, granted.run_id, 1, LONG)
    async with answering.world.ledger.read() as session:
        read = await session.get_one(RunRow, granted.run_id)
    answering.platform.while_typing = answering.ends(granted)
    await answering.follows()
    assert answering.platform.requests == []
    # The same in the transaction before it is sent, for a run that is running as far as was read.
    row = await answering.row()
    await answering.drafts._update(row, read, LONG)
    assert answering.platform.requests == []
    assert (await answering.row()).draft == ""


async def test_the_answer_of_a_model_that_does_not_stream_is_no_draft(
    answering: Answering,
) -> None:
    granted = await answering.asks()
    ledger, ended = answering.world.ledger, Status.SUCCEEDED
    await steps.finish(ledger, granted.fence, granted.run_id, 1, ended, output=LONG)
    await answering.follows()
    assert answering.platform.requests == []


@pytest.mark.parametrize("end", ["[SIL", "**[SILENT]**", "\n\nNO_REPLY", "HEART"])
async def test_a_silent_answer_is_no_draft(answering: Answering, end: str) -> None:
    granted = await answering.asks()
    await answering.writes(granted, f"{LONG}\n{end}")
    assert answering.platform.requests == []
    await answering.writes(granted, LONG)
    assert list(answering.platform.messages.values()) == [f"{LONG}\n{MARK}"]
    await answering.writes(granted, f"{LONG}\n{end}")
    assert answering.platform.messages == {}
    await answering.writes(granted, f"{LONG}\n{end}\nBut there is more to say.")
    assert len(answering.platform.messages) == 1


async def test_an_end_without_an_answer_is_said_while_the_service_rests(
    answering: Answering,
) -> None:
    granted = await answering.asks()
    await answering.writes(granted, LONG)
    answering.platform.faults = [PlatformError("too many", retry_after=3600)]
    await answering.writes(granted, LONG * 2)
    await answering.world.runs.finish(granted, Status.CANCELLED)
    for _ in range(2):
        assert await answering.follows() == 1
        assert await answering.says() == ["Stopped."]
    answering.world.passes(hours=1)
    assert await answering.follows() == 0
    assert answering.platform.messages == {}
    assert await answering.says() == ["Stopped."]


async def test_a_draft_whose_id_cannot_be_stored_is_deleted(
    answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    granted = await answering.asks()
    note = Drafts._note

    async def fails(drafts: Drafts, row: UpdateRow, before: str, *given: Any) -> bool:
        if before == SENDING:
            raise LedgerUnreachable("the ledger", "it does not answer")
        return await note(drafts, row, before, *given)

    monkeypatch.setattr(Drafts, "_note", fails)
    with pytest.raises(LedgerUnreachable):
        await answering.writes(granted, LONG)
    assert answering.platform.requests == ["send", "delete"]
    assert answering.platform.messages == {}


async def test_letters_have_no_drafts_and_a_long_text_shows_its_end(answering: Answering) -> None:
    granted = await answering.asks()
    answering.platform.is_letter = True
    await answering.writes(granted, LONG)
    assert answering.platform.requests == []
    answering.platform.is_letter, answering.platform.max_characters = False, 200
    await answering.writes(granted, "\n\n".join(f"{number} {LONG}" for number in range(20)))
    [shown] = answering.platform.messages.values()
    assert f"19 {LONG}" in shown
    assert len(shown) <= 200
