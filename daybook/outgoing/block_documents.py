"""Prefect's block documents of one type of ours: listed, kept, forgotten, by name.

The block classes stand in a door and are not needed here: a document's data are its settings.
Prefect's own errors of connection are let through.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from daybook.errors import NotFound, Refused

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import BlockDocument
    from pydantic import ValidationError

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?\Z")


@dataclass(frozen=True)
class BlockType:
    """``noun`` is what a document of it is called: "secret"."""

    slug: str
    title: str
    noun: str


def check_name(of: BlockType, name: str) -> None:
    """Raise `Refused` for what cannot be the name of one."""
    if not _NAME.match(name):
        raise Refused(
            "name",
            f'"{name}" cannot be the name of a {of.noun}',
            "legal are 1 to 64 lowercase letters, digits and dashes, not at the ends",
        )


async def every(
    client: PrefectClient, of: BlockType, *, include_secrets: bool = False
) -> list[BlockDocument]:
    """All documents of the type by name; [] where it is not registered."""
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        found = await client.read_block_documents_by_type(of.slug, include_secrets=include_secrets)
    except PrefectHTTPStatusError as error:
        if error.response.status_code != 404:
            raise
        return []
    named = [each for each in found if each.name and not each.is_anonymous]
    return sorted(named, key=lambda each: str(each.name))


async def named(
    client: PrefectClient, of: BlockType, name: str, *, include_secrets: bool = False
) -> BlockDocument | None:
    """The document of that name; None where there is none."""
    from prefect.exceptions import ObjectNotFound

    try:
        return await client.read_block_document_by_name(
            name, of.slug, include_secrets=include_secrets
        )
    except ObjectNotFound:
        return None


async def keep(
    client: PrefectClient,
    of: BlockType,
    name: str,
    data: Mapping[str, Any],
    *,
    replace: bool = False,
) -> None:
    """Write a document; with ``replace`` also over the one of that name, of which nothing stays.

    Raises `Refused` for a bad or taken name, and where the type is not registered.
    """
    from prefect.client.schemas.actions import BlockDocumentCreate, BlockDocumentUpdate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

    check_name(of, name)
    try:
        block_type = await client.read_block_type_by_slug(of.slug)
    except ObjectNotFound:
        raise _unregistered(of) from None
    schema = await client.get_most_recent_block_schema_for_block_type(block_type.id)
    if schema is None:
        raise _unregistered(of)
    taken = Refused("name", f'"{name}" is taken', f"choose another, or replace that {of.noun}")
    old = await named(client, of, name)
    if old is not None and not replace:
        raise taken
    if old is not None:
        changed = BlockDocumentUpdate(
            block_schema_id=schema.id, data=dict(data), merge_existing_data=False
        )
        await client.update_block_document(old.id, changed)
        return
    made = BlockDocumentCreate(
        name=name, data=dict(data), block_schema_id=schema.id, block_type_id=block_type.id
    )
    try:
        await client.create_block_document(made)
    except ObjectAlreadyExists:  # someone was faster
        raise taken from None


async def forget(client: PrefectClient, of: BlockType, name: str) -> None:
    """Delete the document of that name; raises `NotFound`."""
    from prefect.exceptions import ObjectNotFound

    found = await named(client, of, name)
    try:
        if found is not None:
            await client.delete_block_document(found.id)
            return
    except ObjectNotFound:  # someone was faster
        pass
    raise NotFound(of.noun, name)


def problem(error: ValidationError) -> tuple[str, str]:
    """The field and what is wrong with it. Not in pydantic's own text: that repeats the input."""
    first = error.errors(include_input=False, include_url=False)[0]
    where = str(first["loc"][0]) if first["loc"] else "settings"
    return where, first["msg"].removeprefix("Value error, ")


def _unregistered(of: BlockType) -> Refused:
    return Refused(
        "type",
        f'this Prefect does not know the block type "{of.title}"',
        "register it with `daybook up`, or `prefect deploy --all` in the repository",
    )
