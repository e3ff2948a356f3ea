"""Encrypted copies in the ledger of Prefect's block documents: agents, secrets and others.

Runs use the documents in Prefect, where users edit them. If Prefect's database is lost, Daybook
restores the documents from the copies. One key encrypts all copies of a ledger. The ledger stores
the key's id, so a home without that key can neither read the copies nor add copies under another
key.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, delete, select

from daybook.errors import LedgerKeyMissing
from daybook.home import Home
from daybook.json_text import JsonObject
from daybook.ledger.credential_tables import BlockCopyRow
from daybook.ledger.tables import Fact
from daybook.resources import encryption
from daybook.resources.encryption import Key

_KEY_ID = "block_copies_key"

DocumentRef = tuple[str, str]
"""The block type's slug and the document's name."""


@dataclass(frozen=True)
class CopyVersion:
    """Version of a copy. It changes with every write, because no two encryptions are equal."""

    type_id: str
    sealed: str


def version(row: BlockCopyRow | None) -> CopyVersion | None:
    """Return the version of the copy in ``row``; None if there is no row."""
    return None if row is None else CopyVersion(row.type_id, row.sealed)


async def list_copies(session: AsyncSession) -> list[BlockCopyRow]:
    """Return all copies, sorted by type and name."""
    order = (col(BlockCopyRow.slug), col(BlockCopyRow.name))
    return list((await session.execute(select(BlockCopyRow).order_by(*order))).scalars())


async def names(session: AsyncSession, slugs: Collection[str]) -> list[str]:
    """Return the names of the documents of these block types that have a copy, sorted."""
    query = select(BlockCopyRow.name).where(col(BlockCopyRow.slug).in_(slugs))
    order = col(BlockCopyRow.name)
    return list((await session.execute(query.distinct().order_by(order))).scalars())


async def get(session: AsyncSession, ref: DocumentRef) -> BlockCopyRow | None:
    """Return the copy of this document; None if there is none."""
    return await session.get(BlockCopyRow, ref)


async def key_id(session: AsyncSession) -> str | None:
    """Return the id of the key of this ledger's copies; None if the ledger has no key yet."""
    fact = await session.get(Fact, _KEY_ID)
    return None if fact is None else fact.value


async def key(session: AsyncSession, home: Home) -> Key | None:
    """Return the key of this ledger's copies; None if the ledger has no key yet.

    Raise `LedgerKeyMissing` if the home has no valid key, or a different key.
    """
    expected_id = await key_id(session)
    if expected_id is None:
        return None
    ledger_key = encryption.read_key(home.ledger_key)
    if ledger_key is None:
        raise LedgerKeyMissing(f"{home.ledger_key} does not exist (the key's id is {expected_id})")
    if ledger_key.id != expected_id:
        why = f"{home.ledger_key} holds another key (its id is {ledger_key.id}, not {expected_id})"
        raise LedgerKeyMissing(why)
    return ledger_key


async def get_or_create_key(session: AsyncSession, home: Home) -> Key:
    """Return the key for a new copy; call this function in a write transaction.

    A ledger without a key gets the home's key, which is created if it is missing. Raise the errors
    of `key`, and OSError if the key's file cannot be created.
    """
    ledger_key = await key(session, home)
    if ledger_key is None:
        ledger_key = encryption.read_or_create_key(home.ledger_key)
        session.add(Fact(key=_KEY_ID, value=ledger_key.id))
    return ledger_key


async def put(
    session: AsyncSession,
    ref: DocumentRef,
    type_id: str,
    data: Mapping[str, Any],
    *,
    key: Key,
    now: datetime,
) -> CopyVersion:
    """Write or overwrite a copy; return its version."""
    sealed = key.seal(_label(ref), json.dumps(data, separators=(",", ":")))
    slug, name = ref
    row = BlockCopyRow(slug=slug, name=name, type_id=type_id, sealed=sealed, updated_at=now)
    await session.merge(row)
    return CopyVersion(type_id, sealed)


def decrypt(row: BlockCopyRow, key: Key) -> JsonObject:
    """Return the document's data from a copy, with secrets in plain text; raise `CopyDamaged`."""
    document_data: JsonObject = json.loads(key.unseal(_label((row.slug, row.name)), row.sealed))
    return document_data


async def remove(session: AsyncSession, ref: DocumentRef) -> bool:
    """Delete a copy; return whether there was one."""
    row = await get(session, ref)
    if row is not None:
        await session.delete(row)
    return row is not None


async def remove_key(session: AsyncSession) -> None:
    """Delete every copy and the key's id, so that the home's key encrypts the next copy."""
    await session.execute(delete(BlockCopyRow))
    await session.execute(delete(Fact).where(col(Fact.key) == _KEY_ID))


def _label(ref: DocumentRef) -> str:
    return "/".join(ref)
