"""The ledger's encrypted copies of Prefect's block documents: agents, secrets and the like.

Prefect is where they are used and edited; a copy is there to be restored after Prefect's database
was lost. All copies of a ledger are encrypted with one key, whose id is a fact of the ledger: a
home without that key can neither read copies nor add its own under another key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, delete, select

from daybook.errors import LedgerKeyMissing
from daybook.home import Home
from daybook.ledger.tables import BlockCopyRow, Fact
from daybook.resources import encryption
from daybook.resources.encryption import Key

_KEY_ID = "block_copies_key"

Ref = tuple[str, str]
"""The slug of the block type and the document's name."""


@dataclass(frozen=True)
class Version:
    """What tells whether a copy changed since it was read: a new encryption is never the same."""

    type_id: str
    sealed: str


def version(row: BlockCopyRow | None) -> Version | None:
    """The version of a row; None if there is no row."""
    return None if row is None else Version(row.type_id, row.sealed)


async def every(session: AsyncSession) -> list[BlockCopyRow]:
    """All copies, by type and name."""
    by = (col(BlockCopyRow.slug), col(BlockCopyRow.name))
    return list((await session.execute(select(BlockCopyRow).order_by(*by))).scalars())


async def get(session: AsyncSession, ref: Ref) -> BlockCopyRow | None:
    """One copy; None if there is none."""
    return await session.get(BlockCopyRow, ref)


async def key_id(session: AsyncSession) -> str | None:
    """The id of the key of all copies; None while nothing was ever encrypted."""
    fact = await session.get(Fact, _KEY_ID)
    return None if fact is None else fact.value


async def key(session: AsyncSession, home: Home) -> Key | None:
    """The key of this ledger's copies; None while it has none.

    Raises `LedgerKeyMissing` if the home has no key, or another one.
    """
    wanted = await key_id(session)
    if wanted is None:
        return None
    found = encryption.read(home.ledger_key)
    if found is None:
        raise LedgerKeyMissing(f"{home.ledger_key} does not exist (the key's id is {wanted})")
    if found.id != wanted:
        why = f"{home.ledger_key} holds another key (its id is {found.id}, not {wanted})"
        raise LedgerKeyMissing(why)
    return found


async def key_to_write(session: AsyncSession, home: Home) -> Key:
    """The key for a new copy, in a write transaction; the first one makes it.

    Raises as `key` does, and OSError if the file cannot be made.
    """
    found = await key(session, home)
    if found is None:
        found = encryption.read_or_make(home.ledger_key)
        session.add(Fact(key=_KEY_ID, value=found.id))
    return found


async def put(
    session: AsyncSession,
    ref: Ref,
    type_id: str,
    data: Mapping[str, Any],
    *,
    key: Key,
    now: datetime,
) -> Version:
    """Write a copy, in the place of the one that there is."""
    sealed = key.seal(_label(ref), json.dumps(data, separators=(",", ":")))
    slug, name = ref
    row = BlockCopyRow(slug=slug, name=name, type_id=type_id, sealed=sealed, updated_at=now)
    await session.merge(row)
    return Version(type_id, sealed)


def data(row: BlockCopyRow, key: Key) -> dict[str, Any]:
    """The document's data in a copy, secrets in plain; raises `CopyDamaged`."""
    found: dict[str, Any] = json.loads(key.unseal(_label((row.slug, row.name)), row.sealed))
    return found


async def remove(session: AsyncSession, ref: Ref) -> bool:
    """Delete a copy; False if there was none."""
    row = await get(session, ref)
    if row is not None:
        await session.delete(row)
    return row is not None


async def forget_key(session: AsyncSession) -> None:
    """Delete every copy, and which key they had: the next copy is encrypted with the home's."""
    await session.execute(delete(BlockCopyRow))
    await session.execute(delete(Fact).where(col(Fact.key) == _KEY_ID))


def _label(ref: Ref) -> str:
    return "/".join(ref)
