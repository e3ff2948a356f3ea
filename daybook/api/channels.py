"""Operations on channels: list, add, test, remove. No result contains a channel's URL."""

from __future__ import annotations

import time
from typing import Any

from daybook import settings
from daybook.api.document_users import refuse_if_used, stored_jobs
from daybook.delivery import outbox
from daybook.delivery.channels import apprise, registry
from daybook.delivery.channels.base import Message, NotDelivered
from daybook.errors import InvalidInput
from daybook.ledger.engine import open_ledger
from daybook.ledger.tables import new_id
from daybook.prefect import client as prefect

TEST_TEXT = "This channel works: this is a test message from Daybook."
_SUBJECT = "Daybook: test message"


async def list_channels() -> list[dict[str, Any]]:
    """Return all channels: ``{"name", "kind", "chat_id", "limit", "problem", "jobs"}``.

    ``kind`` is `inbox`, `file`, `console` or the slug of the block's type; ``chat_id`` is True if
    a job has to name a chat; ``limit`` is the maximum number of characters of a message;
    ``problem`` is what is wrong with the block, or None; ``jobs`` are the names of the jobs that
    send there.
    """
    users = await _users()
    async with prefect.connected() as client:
        listed = []
        for name, kind in (await registry.names(client)).items():
            details: dict[str, Any] = {"chat_id": False, "limit": None, "problem": None}
            try:
                channel = await registry.find(client, name)
                details |= {"chat_id": channel.needs_chat_id, "limit": channel.limit}
            except InvalidInput as error:
                details["problem"] = error.problem
            except NotDelivered as error:
                details["problem"] = str(error)
            listed.append({"name": name, "kind": kind} | details | {"jobs": users.get(name, [])})
        return listed


async def add(name: str, url: str, *, replace: bool = False) -> dict[str, Any]:
    """Store a channel as a Prefect block: ``{"name", "kind", "chat_id", "limit"}``.

    Raise `InvalidInput` (nothing is stored); its text does not contain the URL.
    """
    apprise.validate(name, url)
    if name in registry.BUILTIN:
        raise InvalidInput("name", f'"{name}" is a built-in channel', "choose another")
    async with prefect.connected() as client:
        await prefect.check_connection(client)
        known = await registry.names(client)
        if known.get(name, apprise.STORE.slug) != apprise.STORE.slug:
            raise InvalidInput(
                "name", f'"{name}" is a Prefect block ({known[name]})', "choose another"
            )
        made = await apprise.add(client, name, url, replace=replace)
    return {
        "name": name,
        "kind": apprise.STORE.slug,
        "chat_id": made.needs_chat_id,
        "limit": made.limit,
    }


async def test(name: str, chat_id: str = "", text: str = TEST_TEXT) -> dict[str, Any]:
    """Send one message to the channel now: ``{"channel", "seconds", "problem"}``.

    ``problem`` is None if the message arrived. Raise `UnknownName`, and `InvalidInput` for an
    invalid chat id.
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
    return {"channel": name, "seconds": round(time.monotonic() - started, 3), "problem": problem}


async def remove(name: str) -> None:
    """Delete a channel that `add` stored. Raise `InvalidInput` if jobs or the operator's alerts use
    it.
    """
    if name in registry.BUILTIN:
        raise InvalidInput("channel", f'"{name}" is a built-in channel, which cannot be removed')
    async with prefect.connected() as client:
        await prefect.check_connection(client)
        known = await registry.names(client)
        # A channel that Prefect has lost may still be in the ledger, from which it is restored.
        kind = known.get(name) or known.get(f"{apprise.STORE.slug}/{name}") or apprise.STORE.slug
        if kind != apprise.STORE.slug:
            problem = f'"{name}" is a Prefect block ({kind})'
            raise InvalidInput("channel", problem, "delete it in Prefect's UI, under Blocks")
        users = (await _users()).get(name, [])
        if settings.load().alert_channel == name:
            users.append("DAYBOOK_ALERT_CHANNEL")
        refuse_if_used("channel", name, users)
        await apprise.STORE.remove(client, name.rpartition("/")[2])


async def _users() -> dict[str, list[str]]:
    """Return the names of the jobs that use each channel, by the name that they give it."""
    users: dict[str, list[str]] = {}
    for each in await stored_jobs():
        if each.job.notify.channel:
            users.setdefault(each.job.notify.channel, []).append(each.row.name)
    return users
