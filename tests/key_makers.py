"""Functions for `side_by_side` processes that need a home's key at once; few imports."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from daybook.delivery import home_secret
from daybook.home import Home
from daybook.resources import encryption


async def ledger_key(home: Home, barrier: Any) -> str:
    barrier.wait(60)
    return encryption.read_or_create_key(home.ledger_key).id


async def signing_secret(home: Home, now: datetime, barrier: Any) -> str:
    barrier.wait(60)
    return home_secret.default_secret(home, now)
