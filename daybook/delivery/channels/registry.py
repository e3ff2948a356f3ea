"""Resolution of a channel's name to its adapter. Each use of a channel resolves its name again.

Built-in names take precedence. So the channel of a block named `inbox` is called `<type
slug>/inbox`. Names of this form also distinguish two blocks of different types with the same name.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from daybook.delivery import attachments
from daybook.delivery.attachments import ATTEMPTS_WITH_FILES, WrittenFile
from daybook.delivery.channels import apprise, builtin, markup
from daybook.delivery.channels.base import Channel, ChannelKind, Message, NotDelivered
from daybook.delivery.outbox import ALERT, CONSOLE, FILE, INBOX
from daybook.errors import Ambiguous, InvalidInput, PrefectUnreachable, UnknownName
from daybook.feature import loaded
from daybook.jobs import limits
from daybook.jobs.limits import check_channel, may_use
from daybook.ledger.tables import OutboxRow

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

BUILTIN: dict[str, type[builtin.Inbox] | type[builtin.File] | type[builtin.Console]] = {
    INBOX: builtin.Inbox,
    FILE: builtin.File,
    CONSOLE: builtin.Console,
}
"""The adapter of each name in `outbox.BUILTIN_CHANNELS`."""

PREFECT_TIMEOUT_SECONDS = 10.0
"""Timeout for finding a channel.

If the server is gone, Prefect's client would retry for minutes.
"""


def kinds() -> dict[str, ChannelKind]:
    """Return the kinds of channels with a block type of Daybook's own, by its slug."""
    own = ChannelKind(apprise.STORE, apprise.read)
    return {each.store.slug: each for each in (own, *loaded("channels"))}


async def names(client: PrefectClient | None) -> dict[str, str]:
    """Return the kind of each channel, by the channel's name.

    The kind is the name of a built-in channel, or the slug of the block's type. If ``client`` is
    None, return only the built-in channels.
    """
    documents = await _documents(client)
    count = Counter(name for _, name in documents)
    blocks = {
        f"{slug}/{name}" if count[name] > 1 or name in BUILTIN else name: slug
        for slug, name in documents
    }
    return {name: name for name in BUILTIN} | dict(sorted(blocks.items()))


async def check_new(client: PrefectClient, kind: ChannelKind, name: str, settings: Any) -> None:
    """Raise `InvalidInput` if a channel of this kind cannot have the name or the settings."""
    await check_name(client, kind.store.slug, name)
    if kind.check is not None:
        await kind.check(client, name, settings)


async def check_name(client: PrefectClient, slug: str, name: str) -> None:
    """Raise `InvalidInput` if the name is a built-in channel, or one with another block type."""
    if name in BUILTIN:
        raise InvalidInput("name", f'"{name}" is a built-in channel', "choose another")
    for known, kind in (await names(client)).items():
        if known.rpartition("/")[2] == name and kind not in (slug, name):
            raise InvalidInput("name", f'"{name}" is another channel ({kind})', "choose another")


async def check(
    client: PrefectClient | None,
    name: str,
    chat_id: str,
    *,
    owner: str = "user",
    attaches_files: bool = False,
) -> None:
    """Check that a job of ``owner`` can use the channel with this chat id, and attach files to it.

    Raise `UnknownName` with the known names, `Ambiguous`, `InvalidInput`, `NotDelivered` if a block
    does not load in time, and the errors of Prefect's client. If ``client`` is None, only the
    built-in channels are known.
    """
    owner_limits = limits.load_limits(owner)
    check_channel(name, chat_id, owner_limits)
    if name == FILE and chat_id:
        builtin.check_name(chat_id)
    try:
        channel = await find(client, name)
    except UnknownName as error:
        if owner_limits is None:
            raise
        known = [each for each in error.known if may_use(each, owner_limits)]
        raise UnknownName("channel", name, known) from None
    if channel.needs_chat_id and not chat_id:
        raise InvalidInput(
            "chat_id", f'is missing: the channel "{name}" serves several chats', "set one"
        )
    if channel.needs_chat_id:
        apprise.check_chat_id(chat_id)
    if attaches_files and not channel.carries_files:
        problem = f'is only for mail, and the channel "{name}" does not send mail'
        hint = "use a channel whose URL begins with mailto:// or mailtos://, or no attach_files"
        raise InvalidInput("attach_files", problem, hint)


