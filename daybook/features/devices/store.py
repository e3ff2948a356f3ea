"""The devices in the ledger: `web.login.Devices`, the list, and what ends a device."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import timedelta
from typing import Any, Self

from pydantic import BaseModel
from sqlalchemy import Select, delete
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.api.changes import REVOCABLE, part
from daybook.errors import LedgerUnreachable, NotFound
from daybook.features.devices.tables import DeviceRow
from daybook.instants import UtcTime
from daybook.ledger.engine import Ledger, open_ledger, reading
from daybook.ledger.tokens import USE_RECORD_INTERVAL
from daybook.ledger.views import columns
from daybook.names import validate_line
from daybook.operations.login import DEVICE_LIFETIME_SECONDS
from daybook.runs.restored import Restore
from daybook.runs.retention import BATCH_SIZE, RetentionLimits

LIFETIME = timedelta(seconds=DEVICE_LIFETIME_SECONDS)
MAX_NAME_LENGTH = 60

_BROWSERS = (
    *(("Edg", "Edge"), ("OPR/", "Opera"), ("SamsungBrowser", "Samsung Internet")),
    *(("Firefox/", "Firefox"), ("FxiOS", "Firefox"), ("CriOS", "Chrome"), ("Chrome/", "Chrome")),
    ("Safari/", "Safari"),
)
_SYSTEMS = (
    *(("iPhone", "iPhone"), ("iPad", "iPad"), ("Android", "Android"), ("Windows", "Windows")),
    *(("Mac OS X", "Mac"), ("Linux", "Linux")),
)


class Device(BaseModel, frozen=True):
    """A browser that is logged in. ``place`` is `local` (this machine's names) or `public`."""

    id: str
    name: str
    place: str
    first_used_at: UtcTime
    used_at: UtcTime

    @classmethod
    def of(cls, row: DeviceRow) -> Self:
        return cls.model_validate(columns(cls, row))


def name_of(user_agent: str) -> str:
    """Return a name such as `Firefox on Android` for the header of a browser."""
    browser = next((name for mark, name in _BROWSERS if mark in user_agent), "")
    system = next((name for mark, name in _SYSTEMS if mark in user_agent), "")
    if browser and system:
        return f"{browser} on {system}"
    first = re.sub(r"[^\w./ -]", "", user_agent.partition("/")[0])[:MAX_NAME_LENGTH].strip()
    return browser or system or first or "a browser"


# --- web.login.Devices


async def add(device_id: str, place: str, user_agent: str) -> None:
    """Store a device that logs in now. Raise `LedgerUnreachable`."""
    async with open_ledger() as ledger, ledger.write() as session:
        now = ledger.now()
        name = name_of(user_agent)
        row = DeviceRow(id=device_id, name=name, place=place, first_used_at=now, used_at=now)
        session.add(row)


async def use(device_id: str) -> bool:
    """Return whether the device may be used, and record its use. Raise `LedgerUnreachable`."""
    async with open_ledger() as ledger:
        async with ledger.read() as session:
            row = await session.get(DeviceRow, device_id)
        now = ledger.now()
        if row is None or now >= row.used_at + LIFETIME:
            return False
        if now >= row.used_at + USE_RECORD_INTERVAL:
            with suppress(LedgerUnreachable):  # if the ledger is busy, the device still works
                async with ledger.write() as session:
                    found = await session.get(DeviceRow, device_id)
                    if found is not None:
                        found.used_at = now
                        session.add(found)
        return True


async def remove(device_id: str) -> None:
    """End a device, if it is stored. Raise `LedgerUnreachable`."""
    async with open_ledger() as ledger, ledger.write() as session:
        row = await session.get(DeviceRow, device_id)
        if row is not None:
            await session.delete(row)


# --- the page


async def all_devices() -> list[Device]:
    """Return the devices, the last used one first."""
    async with reading() as session:
        query = select(DeviceRow).order_by(col(DeviceRow.used_at).desc(), col(DeviceRow.id))
        return [Device.of(row) for row in (await session.execute(query)).scalars()]


async def rename(device_id: str, name: str) -> None:
    """Change the name of a device. Raise `InvalidInput` and `NotFound`."""
    name = validate_line(name, "name", MAX_NAME_LENGTH) or "a browser"
    async with open_ledger() as ledger, ledger.write() as session:
        row = await session.get(DeviceRow, device_id)
        if row is None:
            raise NotFound("device", device_id)
        row.name = name
        session.add(row)


def changes() -> list[Select[Any]]:
    """Return the query for the ids of the devices, which ends the streams of the other ones."""
    return [part(REVOCABLE, DeviceRow.id)]


# --- ends


async def delete_old(ledger: Ledger, limits: RetentionLimits) -> int:
    """Delete one batch of devices that were not used for `LIFETIME`. Return their number."""
    unused = select(DeviceRow.id).where(col(DeviceRow.used_at) <= ledger.now() - LIFETIME)
    async with ledger.read() as session:
        if (await session.execute(unused.limit(1))).first() is None:
            return 0
    async with ledger.write() as session:
        old = list((await session.execute(unused.limit(BATCH_SIZE))).scalars())
        await session.execute(delete(DeviceRow).where(col(DeviceRow.id).in_(old)))
        return len(old)


async def forget_all(session: AsyncSession, restore: Restore) -> None:
    """Delete all devices of a restored ledger: some may have been revoked since the backup."""
    await session.execute(delete(DeviceRow))
