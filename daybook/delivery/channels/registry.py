"""From a channel's name to what it means, at the moment at which it is needed.

The names that need nobody win: a block that is called `inbox` too is `<type slug>/inbox`, and so
are two blocks of different types that have one name.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING

from daybook.delivery.channels import apprise, builtin
from daybook.delivery.channels.base import Channel, Message, NotDelivered
from daybook.delivery.outbox import ALERT
from daybook.errors import Ambiguous, InvalidInput, PrefectUnreachable, UnknownName
from daybook.jobs import limits
from daybook.jobs.limits import check_channel, may_use
from daybook.ledger.tables import OutboxRow

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

LOCAL: dict[str, type[builtin.Inbox] | type[builtin.File] | type[builtin.Console]] = {
    "inbox": builtin.Inbox,
    "file": builtin.File,
    "console": builtin.Console,
}

ASKING = 10.0
"""Seconds for a question to Prefect: its client asks a server that went away for minutes."""


async def names(client: PrefectClient | None) -> dict[str, str]:
    """Every channel by the name that jobs give it, with its kind or the slug of its block type."""
    found = await _documents(client)
    often = Counter(name for _, name in found)
    blocks = {
        f"{slug}/{name}" if often[name] > 1 or name in LOCAL else name: slug for slug, name in found
    }
    return {name: name for name in LOCAL} | dict(sorted(blocks.items()))


async def check(
    client: PrefectClient | None, name: str, chat_id: str, *, owner: str = "user"
) -> None:
    """Refuse a channel that nothing can be sent to so; a job of ``owner`` is to have it.

    Raises `UnknownName` with the known ones, `Ambiguous`, and `InvalidInput`.
    """
    its = limits.of_owner(owner)
    check_channel(name, chat_id, its)
    if name == "file" and chat_id:
        builtin.check_name(chat_id)
    try:
        channel = await find(client, name)
    except UnknownName as error:
        if its is None:
            raise
        known = [each for each in error.known if may_use(each, its)]
        raise UnknownName("channel", name, known) from None
    if channel.needs_chat_id and not chat_id:
        raise InvalidInput("chat_id", f'is missing: the channel "{name}" has several', "give one")
    if channel.needs_chat_id:
        apprise.check_chat_id(chat_id)


async def send(client: PrefectClient | None, row: OutboxRow, run_url: str | None = None) -> None:
    """Send a row of the outbox that is a message or an alert; raises `NotDelivered`.

    ``run_url`` is where Prefect's UI shows its run. Where Prefect, which knows the blocks, cannot
    be reached or answers with an error, `PrefectUnreachable` is raised or its client's own error:
    nothing was tried.
    """
    message = Message(
        id=row.id,
        event=row.event,
        subject=row.subject,
        body=row.body,
        chat_id=row.chat_id,
        at=row.created_at,
        run_id=row.run_id,
        run_url=run_url,
    )
    if row.purpose != ALERT:  # where an alert goes the operator chose, whoever's job it is of
        try:
            check_channel(row.address, row.chat_id, limits.of_owner(row.owner))
        except InvalidInput as error:
            raise NotDelivered(str(error), temporary=False) from None
    try:
        async with asyncio.timeout(ASKING):
            channel = await find(client, row.address)
    except InvalidInput as error:  # it may be made, or mended
        raise NotDelivered(str(error)) from None
    except TimeoutError:
        address = str(client.api_url) if client else None
        raise PrefectUnreachable(address, f"no answer within {ASKING:g} s") from None
    if channel.needs_chat_id and not row.chat_id:
        raise NotDelivered(f'the channel "{row.address}" has several chats: chat_id is missing')
    await channel.send(message)


async def find(client: PrefectClient | None, name: str) -> Channel:
    """Return the channel; raises `UnknownName`, `Ambiguous`, `InvalidInput` for bad settings."""
    if name in LOCAL:
        return LOCAL[name]()
    found = await _documents(client)
    slug, _, short = name.rpartition("/")
    fits = [each for each in found if each[1] == short and slug in ("", each[0])]
    if len(fits) > 1:
        raise Ambiguous("channel", name, (f"{slug}/{name}" for slug, name in fits))
    if not fits or client is None:
        raise UnknownName("channel", name, await names(client), "`daybook channels add` makes one")
    from daybook.delivery.channels import prefect_blocks

    [(slug, short)] = fits
    if slug == apprise.SLUG:
        return await apprise.read(client, short)
    return await prefect_blocks.read(client, slug, short)


async def _documents(client: PrefectClient | None) -> list[tuple[str, str]]:
    """The type slug and the name of each block that messages can be sent to."""
    if client is None:
        return []
    from daybook.delivery.channels import prefect_blocks

    return [*await prefect_blocks.every(client), *await apprise.every(client)]
