"""Pictures that people send: read from the service, checked, and kept for their run.

::

    update: ids of the service ──► platform.read_pictures ──► rows ──► the run is requested

One transaction stores the pictures of a message, before the run is requested. After a `kill -9`
before it, they are read again by their ids; after it, they are there. Nothing decodes a picture:
its first bytes decide about its format, whatever the service or the name says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

import httpx
from sqlalchemy import delete, exists, literal, or_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased
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
from daybook.features.conversations.platform import (
    Platform,
    PlatformError,
    ReceivedPicture,
    Update,
)
from daybook.features.conversations.tables import PictureRow
from daybook.ledger.engine import Ledger
from daybook.ledger.states import LIVE
from daybook.ledger.tables import RunRow
from daybook.runs.claim_requests import session_request_key
from daybook.runs.retention import BATCH_SIZE, RetentionLimits

DOWNLOAD_SECONDS = 30.0
MAX_WITHOUT_RUN = timedelta(days=1)
"""Age up to which a picture without a run stays: its run may still be requested."""
MAX_RETRY_AFTER_SECONDS = 60.0
"""Maximum pause for which a file server can ask: it is one of the whole account."""


async def _received(platform: Platform, ids: Sequence[str], *, is_optional: bool) -> list[Picture]:
    """Return the pictures. If they are optional, one that cannot be sent has a name that says so.

    Else raise `InvalidInput` for it. Raise `PlatformError`.
    """
    found, count = list[Picture](), 0
    try:
        received = await platform.read_pictures(ids)
        if not received and not is_optional:
            raise InvalidInput("picture", "is no longer there", "send it again")
    except InvalidInput as error:
        if not is_optional:
            raise
        return [Picture(f"any is left out: {error.problem}", "", b"")]
    for each in received:
        try:
            found.append(_checked(each, count))
            count += 1
        except InvalidInput as error:
            if not is_optional:
                raise
            found.append(Picture(f"{name_of(each.name)} is left out: {error.problem}", "", b""))
    return found


def _checked(given: ReceivedPicture, count: int) -> Picture:
    """Return the picture after ``count`` others. Raise `InvalidInput` if it cannot be sent."""
    if count == MAX_PICTURES:
        raise InvalidInput("picture", f"there are more than {MAX_PICTURES}", "send fewer")
    if len(given.content) > MAX_PICTURE_BYTES:
        raise too_large()
    kind = content_type_of(given.content)
    if not kind:
        problem = f"{name_of(given.name)} is not in a known format"
        raise InvalidInput("picture", problem, "send it as JPEG, PNG, GIF or WebP")
    return Picture(name_of(given.name), kind, given.content)


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


async def read(ledger: Ledger, platform: Platform, key: str, update: Update) -> list[Picture]:
    """Return the pictures of the request ``key``; read them, unless they are kept, and keep them.

    Those that no model can get have no content if they are optional; else raise `InvalidInput`.
    Raise `PlatformError`.
    """
    async with ledger.read() as session:
        kept = await _of_keys(session, [key])
    if kept:
        return kept[key]
    is_optional = update.has_optional_pictures
    found = await _received(platform, update.pictures, is_optional=is_optional)
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
    """Return the pictures of the messages that have requested these runs, by run id.

    Those that were left out are not among them.
    """
    keys = dict[str, str]()
    for run_id in run_ids:
        if key := await _request_key(session, run_id):
            keys[run_id] = key
    found = await _of_keys(session, set(keys.values()))
    for key, given in found.items():
        row = await store.get_update(session, *key.split(":", 2)[1:])
        is_optional = row is not None and store.update_of(row).has_optional_pictures
        found[key] = [replace(each, is_optional=is_optional) for each in given if each.content]
    return {run_id: tuple(found[key]) for run_id, key in keys.items() if found.get(key)}


async def _request_key(session: AsyncSession, run_id: str) -> str:
    """Return the key of the update that has requested a run, or the run of which it is a retry."""
    run = await session.get(RunRow, run_id)
    while run is not None and run.retry_of:
        run = await session.get(RunRow, run.retry_of)
    beginning = session_request_key("")
    is_request = run is not None and run.occurrence.startswith(f"{beginning}{store.EVENT}:")
    return run.occurrence.removeprefix(beginning) if run is not None and is_request else ""


async def delete_old(ledger: Ledger, limits: RetentionLimits) -> int:
    """Delete one batch of pictures that are old or whose run is gone. Return their number.

    Those of a run that has not ended, or of which such a run is a retry, stay.
    """
    now, retry = ledger.now(), aliased(RunRow)
    before = max(now - store.MAX_AGE, limits.since(now))
    of_run = exists().where(
        col(RunRow.occurrence) == literal(session_request_key("")) + col(PictureRow.key)
    )
    is_retried = exists().where(col(retry.retry_of) == col(RunRow.id), col(retry.status).in_(LIVE))
    old = select(PictureRow.key, PictureRow.number).where(
        or_(
            col(PictureRow.received_at) <= before,
            (col(PictureRow.received_at) <= now - MAX_WITHOUT_RUN) & ~of_run,
        ),
        ~of_run.where(col(RunRow.status).in_(LIVE) | is_retried),
    )
    async with ledger.read() as session:
        if (await session.execute(old.limit(1))).first() is None:
            return 0
    async with ledger.write() as session:
        found = (await session.execute(old.limit(BATCH_SIZE))).tuples().all()
        for key, number in found:
            is_row = (col(PictureRow.key) == key) & (col(PictureRow.number) == number)
            await session.execute(delete(PictureRow).where(is_row))
        return len(found)
