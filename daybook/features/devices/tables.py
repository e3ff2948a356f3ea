"""The table of devices."""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Field

from daybook.ledger.column_types import Instant
from daybook.ledger.table_parts import Table


class DeviceRow(Table, table=True):
    """A browser that has logged in. ``id`` is that of its cookie, which only signed cookies have.

    ``place`` says whether the cookie is for this machine's names or for the public URL.
    """

    __tablename__ = "devices_devices"

    id: str = Field(primary_key=True)
    name: str
    place: str
    first_used_at: datetime = Field(sa_type=Instant)
    used_at: datetime = Field(sa_type=Instant)
