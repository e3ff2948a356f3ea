"""What lets MCP clients in over HTTP: who a token's bearer works for.

The token itself is nowhere, only its digest. A bearer is looked up by the digest of what it shows,
so how long that takes says nothing of any token. Functions take a session of `Ledger.write` or
`Ledger.read`.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.errors import Ambiguous, InvalidInput, NotFound
from daybook.ledger.tables import TokenRow
from daybook.names import free_name

NOTED = timedelta(minutes=1)
"""When a token was used last is written down at most so often: each write waits its turn."""


def digest(token: str) -> str:
    """SHA-256 of a token, 64 hexadecimal digits."""
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
    """Keep a token's digest; without a ``name`` it is called after its owner. Raises
    `InvalidInput`.
    """
    taken = set((await session.execute(select(TokenRow.name))).scalars())
    if name in taken:
        raise InvalidInput("name", f'"{name}" is taken', "give another, or remove that token")
    row = TokenRow(
        name=name or free_name(owner, taken),
        owner=owner,
        user_id=user_id,
        digest=digest(token),
        created_at=now,
    )
    session.add(row)
    await session.flush()
    return row


async def every(session: AsyncSession) -> list[TokenRow]:
    """All tokens, by name."""
    return list((await session.execute(select(TokenRow).order_by(col(TokenRow.name)))).scalars())


async def of(session: AsyncSession, token: str) -> TokenRow | None:
    """The row of the token that a bearer shows; None where there is none."""
    wanted = select(TokenRow).where(col(TokenRow.digest) == digest(token))
    found: TokenRow | None = (await session.execute(wanted)).scalar_one_or_none()
    return found


async def remove(session: AsyncSession, ref: str) -> TokenRow:
    """Forget one, by name or unique beginning of its id; raises `NotFound`, `Ambiguous`."""
    rows = await every(session)
    fits = [row for row in rows if row.name == ref] or [
        row for row in rows if ref and row.id.startswith(ref)
    ]
    if not fits:
        raise NotFound("token", ref)
    if len(fits) > 1:
        raise Ambiguous("token", ref, [f"{row.id[:12]} ({row.name})" for row in fits])
    await session.delete(fits[0])
    return fits[0]


def to_note(row: TokenRow, now: datetime) -> bool:
    """Whether it is to be written down that it is used now."""
    return row.used_at is None or now - row.used_at >= NOTED


async def note(session: AsyncSession, token_id: str, now: datetime) -> None:
    """Write down that it is used now."""
    row = await session.get(TokenRow, token_id)
    if row is not None:
        row.used_at = now