async def send(
    client: PrefectClient | None,
    row: OutboxRow,
    run_url: str | None = None,
    files: Sequence[WrittenFile] = (),
    links: Sequence[str] = (),
) -> None:
    """Send an outbox row that is a message or an alert. Raise `NotDelivered` if that fails.

    ``run_url`` is the URL of the run in Prefect's UI. The message carries ``files`` if the channel
    can; otherwise, a note names them. It ends with the lines ``links``. The blocks are stored in
    Prefect. If Prefect is unreachable or responds with an error, raise `PrefectUnreachable` or the
    error of Prefect's client; after these errors, no attempt was made.
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
        note="\n\n".join(links),
        # After some attempts, send plain text: the service may refuse the markup of this text.
        is_markdown=row.event == "completed"
        and row.attempts < ATTEMPTS_WITH_FILES
        and markup.is_markdown(row.body),
    )
    if row.purpose != ALERT:  # for every owner, the operator has chosen the channel of alerts
        try:
            check_channel(row.address, row.chat_id, limits.load_limits(row.owner))
        except InvalidInput as error:
            raise NotDelivered(str(error), temporary=False) from None
    try:
        async with asyncio.timeout(PREFECT_TIMEOUT_SECONDS):
            channel = await find(client, row.address)
    except InvalidInput as error:  # a user may create or fix the block later
        raise NotDelivered(str(error)) from None
    except TimeoutError:
        address = str(client.api_url) if client else None
        raise PrefectUnreachable(
            address, f"no answer within {PREFECT_TIMEOUT_SECONDS:g} s"
        ) from None
    if channel.needs_chat_id and not row.chat_id:
        raise NotDelivered(f'the channel "{row.address}" serves several chats: chat_id is missing')
    if files and row.run_id:
        refused = "" if channel.carries_files else "the channel does not carry files"
        if not refused and row.attempts >= ATTEMPTS_WITH_FILES:
            refused = f"{row.attempts} attempts with the files have failed"
        attached, note = attachments.choose(files, row.run_id, refused=refused)
        note = "\n\n".join(filter(None, (note, message.note)))
        message = replace(message, attachments=attached, note=note)
    await channel.send(message)


async def find(client: PrefectClient | None, name: str) -> Channel:
    """Return the channel with this name.

    Raise `UnknownName`, `Ambiguous`, `InvalidInput` for a block that cannot be used, `NotDelivered`
    for a block that does not load in time, and the errors of Prefect's client.
    """
    if name in BUILTIN:
        return BUILTIN[name]()
    documents = await _documents(client)
    slug, _, short = name.rpartition("/")
    matches = [each for each in documents if each[1] == short and slug in ("", each[0])]
    if len(matches) > 1:
        raise Ambiguous("channel", name, (f"{slug}/{name}" for slug, name in matches))
    if not matches or client is None:
        raise UnknownName(
            "channel", name, await names(client), "create one with `daybook channels add`"
        )
    from daybook.delivery.channels import prefect_blocks

    [(slug, short)] = matches
    if slug in (own := kinds()):
        return await own[slug].read(client, short)
    return await prefect_blocks.read(client, slug, short)


async def _documents(client: PrefectClient | None) -> list[tuple[str, str]]:
    """Return the type slug and the name of each block that can send messages."""
    if client is None:
        return []
    from daybook.delivery.channels import prefect_blocks

    own = kinds()
    listed = await asyncio.gather(*(each.store.names(client) for each in own.values()))
    ours = [(slug, name) for slug, names in zip(own, listed, strict=True) for name in names]
    return [*await prefect_blocks.list_blocks(client), *ours]
