"""Operations on tokens of MCP clients over HTTP, and of links that show the pages.

Only `add` and `share` return the token itself. The tokens of links have the owner `owners.VIEWER`,
and authenticate no MCP client.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from typing import Self

from pydantic import BaseModel, Field

from daybook import owners
from daybook.api import web_address
from daybook.errors import LedgerUnreachable
from daybook.ledger import tokens
from daybook.ledger.engine import Ledger, open_ledger, reading
from daybook.ledger.tables import TokenRow
from daybook.ledger.views import UtcTime, columns
from daybook.names import validate_name
from daybook.owners import Actor

PREFIX = "db_"
"""Prefix of each token, so that secret scanners can find a leaked token."""

VIEWER_PREFIX = "dbview_"
"""Prefix of the token of a shared link."""

TOKEN_BITS = 256


class TokenInfo(BaseModel, frozen=True):
    """A token whose bearer acts for ``owner``, on behalf of the user ``user_id``.

    ``used_at`` is the time of its last use, accurate to about a minute; None if it was never used.
    """

    id: str
    name: str
    owner: str
    user_id: str
    created_at: UtcTime
    used_at: UtcTime | None

    @classmethod
    def of(cls, row: TokenRow) -> Self:
        return cls.model_validate(columns(cls, row))


class AddedToken(TokenInfo, frozen=True):
    """A token that was created, with the ``token`` itself, which is shown only now."""

    token: str = Field(repr=False)


class SharedLink(TokenInfo, frozen=True):
    """A link that shows the pages and changes nothing, with its ``url``, which is shown only now.

    The link works until its token is removed.
    """

    url: str = Field(repr=False)


async def add(owner: str, name: str | None = None, user_id: str = "") -> AddedToken:
    """Create a token whose bearer acts for ``owner``, on behalf of the user ``user_id``.

    Without a ``name``, the token's name is derived from the owner. Raise `InvalidInput`.
    """
    owner, token = owners.validate_owner(owner), PREFIX + secrets.token_urlsafe(TOKEN_BITS // 8)
    name, user_id = None if name is None else validate_name(name), owners.validate_user_id(user_id)
    async with open_ledger() as ledger, ledger.write() as session:
        row = await tokens.add(
            session, token, owner=owner, user_id=user_id, name=name, now=ledger.now()
        )
        return AddedToken(**dict(TokenInfo.of(row)), token=token)


async def share(name: str) -> SharedLink:
    """Create a link that shows the pages, and permits no change; `remove` revokes it.

    Raise `InvalidInput` for a name that is invalid or taken.
    """
    token = VIEWER_PREFIX + secrets.token_urlsafe(TOKEN_BITS // 8)
    name = validate_name(name)
    async with open_ledger() as ledger, ledger.write() as session:
        row = await tokens.add(
            session, token, owner=owners.VIEWER, user_id="", name=name, now=ledger.now()
        )
        url = f"{web_address.url()}{web_address.LOGIN_PATH}?token={token}"
        return SharedLink(**dict(TokenInfo.of(row)), url=url)


async def viewer_of(token: str) -> str:
    """Return the id of ``token`` if it belongs to a shared link, otherwise "". Record its use.

    Raise `LedgerUnreachable`.
    """
    async with open_ledger() as ledger:
        async with ledger.read() as session:
            row = await tokens.find(session, token)
        if row is None or row.owner != owners.VIEWER:
            return ""
        await _record_use(ledger, row)
        return row.id


async def is_viewer(token_id: str) -> bool:
    """Return whether there is a shared link whose token has this id. Raise `LedgerUnreachable`."""
    async with reading() as session:
        row = await session.get(TokenRow, token_id)
        return row is not None and row.owner == owners.VIEWER


async def list_tokens() -> list[TokenInfo]:
    """Return all tokens, sorted by name."""
    async with reading() as session:
        return [TokenInfo.of(row) for row in await tokens.every(session)]


async def remove(ref: str) -> TokenInfo:
    """Delete a token, by name or unique id prefix; Daybook rejects it from then on.

    Return its `TokenInfo`. Raise `NotFound`, `Ambiguous`.
    """
    async with open_ledger() as ledger, ledger.write() as session:
        return TokenInfo.of(await tokens.remove(session, ref))


async def authenticate(ledger: Ledger, token: str) -> Actor | None:
    """Return the actor that ``token`` authenticates; None for an unknown token, or for a link's.

    Raise `LedgerUnreachable`.
    """
    async with ledger.read() as session:
        row = await tokens.find(session, token)
    if row is None or row.owner == owners.VIEWER:
        return None
    await _record_use(ledger, row)
    return Actor(row.owner, row.user_id, via="mcp")


async def _record_use(ledger: Ledger, row: TokenRow) -> None:
    if tokens.is_use_due(row, now := ledger.now()):
        with suppress(LedgerUnreachable):  # a busy ledger must not make a valid token fail
            async with ledger.write() as session:
                await tokens.record_use(session, row.id, now)
