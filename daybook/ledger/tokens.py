"""Access tokens for MCP over HTTP, and for shared links to Daybook's pages.

Each token for MCP authenticates one owner. The ledger stores only a token's digest. The look-up of
a presented token uses its digest, so the duration of the look-up reveals nothing about any token.
Functions that access the ledger take a session of `Ledger.write` or `Ledger.read`.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

from sqlalchemy import true
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.errors import InvalidInput
from daybook.ledger import references
from daybook.ledger.credential_tables import TokenRow
from daybook.names import free_name

USE_RECORD_INTERVAL = timedelta(minutes=1)
"""The minimum interval between two records of a token's last use.

A record of every use would wait for the claim lock each time.
"""


def digest(token: str) -> str:
    """Return the SHA-256 of a token, 64 hexadecimal digits."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


async def add(
    session: AsyncSession,
    token: str,
    *,
    owner: str,
    user_id: str,
    name: str | None,
    now: datetime,
) -> TokenRow:
    """Store a token's digest and return its row; raise `InvalidInput` if ``name`` is taken.

    The default name is the owner's name, with a number if that name is taken.
    """
    names = set((await session.execute(select(TokenRow.name))).scalars())
    if name in names:
        raise InvalidInput("name", f'"{name}" is taken', "use another name, or remove that token")
    row = TokenRow(
        name=name or free_name(owner, names),
        owner=owner,
        user_id=user_id,
        digest=digest(token),
        created_at=now,
    )
    session.add(row)
    await session.flush()
    return row


async def every(session: AsyncSession) -> list[TokenRow]:
    """Return all tokens, sorted by name."""
    return list((await session.execute(select(TokenRow).order_by(col(TokenRow.name)))).scalars())


async def find(session: AsyncSession, token: str) -> TokenRow | None:
    """Return the row of a token; None if the ledger does not have the token."""
    query = select(TokenRow).where(col(TokenRow.digest) == digest(token))
    row: TokenRow | None = (await session.execute(query)).scalar_one_or_none()
    return row


async def remove(session: AsyncSession, ref: str) -> TokenRow:
    """Remove the token with this name or unique short id; raise `NotFound` or `Ambiguous`."""
    match = await references.resolve(session, ref, {references.TOKEN: true()})
    row = await session.get_one(TokenRow, match.id)
    await session.delete(row)
    return row


def is_use_due(row: TokenRow, now: datetime) -> bool:
    """Return whether the token's use should be recorded now."""
    return row.used_at is None or now - row.used_at >= USE_RECORD_INTERVAL


async def record_use(session: AsyncSession, token_id: str, now: datetime) -> None:
    """Record that the token was used at ``now``; do nothing if it was removed."""
    row = await session.get(TokenRow, token_id)
    if row is not None:
        row.used_at = now
