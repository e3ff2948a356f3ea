"""The channel of an account: what it sends of a row of the outbox, and what a retry leaves out."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, TypeVar

import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import select

from daybook.delivery import outbox, pending
from daybook.delivery.channels.base import Message, NotDelivered
from daybook.features.conversations.channel import ConversationChannel
from daybook.features.conversations.platform import AccessRevoked, Platform, PlatformError, Post
from daybook.features.conversations.tables import PersonRow, SentRow
from daybook.ledger.tables import OutboxRow, QueueRow
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("shared_ledger", "daybook_home")]


Row = TypeVar("Row", OutboxRow, QueueRow)


class Service:
    """A service that keeps what is sent; it fails at the post number ``fails_at``."""

    max_characters, is_letter, position = 140, False, None

    def __init__(self) -> None:
        self.sent, self.edits = list[Post](), list[tuple[str, Post]]()
        self.fails_at: int | None = None
        self.fault = PlatformError("502")
        self.is_gone = False

    async def send(self, post: Post) -> str:
        if self.fails_at == len(self.sent):
            self.fails_at = None
            raise self.fault
        self.sent.append(post)
        return str(1_000 + len(self.sent))

    async def edit(self, message_id: str, post: Post) -> None:
        if self.is_gone:
            raise PlatformError("message to edit not found", is_temporary=False)
        self.edits.append((message_id, post))


class ServiceAccount:
    name, agent, account_id, place = "telegram", "default", "bot-1", ""

    def __init__(self, service: Service) -> None:
        self.service = service

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Platform]:
        yield self.service  # type: ignore[misc]


@pytest.fixture
def service() -> Service:
    return Service()


async def queued(world: World, key: str, body: str, **given: Any) -> OutboxRow:
    fields = {"purpose": outbox.MESSAGE, "event": "completed", "subject": "brief: succeeded"}
    async with world.ledger.write() as session:
        row = await outbox.enqueue_message(
            session,
            key=key,
            body=body,
            now=world.ledger.now(),
            **(fields | {"channel": "telegram", "chat_id": "1"} | given),
        )
        assert row is not None
        return row


async def send(service: Service, row: OutboxRow, **given: Any) -> None:
    message = Message(
        id=row.id,
        event=row.event,
        subject=row.subject,
        body=row.body,
        chat_id=row.chat_id,
        at=row.created_at,
        run_id=row.run_id,
        is_markdown=True,
        **given,
    )
    await ConversationChannel(ServiceAccount(service)).send(message)


async def test_a_retry_sends_only_the_parts_that_are_missing(
    world: World, service: Service
) -> None:
    row = await queued(world, "a", "\n\n".join(f"paragraph {n} " + "x" * 60 for n in range(3)))
    service.fails_at = 1
    with pytest.raises(NotDelivered) as failed:
        await send(service, row)
    assert failed.value.temporary
    await send(service, row)
    found = [re.findall(r"paragraph \d", each.text) for each in service.sent]
    assert found == [["paragraph 0"], ["paragraph 1"], ["paragraph 2"]]
    await send(service, row)
    assert len(service.sent) == 3
    async with world.ledger.read() as session:
        rows = (await session.execute(select(SentRow))).scalars().all()
    assert sorted((each.part, each.message_id) for each in rows) == [
        *((0, "1001"), (1, "1002"), (2, "1003")),
    ]


async def test_a_message_is_sent_again_after_a_new_token(world: World, service: Service) -> None:
    row = await queued(world, "a", "hello")
    service.fails_at, service.fault = 0, AccessRevoked("the service refuses the token")
    with pytest.raises(NotDelivered, match="refuses the token") as failed:
        await send(service, row)
    assert failed.value.temporary


async def test_messages_that_failed_are_sent_at_once_in_their_order_when_the_account_works_again(
    world: World,
) -> None:
    ledger, later = world.ledger, world.at(hours=2)
    rows = {
        "failed": await queued(world, "failed", "hello"),
        "due": await queued(world, "due", "hello", chat_id="2"),
        "quiet": await queued(world, "quiet", "hello", chat_id="3"),
        "other": await queued(world, "other", "hello", channel="telegram-2"),
    }
    async with ledger.write() as session:
        for name, row in rows.items():
            row.next_at, row.attempts = later, 0 if name == "quiet" else 7
            if name == "due":  # since the pause of its queue
                row.next_at = world.at(minutes=-1)
            session.add(row)
            state = QueueRow(queue=row.queue, since=world.at(hours=-1), failures=6, error="401")
            state.paused_until = world.at(minutes=9)
            session.add(state)
    await pending.send_now(ledger, "telegram")
    now = world.clock.now()
    due = await due_at(world, rows)
    first = {name: rows[name].created_at for name in ("failed", "due")}
    assert due == {**first, "quiet": later, "other": later}
    async with ledger.read() as session:
        attempts = [each.attempts for each in await read_all(session, OutboxRow)]
        assert sorted(attempts) == [0, 1, 1, 7]
        paused = {each.queue: each.paused_until for each in await read_all(session, QueueRow)}
    assert paused == {
        "channel:telegram/1": now,
        "channel:telegram/2": now,
        "channel:telegram/3": now,
        "channel:telegram-2/1": world.at(minutes=9),
    }


async def due_at(world: World, rows: dict[str, OutboxRow]) -> dict[str, datetime]:
    async with world.ledger.read() as session:
        found = {each.id: each.next_at for each in await read_all(session, OutboxRow)}
    return {name: found[row.id] for name, row in rows.items()}


async def read_all(session: AsyncSession, table: type[Row]) -> Sequence[Row]:
    return (await session.execute(select(table))).scalars().all()


async def test_notes_about_progress_are_one_message(world: World, service: Service) -> None:
    note = {"event": "progress", "run_id": "r1", "subject": "brief: still running"}
    await send(service, await queued(world, "p1", "running for 1 h", **note))
    await send(service, await queued(world, "p2", "running for 2 h", **note))
    assert len(service.sent) == 1
    [(message_id, post)] = service.edits
    assert message_id == "1001"
    assert "running for 2 h" in post.text
    service.is_gone = True
    await send(service, await queued(world, "p3", "running for 3 h", **note))
    assert "running for 3 h" in service.sent[-1].text
    await send(service, await queued(world, "other", "1 h", **(note | {"run_id": "r2"})))
    assert len(service.sent) == 3


async def test_without_a_chat_messages_go_to_the_first_operator(
    world: World, service: Service
) -> None:
    row = await queued(world, "a", "hello", chat_id="")
    with pytest.raises(NotDelivered, match="daybook channels pair telegram"):
        await send(service, row)
    async with world.ledger.write() as session:
        now = world.ledger.now()
        for id_, role in (("8", "reader"), ("7", "operator"), ("6", "stranger")):
            person = PersonRow(
                channel="telegram",
                person_id=id_,
                chat_id=id_,
                name=id_,
                role=role,
                paired_at=now,
                used_at=now,
            )
            session.add(person)
    await send(service, row)
    assert [each.chat_id for each in service.sent] == ["7"]
