"""Pictures that people send: read from the service, checked, and kept for their run.

::

    update: ids of the service ──► platform.read_pictures ──► rows ──► the run is requested

One transaction stores the pictures of a message, before the run is requested. After a `kill -9`
before it, they are read again by their ids; after it, they are there. Nothing decodes a picture:
its first bytes decide about its format, whatever the service or the name says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence

import httpx
from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.agents.pictures import (
    MAX_PICTURE_BYTES,
    MAX_PICTURES,
    Picture,
    content_type_of,
    name_of,
)
from daybook.errors import InvalidInput
from daybook.features.conversations import store
from daybook.features.conversations.platform import Platform, PlatformError, ReceivedPicture
from daybook.features.conversations.tables import PictureRow
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import RunRow
from daybook.runs.claim_requests import session_request_key
from daybook.runs.retention import BATCH_SIZE, RetentionLimits

DOWNLOAD_SECONDS = 30.0
MAX_RETRY_AFTER_SECONDS = 60.0
"""Maximum pause for which a file server can ask: it is one of the whole account."""


def _checked(received: Iterable[ReceivedPicture]) -> list[Picture]:
    """Return the pictures. Raise `InvalidInput` if there are too many, or if one cannot be sent."""
    found = list[Picture]()
    for each in received:
        if len(each.content) > MAX_PICTURE_BYTES:
            raise too_large()
        kind = content_type_of(each.content)
        if not kind:
            problem = f"{name_of(each.name)} is not in a known format"
            raise InvalidInput("picture", problem, "send it as JPEG, PNG, GIF or WebP")
        found.append(Picture(name_of(each.name), kind, each.content))
    if not found:
        raise InvalidInput("picture", "is no longer there", "send it again")
    if len(found) > MAX_PICTURES:
        raise InvalidInput("picture", f"there are more than {MAX_PICTURES}", "send fewer")
    return found


def too_large() -> InvalidInput:
    """Return the error that a picture has more than `MAX_PICTURE_BYTES`."""
    return InvalidInput(
        "picture", f"has more than {MAX_PICTURE_BYTES / 1e6:g} MB", "send a smaller one"
    )


# --- download


async def download(url: str, origin: str, headers: Mapping[str, str] | None = None) -> bytes:
    """Return what is at ``url``, which must be at the scheme, host and port of ``origin``.

    Follow no redirect: it could lead to another host, or to a page for a login. Raise
    `PlatformError`, without the URL, and `InvalidInput` if it is too large.
    """
    if not is_at(url, origin):
        raise PlatformError("the service names another host for the picture", is_temporary=False)
    sent = {"Accept-Encoding": "identity", **(headers or {})}
    content = bytearray()
    try:
        async with (
            asyncio.timeout(DOWNLOAD_SECONDS),
            httpx.AsyncClient(follow_redirects=False, timeout=DOWNLOAD_SECONDS) as client,
            client.stream("GET", url, headers=sent) as response,
        ):
            if response.status_code != 200:
                raise _refused(response)
            async for part in response.aiter_raw():
                content += part
                if len(content) > MAX_PICTURE_BYTES:
                    raise too_large()
    except TimeoutError:
        raise PlatformError("the picture did not arrive in time") from None
    except httpx.HTTPError as error:  # it may contain the URL
        raise PlatformError(f"the picture: {type(error).__name__}") from None
    return bytes(content)


def is_at(url: str, origin: str) -> bool:
    """Return whether a URL without a user has the scheme, the host and the port of ``origin``."""
    try:
        given, wanted = httpx.URL(url), httpx.URL(origin)
    except (httpx.InvalidURL, ValueError):
        return False
    return not given.userinfo and all(
        getattr(given, each) == getattr(wanted, each) for each in ("scheme", "host", "port")
    )


def _refused(response: httpx.Response) -> PlatformError:
    status, seconds = response.status_code, response.headers.get("Retry-After", "")
    is_number = seconds.isascii() and seconds.isdigit()
    return PlatformError(
        f"the service answered with HTTP {status} instead of the picture",
        is_temporary=status == 429 or status >= 500,
        retry_after=min(float(seconds), MAX_RETRY_AFTER_SECONDS) if is_number else 0.0,
    )


# --- rows


async def read(ledger: Ledger, platform: Platform, key: str, ids: Sequence[str]) -> list[Picture]:
    """Return the pictures of the request ``key``; read them, unless they are kept, and keep them.

    Raise `PlatformError`, and `InvalidInput` for pictures that no model can get.
    """
    async with ledger.read() as session:
        kept = await _of_keys(session, [key])
    if kept:
        return kept[key]
    found = _checked(await platform.read_pictures(ids))
    async with ledger.write() as session:
        # A leader that was replaced while it read them may have kept them too.
        if kept := await _of_keys(session, [key]):
            return kept[key]
        for number, each in enumerate(found, 1):
            session.add(
                PictureRow(
                    key=key,
                    number=number,
                    name=each.name,
                    content_type=each.content_type,
                    received_at=ledger.now(),
                    content=each.content,
                )
            )
    return found


async def _of_keys(session: AsyncSession, keys: Collection[str]) -> dict[str, list[Picture]]:
    found = dict[str, list[Picture]]()
    query = select(PictureRow).where(col(PictureRow.key).in_(keys))
    query = query.order_by(col(PictureRow.key), col(PictureRow.number))
    for row in (await session.execute(query)).scalars() if keys else ():
        found.setdefault(row.key, []).append(Picture(row.name, row.content_type, row.content))
    return found


async def of_runs(session: AsyncSession, run_ids: Sequence[str]) -> dict[str, tuple[Picture, ...]]:
    """Return the pictures of the messages that have requested these runs, by run id."""
    keys = dict[str, str]()
    for run_id in run_ids:
        if key := await _request_key(session, run_id):
            keys[run_id] = key
    found = await _of_keys(session, set(keys.values()))
    return {run_id: tuple(found[key]) for run_id, key in keys.items() if key in found}


async def _request_key(session: AsyncSession, run_id: str) -> str:
    """Return the key of the update that has requested a run, or the run of which it is a retry."""
    run = await session.get(RunRow, run_id)
    while run is not None and run.retry_of:
        run = await session.get(RunRow, run.retry_of)
    beginning = session_request_key("")
    is_request = run is not None and run.occurrence.startswith(f"{beginning}{store.EVENT}:")
    return run.occurrence.removeprefix(beginning) if run is not None and is_request else ""


async def delete_old(ledger: Ledger, limits: RetentionLimits) -> int:
    """Delete one batch of old pictures. Return their number."""
    before = max(ledger.now() - store.MAX_AGE, limits.since(ledger.now()))
    old = select(PictureRow.key, PictureRow.number).where(col(PictureRow.received_at) <= before)
    async with ledger.read() as session:
        if (await session.execute(old.limit(1))).first() is None:
            return 0
    async with ledger.write() as session:
        found = (await session.execute(old.limit(BATCH_SIZE))).tuples().all()
        for key, number in found:
            is_row = (col(PictureRow.key) == key) & (col(PictureRow.number) == number)
            await session.execute(delete(PictureRow).where(is_row))
        return len(found)
