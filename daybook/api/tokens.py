"""Operations on the tokens of MCP clients over HTTP: add, list, remove, authenticate.

Only `add` returns the token itself.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from typing import Any

from daybook import owners
from daybook.api import views
from daybook.errors import LedgerUnreachable
from daybook.ledger import tokens
from daybook.ledger.engine import Ledger, open_ledger
from daybook.ledger.tables import TokenRow
from daybook.names import validate_name
from daybook.owners import Actor

PREFIX = "db_"
"""The beginning of each token, by which secret scanners can find a leaked one."""

TOKEN_BITS = 256


async def add(owner: str, name: str | None = None, user_id: str = "") -> dict[str, Any]:
    """Create a token whose bearer acts for ``owner``, and there for the person ``user_id``.

    Return `{"id", "name", "owner", "user_id", "created_at", "used_at", "token"}`. Raise
    `InvalidInput`.
    """
    owner, token = owners.validate_owner(owner), PREFIX + secrets.token_urlsafe(TOKEN_BITS // 8)
    name, user_id = None if name is None else validate_name(name), owners.validate_user_id(user_id)
    async with open_ledger() as ledger, ledger.write() as session:
        row = await tokens.add(
            session, token, owner=owner, user_id=user_id, name=name, now=ledger.now()
        )
        return _view(row) | {"token": token}


async def list_tokens() -> list[dict[str, Any]]:
    """Return all tokens by name, as `add` does, without the token itself."""
    async with open_ledger() as ledger, ledger.read() as session:
        return [_view(row) for row in await tokens.every(session)]


async def remove(ref: str) -> dict[str, Any]:
    """Delete a token, by name or id prefix: its bearer is refused from now on."""
    async with open_ledger() as ledger, ledger.write() as session:
        return _view(await tokens.remove(session, ref))


async def authenticate(ledger: Ledger, token: str) -> Actor | None:
    """Return the actor of the bearer of ``token``; None for an unknown token. Raise
    `LedgerUnreachable`.
    """
    async with ledger.read() as session:
        row = await tokens.find(session, token)
    if row is None:
        return None
    if tokens.is_use_due(row, now := ledger.now()):
        with suppress(LedgerUnreachable):  # a busy ledger must not refuse a valid token
            async with ledger.write() as session:
                await tokens.record_use(session, row.id, now)
    return Actor(row.owner, row.user_id, via="mcp")


def _view(row: TokenRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "owner": row.owner,
        "user_id": row.user_id,
        "created_at": views.utc_text(row.created_at),
        "used_at": views.utc_text(row.used_at),
    }
