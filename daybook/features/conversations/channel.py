"""The channel of an account: sends the messages of the outbox to a chat, with their buttons.

A long text becomes up to `MAX_TEXTS` messages, and more than that a file. Each message that was
sent is recorded at once, so a retry sends only the others, and a reply to any of them finds its
run. The notes about the progress of a run are one message, which is edited. Without a chat id,
messages go to the operator who was paired first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy.ext.asyncio import AsyncSession

from daybook.delivery import buttons, pending
from daybook.delivery.attachments import Attachment
from daybook.delivery.buttons import MessageButton
from daybook.delivery.channels.base import (
    SEND_TIMEOUT_SECONDS,
    UNBOUNDED,
    ChannelKind,
    Message,
    NotDelivered,
    Postponed,
)
from daybook.delivery.channels.text import length as text_length
from daybook.errors import InvalidInput, Unreachable
from daybook.features.conversations import accounts, people, quiet_hours, splitting, store
from daybook.features.conversations.platform import (
    Account,
    Platform,
    PlatformError,
    Post,
)
from daybook.features.conversations.tables import SentRow
from daybook.keeper.alerts import PROGRESS_EVENT
from daybook.ledger import triggers
from daybook.ledger.engine import Ledger, open_ledger
from daybook.ledger.tables import OutboxRow, RunRow
from daybook.resources.store import BlockStore
from daybook.short_text import clip

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

MAX_TEXTS = 3
"""Maximum number of messages of a text; a longer text is a file, after its beginning."""
WHOLE_TEXT = "answer.md"
RESERVED_SECONDS = 5.0
"""Part of the timeout of a message in which no further part is begun, to record the last one."""


@dataclass(frozen=True)
class Envelope:
    """A message with its place: the posts that are still to be sent, by their part.

    ``buttons`` are those of the message, and ``replaced`` is the one that the posts replace; ""
    for none.
    """

    row: OutboxRow | None
    posts: Sequence[tuple[int, Post]]
    buttons: Sequence[MessageButton] = ()
    replaced: str = ""


class SentPost(NamedTuple):
    """A post that was sent, as this ``part`` of its message."""

    part: int
    post: Post
    message_id: str


class ConversationChannel:
    """A channel that sends through an account."""

    limit = UNBOUNDED
    needs_chat_id = False
    carries_files = True

    def __init__(self, account: Account) -> None:
        self._account = account
        self._what = f'the channel "{account.name}"'

    async def send(self, message: Message) -> None:
        try:
            async with (
                asyncio.timeout(SEND_TIMEOUT_SECONDS - RESERVED_SECONDS),
                self._account.open() as platform,
                open_ledger() as ledger,
            ):
                envelope = await self._prepared(ledger, message, platform)
                for part, post in envelope.posts:
                    sent = SentPost(part, post, await _deliver(platform, post, envelope.replaced))
                    await _record(ledger, self._account.name, envelope, sent)
        except TimeoutError:
            problem = f"{self._what}: no answer within the time; a part may have arrived"
            raise NotDelivered(problem) from None
        except (InvalidInput, Unreachable) as error:
            raise NotDelivered(f"{self._what}: {error}; a part may have arrived") from None
        except PlatformError as error:
            raise NotDelivered(f"{self._what}: {error}", error.is_temporary) from None

    async def _prepared(self, ledger: Ledger, message: Message, platform: Platform) -> Envelope:
        """Return what is to be sent. Raise `Postponed`, which is then stored."""
        async with ledger.read() as session:
            with suppress(Postponed):
                return await self._envelope(session, message, platform, ledger.now())
        async with ledger.write() as session:  # the quiet hours may have changed meanwhile
            try:
                return await self._envelope(session, message, platform, ledger.now())
            except Postponed as error:
                await pending.postpone(session, message.id, error.until, error.queue)
                postponed = error
        raise postponed

    async def _envelope(
        self, session: AsyncSession, message: Message, platform: Platform, now: datetime
    ) -> Envelope:
        row = await session.get(OutboxRow, message.id)
        chat_id = message.chat_id
        if not chat_id:
            person = await people.first_operator(session, self._account.name)
            if person is None:
                raise NotDelivered(f"{self._what} has no operator: {_how_to_pair(self._account)}")
            chat_id = person.chat_id
        if platform.is_letter:
            chat_id = chat_id.lower()  # as that of a letter that answers
        reply_to = subject = ""
        shown = list[MessageButton]()
        if row is not None:
            line = await quiet_hours.check(session, self._account.name, chat_id, row, now)
            message = await _in_words(session, message, row)
            message = replace(message, note="\n\n".join(filter(None, (line, message.note))))
            shown = await buttons.of(session, row)
            answered = await store.answered(session, row)
            if answered is not None and answered.chat_id == chat_id:
                reply_to, subject = answered.message_id, store.update_of(answered).subject
        given = [(each.word, each.label) for each in shown]
        if platform.is_letter:
            posts = [letter_of(message, chat_id, given, reply_to, subject)]
        else:
            posts = posts_of(message, chat_id, platform.max_characters, given, reply_to)
        posts = [replace(each, key=f"{message.id}.{part}") for part, each in enumerate(posts)]
        sent = await store.parts_sent(session, row.id) if row is not None else set()
        unsent = [(part, each) for part, each in enumerate(posts) if part not in sent]
        replaced = ""
        if row is not None and row.event == PROGRESS_EVENT and not platform.is_letter:
            replaced = await store.last_note(session, row, self._account.name, chat_id)
        return Envelope(row, unsent, shown, replaced)


async def _deliver(platform: Platform, post: Post, replaced: str) -> str:
    """Send a post, or edit the message that it replaces, if this is possible; return its id."""
    if replaced:
        try:
            await platform.edit(replaced, post)
        except PlatformError as error:
            if error.is_temporary:
                raise
        else:
            return replaced
    return await platform.send(post)


def _how_to_pair(account: Account) -> str:
    return f"pair one with `daybook channels pair {account.name}`"


async def _in_words(session: AsyncSession, message: Message, row: OutboxRow) -> Message:
    """Return the message without a subject, if it is an answer in a conversation.

    The failure of such an answer has the error, and no commands.
    """
    run = await session.get(RunRow, row.run_id) if row.run_id else None
    is_answer = run is not None and run.started_by is triggers.SESSION
    if row.event == store.EVENT:
        return replace(message, subject="", is_markdown=True)
    if not is_answer or row.event not in ("completed", "failed"):
        return message
    if row.event == "failed" and run is not None:
        why = (run.error or run.reason or run.status).strip()
        return replace(message, subject="", body=f"I could not answer: {why}", is_markdown=False)
    return replace(message, subject="")


def letter_of(
    message: Message,
    chat_id: str,
    given: Sequence[tuple[str, str]] = (),
    reply_to: str = "",
    subject: str = "",
) -> Post:
    """Return a message as one letter, with its files. ``subject`` is that of the answered one."""
    return Post(
        chat_id,
        message.body,
        message.note,
        given,
        reply_to,
        message.attachments,
        subject=f"Re: {subject}" if subject else message.subject,
        is_markdown=message.is_markdown,
    )


def posts_of(
    message: Message,
    chat_id: str,
    max_characters: int,
    given: Sequence[tuple[str, str]] = (),
    reply_to: str = "",
) -> list[Post]:
    """Return the posts of a message: its texts, and then its files.

    The first post has ``reply_to``, and the last text has the note and the buttons ``given``.
    """
    body = message.body if message.is_markdown else _literal(message.body)
    job, is_success, _ = message.subject.rpartition(": succeeded")
    subject = job if is_success and message.event == "completed" else message.subject
    text = "\n\n".join(filter(None, (f"**{_plain(subject)}**" if subject else "", body)))
    note = clip(message.note, max_characters // 3)
    room = max_characters - text_length(note) - 4
    texts = splitting.split(text, room)
    files = list(message.attachments)
    if len(texts) > MAX_TEXTS:
        whole = Attachment(WHOLE_TEXT, "text/markdown", message.body.encode(errors="replace"))
        texts, files = [f"{texts[0]}\n\n(The whole text is in the file.)"], [whole, *files]
    posts = [Post(chat_id, each) for each in texts or ["(empty)"]]
    posts[0] = replace(posts[0], reply_to=reply_to)
    posts[-1] = replace(posts[-1], note=note, buttons=given)
    return [*posts, *(Post(chat_id, files=(each,)) for each in files)]


_MARKS = str.maketrans({each: f"\\{each}" for each in r"\`*_{}[]()#+-.!|<>~"})


def _plain(line: str) -> str:
    """Return Markdown that shows a line as it is."""
    return line.translate(_MARKS)


def _literal(text: str) -> str:
    """Return Markdown that shows a plain text as it is, with its lines."""
    paragraphs = text.strip("\n").split("\n\n")
    return "\n\n".join("\\\n".join(map(_plain, each.split("\n"))) for each in paragraphs)


async def _record(ledger: Ledger, channel: str, envelope: Envelope, sent: SentPost) -> None:
    if (row := envelope.row) is None:  # a test message
        return
    may_lapse = any(each.may_lapse for each in envelope.buttons)
    async with ledger.write() as session:
        stored = SentRow(
            channel=channel,
            chat_id=sent.post.chat_id,
            message_id=sent.message_id,
            outbox_id=row.id,
            part=sent.part,
            run_id=row.run_id,
            words=" ".join(word for each in envelope.buttons for word in each.all_words),
            buttons=bool(sent.post.buttons) and may_lapse,
            sent_at=ledger.now(),
        )
        await session.merge(stored)


def kind(store_: BlockStore[Any]) -> ChannelKind:
    """Return the channels of the accounts in ``store_``."""

    async def read(client: PrefectClient, name: str) -> ConversationChannel:
        document = await store_.read(client, name, include_secrets=True)
        return ConversationChannel(accounts.build(store_.slug, name, dict(document.data)))

    async def check(client: PrefectClient, name: str, settings: Any) -> None:
        await accounts.check(client, accounts.KIND_BY_SLUG[store_.slug], name, settings)

    return ChannelKind(store_, read, check)


TELEGRAM = kind(accounts.TELEGRAM)
SLACK = kind(accounts.SLACK)
MAIL = kind(accounts.MAIL)
