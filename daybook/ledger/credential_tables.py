"""The tables of tokens, and of the copies of Prefect's block documents.

`daybook.ledger.tables` explains how to add a column.
"""

from __future__ import annotations

from datetime import datetime

from sqlmodel import Field

from daybook.ledger.column_types import Instant
from daybook.ledger.table_parts import Table
from daybook.ledger.tables import new_id


class TokenRow(Table, table=True):
    """Token for MCP over HTTP or for a shared link (`owners.VIEWER`), stored as its digest."""

    __tablename__ = "tokens"

    id: str = Field(default_factory=new_id, primary_key=True)
    name: str = Field(unique=True)
    owner: str
    user_id: str = ""
    # SHA-256 of the token, 64 hexadecimal digits. The token has 256 random bits: no salt is needed.
    digest: str = Field(unique=True, repr=False)
    created_at: datetime = Field(sa_type=Instant)
    used_at: datetime | None = Field(default=None, sa_type=Instant)


class BlockCopyRow(Table, table=True):
    """The copy of one Prefect block document, complete enough to restore it in Prefect.

    ``type_id`` is Prefect's id of the block type with which the document was last seen. A Prefect
    server that lost its database gives the type another id (`daybook.resources.mirror`).
    """

    __tablename__ = "block_copies"

    slug: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    type_id: str
    # The document's data as JSON, encrypted: `daybook.resources.encryption`.
    sealed: str = Field(repr=False)
    updated_at: datetime = Field(sa_type=Instant)
