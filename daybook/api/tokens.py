"""Operations on tokens of MCP clients over HTTP, and on links that show Daybook's pages.

Only `add` and `share` return the token itself. The token of a link has the owner `owners.VIEWER`,
and authenticates no MCP client.
"""

from __future__ import annotations

import secrets
from contextlib import suppress
from typing import Self

from pydantic import BaseModel, Field

from daybook import owners
from daybook.api import web_address
from daybook.errors import LedgerUnreachable
from daybook.instants import UtcTime
from daybook.ledger import tokens
from daybook.ledger.credential_tables import TokenRow
from daybook.ledger.engine import Ledger, open_ledger, reading
from daybook.ledger.views import columns
from daybook.names import validate_new_name
from daybook.owners import Actor

PREFIX = "db_"
"""Prefix of each client's token, so that secret scanners can find a leaked token."""

VIEWER_PREFIX = "dbview_"
"""Prefix of the token of a shared link."""

TOKEN_BITS = 256


class TokenInfo(BaseModel, frozen=True):
    """A token, whose bearer acts for ``owner`` on behalf of the user ``user_id``.

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
    """A new token, with the secret ``token``, which Daybook returns only this once."""

    token: str = Field(repr=False)


class SharedLink(TokenInfo, frozen=True):
    """A new link that shows the pages and changes nothing.

    Daybook returns its ``url`` only this once. The link works until its token is removed.
    """

    url: str = Field(repr=False)


async def add(owner: str, name: str | None = None, user_id: str = "") -> AddedToken:
    """Create a token, whose bearer acts for ``owner`` on behalf of the user ``user_id``.

    If ``name`` is None, derive the token's name from the owner. Raise `InvalidInput`.
    """
    owner, token = owners.validate_owner(owner), PREFIX + secrets.token_urlsafe(TOKEN_BITS // 8)
    name, user_id = (
        None if name is None else validate_new_name(name),
        owners.validate_user_id(user_id),
    )
    async with open_ledger() as ledger, ledger.write() as session:
        row = await tokens.add(
            session, token, owner=owner, user_id=user_id, name=name, now=ledger.now()
        )
        return AddedToken(**dict(TokenInfo.of(row)), token=token)


async def share(name: str) -> SharedLink:
    """Create a link that shows the pages and permits no change. `remove` revokes it.

    Raise `InvalidInput` if the name is invalid or already in use.
    """
    token = VIEWER_PREFIX + secrets.token_urlsafe(TOKEN_BITS // 8)
    name = validate_new_name(name)
    async with open_ledger() as ledger, ledger.write() as session:
        row = await tokens.add(
            session, token, owner=owners.VIEWER, user_id="", name=name, now=ledger.now()
        )
        url = f"{web_address.url()}{web_address.LOGIN_PATH}?token={token}"
        return SharedLink(**dict(TokenInfo.of(row)), url=url)


async def viewer_of(token: str) -> str:
    """If ``token`` belongs to a shared link, record its use and return its id, otherwise "".

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
    """Return whether a shared link has the token with this id. Raise `LedgerUnreachable`."""
    async with reading() as session:
        row = await session.get(TokenRow, token_id)
        return row is not None and row.owner == owners.VIEWER


async def list_tokens() -> list[TokenInfo]:
    """Return all tokens, sorted by name."""
    async with reading() as session:
        return [TokenInfo.of(row) for row in await tokens.every(session)]


async def remove(ref: str) -> TokenInfo:
    """Delete a token by its name or a unique id prefix, and return it.

    Raise `NotFound`, `Ambiguous`.
    """
    async with open_ledger() as ledger, ledger.write() as session:
        return TokenInfo.of(await tokens.remove(session, ref))


async def authenticate(ledger: Ledger, token: str) -> Actor | None:
    """Return the actor that ``token`` authenticates. Record the use of the token.

    Return None for an unknown token, and for the token of a link. Raise `LedgerUnreachable`.
    """
    async with ledger.read() as session:
        row = await tokens.find(session, token)
    if row is None or row.owner == owners.VIEWER:
        return None
    await _record_use(ledger, row)
    return Actor(row.owner, row.user_id, via="mcp")


async def _record_use(ledger: Ledger, row: TokenRow) -> None:
    if tokens.is_use_due(row, now := ledger.now()):
        with suppress(LedgerUnreachable):  # if the ledger is busy, the valid token must still work
            async with ledger.write() as session:
                await tokens.record_use(session, row.id, now)
