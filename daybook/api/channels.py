"""Operations on channels: list, add, test, remove. No result contains a channel's URL."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from pydantic import BaseModel

from daybook import settings
from daybook.api.documents import refuse_if_used, stored_jobs
from daybook.delivery import outbox
from daybook.delivery.channels import apprise, registry
from daybook.delivery.channels.base import Message, NotDelivered
from daybook.errors import InvalidInput, NotFound
from daybook.ledger.engine import open_ledger
from daybook.ledger.tables import new_id
from daybook.prefect import client as prefect

if TYPE_CHECKING:
    pass

TEST_TEXT = "This is a test message from Daybook: this channel works."
FIELDS = apprise.ChannelSettings.model_fields
"""Fields of the settings of a channel that `add` stores."""
OWN_KIND = apprise.STORE.slug
"""`ListedChannel.kind` of the channels that `add` stores."""
_SUBJECT = "Daybook: test message"


class ListedChannel(BaseModel, frozen=True):
    """A channel, with the names of the ``jobs`` that send messages to it.

    ``kind`` is `inbox`, `file`, `console` or the slug of the block's type. ``chat_id`` is True if a
    job has to name a chat. ``limit`` is the maximum length of a message in characters. If the block
    is invalid, ``limit`` is None, and ``problem`` is the reason.
    """

    name: str
    kind: str
    chat_id: bool
    limit: int | None
    problem: str | None
    jobs: list[str]


class ChannelTest(BaseModel, frozen=True):
    """Result of a test message. ``problem`` is None if the message arrived."""

    channel: str
    seconds: float
    problem: str | None


async def names(within: float) -> dict[str, str]:
    """Return the `ListedChannel.kind` of each channel by name.

    Raise `TimeoutError` if Prefect does not answer within ``within`` seconds.
    """
    # The timeout starts after the import of Prefect, which takes a second.
    async with prefect.connected() as client, asyncio.timeout(within):
        return await registry.names(client)


async def list_channels() -> list[ListedChannel]:
    """Return all channels, sorted by name; the built-in channels are first."""
    references = await _references()
    async with prefect.connected() as client:
        listed = []
        for name, kind in (await registry.names(client)).items():
            channel, problem = None, None
            try:
                channel = await registry.find(client, name)
            except InvalidInput as error:
                problem = error.problem
            except NotDelivered as error:
                problem = str(error)
            listed.append(
                ListedChannel(
                    name=name,
                    kind=kind,
                    chat_id=channel.needs_chat_id if channel else False,
                    limit=channel.limit if channel else None,
                    problem=problem,
                    jobs=_users_of(name, kind, references),
                )
            )
        return listed


async def show(name: str) -> ListedChannel:
    """Return one channel. Raise `NotFound`."""
    listed = await list_channels()
    found = next((each for each in listed if each.name == name), None)
    if found is None:
        raise NotFound("channel", name, known=[each.name for each in listed])
    return found


async def add(name: str, url: str, *, replace: bool = False) -> ListedChannel:
    """Store a channel as a Prefect block. With ``replace``, replace a channel that `add` stored.

    Raise `InvalidInput`; then nothing was stored, and the error's text does not contain the URL.
    """
    apprise.validate(name, url)
    async with prefect.answering() as client:
        await registry.check_name(client, OWN_KIND, name)
        made = await apprise.add(client, name, url, replace=replace)
    kind = apprise.STORE.slug
    return ListedChannel(
        name=name,
        kind=kind,
        chat_id=made.needs_chat_id,
        limit=made.limit,
        problem=None,
        jobs=_users_of(name, kind, await _references()),
    )


async def test(name: str, chat_id: str = "", text: str = TEST_TEXT) -> ChannelTest:
    """Send one message to the channel now; wait until it was sent or failed.

    Raise `UnknownName`, `Ambiguous`, and `InvalidInput` for an invalid chat id or block. Raise
    `NotDelivered` if the block cannot be loaded in time.
    """
    started, problem = time.monotonic(), None
    async with prefect.connected() as client:
        await registry.check(client, name, chat_id)
        async with open_ledger() as ledger:
            if name == outbox.INBOX:
                async with ledger.write() as session:
                    await outbox.enqueue_message(
                        session,
                        key=f"test:{new_id()}",
                        purpose=outbox.ALERT,
                        event="test",
                        channel=name,
                        chat_id=chat_id,
                        subject=_SUBJECT,
                        body=text,
                        now=ledger.now(),
                    )
            now = ledger.now()
        message = Message(
            id=new_id(), event="test", subject=_SUBJECT, body=text, chat_id=chat_id, at=now
        )
        try:
            await (await registry.find(client, name)).send(message)
        except NotDelivered as error:
            problem = str(error)
    seconds = round(time.monotonic() - started, 3)
    return ChannelTest(channel=name, seconds=seconds, problem=problem)


async def remove(name: str) -> None:
    """Delete a channel of Daybook's own: one that `add` stored, or that a feature has.

    Raise `NotFound` for an unknown channel. Raise `InvalidInput` for any other channel, and for one
    that jobs or the operator's alerts use.
    """
    if name in registry.BUILTIN:
        raise InvalidInput("channel", f'"{name}" is a built-in channel, which cannot be removed')
    async with prefect.answering() as client:
        known = await registry.names(client)
        # If Prefect has lost a channel, the keeper restores it from its copy in the ledger.
        kind = known.get(name) or known.get(f"{apprise.STORE.slug}/{name}") or apprise.STORE.slug
        own = registry.kinds()
        if kind not in own:
            problem = f'"{name}" is a Prefect block ({kind})'
            raise InvalidInput("channel", problem, "delete it in Prefect's UI, under Blocks")
        references = await _references()
        references.append((settings.load().alert_channel, "DAYBOOK_ALERT_CHANNEL"))
        users = _users_of(name, kind, references)
        refuse_if_used("channel", name, users)
        await own[kind].store.remove(client, name.rpartition("/")[2])


async def _references() -> list[tuple[str, str]]:
    """Return a pair for each job: the channel that the job names (or ""), and the job's name."""
    return [(each.job.notify.channel, each.row.name) for each in await stored_jobs()]


def _users_of(name: str, kind: str, references: list[tuple[str, str]]) -> list[str]:
    """Return the users whose reference, a name or ``<slug>/<name>``, can mean this channel.

    The name of a built-in channel never means a block.
    """
    short = name.rpartition("/")[2]
    same = {name, f"{kind}/{short}"} | ({short} - registry.BUILTIN.keys())
    return [user for reference, user in references if reference in same]
