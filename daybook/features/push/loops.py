"""The service of the keeper that pushes the messages that need a person.

A message is recorded as pushed after it was sent. If the keeper dies in between, the next leader
sends it again, and the browser replaces the notification, because it has the same tag.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import timedelta
from functools import partial

import httpx
from sqlalchemy import delete, update
from sqlmodel import col

from daybook import home as homes
from daybook import settings
from daybook.delivery.sending import GONE_STATUS
from daybook.errors import InvalidInput, OutgoingRefused
from daybook.feature import loaded
from daybook.features.push import encryption, store
from daybook.features.push.encryption import PrivateKey
from daybook.features.push.tables import PushedRow, SubscriptionRow
from daybook.http import guard, request
from daybook.http.guard import Guard, Rule
from daybook.http.httpx_transport import HttpxTransport
from daybook.http.request import NoResponse
from daybook.keeper.services import Loop, Service
from daybook.ledger.engine import Ledger, sharing
from daybook.ledger.tables import OutboxRow
from daybook.short_text import clip, one_line

INTERVAL = timedelta(seconds=5)
TIMEOUT_SECONDS = 10.0
TIME_TO_LIVE_SECONDS = 12 * 60 * 60
"""Time for which a push service keeps a message for a browser that is offline."""
MAX_RESPONSE_BYTES = 10_000
MAX_BODY_CHARACTERS = 240
_GONE = (404, GONE_STATUS)
_NO_ADDRESS = "https://daybook.invalid"
"""Subject of the signature without a public URL; services demand one, and do not open it."""


async def push(ledger: Ledger) -> None:
    """Push the messages that need a person to all subscriptions of browsers that are logged in."""
    async with ledger.read() as session:
        known = await store.stored(session)
        if not known:
            return
        now = ledger.now()
        since = min(each.created_at for each in known)
        messages = await store.pending(session, since, now)
    if not messages:
        return
    current = await _logged_in(ledger)
    if current is not None:
        await _delete(ledger, [each.id for each in known if each.session_id not in current])
        known = [each for each in known if each.session_id in current]
    key = encryption.home_key(homes.current_home())
    async with HttpxTransport(Guard.from_settings(Rule.AGENT), follow=False) as transport:
        for message in messages:
            wanted = [each for each in known if each.created_at <= message.created_at]
            sends = (_send(transport, key, each, message, ledger) for each in wanted)
            ids = [each.id for each in wanted]
            errors = dict(zip(ids, await asyncio.gather(*sends), strict=True))
            await _record(ledger, message.id, errors)
            known = [each for each in known if errors.get(each.id, "") is not None]


async def _logged_in(ledger: Ledger) -> frozenset[str] | None:
    """Return the ids of the devices; None if a login is not stored."""
    module = next(loaded("devices"), None)
    if module is None:
        return None
    with sharing(ledger):
        return frozenset(each.id for each in await module.all_devices())


def content(message: OutboxRow) -> bytes:
    """Return the JSON that `sw.js` reads: title, body, tag, and the path of the page to open."""
    path = f"/runs/{message.run_id}" if message.run_id else "/inbox"
    body = clip(one_line(message.body, 4 * MAX_BODY_CHARACTERS), MAX_BODY_CHARACTERS)
    fields = {"title": message.subject, "body": body, "tag": message.id, "path": path}
    return json.dumps(fields, ensure_ascii=False).encode(errors="replace")


async def _send(
    transport: HttpxTransport,
    key: PrivateKey,
    row: SubscriptionRow,
    message: OutboxRow,
    ledger: Ledger,
) -> str | None:
    """Send one message. Return the error, perhaps ""; None if the subscription has ended.

    No error contains the endpoint's path, which is secret.
    """
    origin = guard.origin(httpx.URL(row.endpoint))
    try:
        public_key, auth = encryption.decode(row.public_key), encryption.decode(row.auth)
        subject = settings.load().public_url or _NO_ADDRESS
        answer = await request.request(
            transport,
            "POST",
            row.endpoint,
            headers={
                "authorization": encryption.authorization(key, origin, subject, ledger.now()),
                "content-encoding": "aes128gcm",
                "content-type": "application/octet-stream",
                "ttl": str(TIME_TO_LIVE_SECONDS),
                "urgency": "high",
            },
            body=encryption.encrypt(content(message), public_key, auth),
            secret={"authorization"},
            timeout=TIMEOUT_SECONDS,
            limit=MAX_RESPONSE_BYTES,
        )
    except NoResponse as error:
        if error.part is None:
            return f"{origin} did not answer"
        answer = error.part
    except OutgoingRefused:
        return f"{origin} may not be reached"
    except (InvalidInput, OSError, ValueError) as error:
        return f"{origin}: {type(error).__name__}"
    if answer.status in _GONE:
        return None
    return "" if 200 <= answer.status < 300 else f"{origin} answered {answer.status}"


async def _record(ledger: Ledger, message_id: str, errors: dict[str, str | None]) -> None:
    async with ledger.write() as session:
        now = ledger.now()
        await session.merge(PushedRow(id=message_id, at=now))
        for id_, error in errors.items():
            of_row = col(SubscriptionRow.id) == id_
            if error is None:
                await session.execute(delete(SubscriptionRow).where(of_row))
                continue
            values = {"error": error} if error else {"error": "", "pushed_at": now}
            await session.execute(update(SubscriptionRow).where(of_row).values(**values))


async def _delete(ledger: Ledger, ids: Sequence[str]) -> None:
    if ids:
        async with ledger.write() as session:
            await session.execute(
                delete(SubscriptionRow).where(col(SubscriptionRow.id).in_(list(ids)))
            )


LOOPS = (
    Loop(
        interval=lambda: INTERVAL,
        services=(
            Service(
                "push",
                "pushes the messages that need a person to subscribed browsers",
                lambda context, _: partial(push, context.ledger),
            ),
        ),
    ),
)
