"""What can be asked of channels: list, add, test, remove. A URL goes in, and never comes out."""

from __future__ import annotations

import time
from typing import Any

from daybook import settings
from daybook.delivery import outbox
from daybook.delivery.channels import apprise, registry
from daybook.delivery.channels.base import Message, NotDelivered
from daybook.errors import InvalidInput
from daybook.jobs import store
from daybook.ledger.engine import open_ledger
from daybook.ledger.tables import new_id

TEST_TEXT = "This channel works: Daybook sent this to try it."
_SUBJECT = "Daybook: a test"


async def list_channels() -> list[dict[str, Any]]:
    """All channels: ``{"name", "kind", "chat_id", "limit", "problem", "jobs"}``.

    ``kind`` is `inbox`, `file`, `console` or the slug of a block's type; ``chat_id`` whether a job
    has to name one; ``limit`` how many characters a message may have there; ``problem`` what is
    wrong with the block, or None; ``jobs`` the names of those that send there.
    """
    from daybook.prefect import client as prefect

    used = await _users()
    async with prefect.connected() as client:
        found = []
        for name, kind in (await registry.names(client)).items():
            about: dict[str, Any] = {"chat_id": False, "limit": None, "problem": None}
            try:
                channel = await registry.find(client, name)
                about |= {"chat_id": channel.needs_chat_id, "limit": channel.limit}
            except InvalidInput as error:
                about["problem"] = error.problem
            except NotDelivered as error:
                about["problem"] = str(error)
            found.append({"name": name, "kind": kind} | about | {"jobs": used.get(name, [])})
        return found


async def add(name: str, url: str, *, replace: bool = False) -> dict[str, Any]:
    """Keep a channel as a Prefect block: ``{"name", "kind", "chat_id", "limit"}``.

    Raises `InvalidInput` (nothing is stored), whose words do not hold the URL.
    """
    from daybook.prefect import client as prefect

    apprise.checked(name, url)
    if name in registry.LOCAL:
        raise InvalidInput("name", f'"{name}" is a channel that is always there', "choose another")
    async with prefect.connected() as client:
        await prefect.answers(client)
        known = await registry.names(client)
        if known.get(name, apprise.SLUG) != apprise.SLUG:
            raise InvalidInput(
                "name", f'"{name}" is a block of Prefect\'s ({known[name]})', "another"
            )
        made = await apprise.add(client, name, url, replace=replace)
    return {"name": name, "kind": apprise.SLUG, "chat_id": made.needs_chat_id, "limit": made.limit}


async def test(name: str, chat_id: str = "", text: str = TEST_TEXT) -> dict[str, Any]:
    """Send one message there, now: ``{"channel", "seconds", "problem"}``.

    ``problem`` is None when it arrived. Raises `UnknownName`, and `InvalidInput` for a bad chat id.
    """
    from daybook.prefect import client as prefect

    began, problem = time.monotonic(), None
    async with prefect.connected() as client:
        await registry.check(client, name, chat_id)
        async with open_ledger() as ledger:
            if name == outbox.INBOX:
                async with ledger.write() as session:
                    await outbox.tell(
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
    return {"channel": name, "seconds": round(time.monotonic() - began, 3), "problem": problem}


async def remove(name: str) -> None:
    """Forget a channel of ours; refused while jobs, or the operator's alerts, go there."""
    from daybook.prefect import client as prefect

    if name in registry.LOCAL:
        raise InvalidInput("channel", f'"{name}" is always there', "jobs may simply not use it")
    async with prefect.connected() as client:
        await prefect.answers(client)
        known = await registry.names(client)
        # One that Prefect does not have may be in the ledger, to be restored.
        kind = known.get(name) or known.get(f"{apprise.SLUG}/{name}") or apprise.SLUG
        if kind != apprise.SLUG:
            told = f'"{name}" is a block of Prefect\'s ({kind})'
            raise InvalidInput("channel", told, "delete it in Prefect: Blocks")
        users = (await _users()).get(name, [])
        if settings.load().alert_channel == name:
            users.append("DAYBOOK_ALERT_CHANNEL")
        if users:
            raise InvalidInput(
                "channel", f'"{name}" is used by {", ".join(users)}', "edit those first"
            )
        await apprise.remove(client, name.rpartition("/")[2])


async def _users() -> dict[str, list[str]]:
    """The names of the jobs that send to a channel, by the name that they give it."""
    async with open_ledger() as ledger, ledger.read() as session:
        stored = await store.every(session)
    found: dict[str, list[str]] = {}
    for each in stored:
        if each.job.notify.channel:
            found.setdefault(each.job.notify.channel, []).append(each.row.name)
    return found
