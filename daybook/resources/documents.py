"""Store of agents, secrets, tool servers, channels and destinations as Prefect block documents.

The block classes are Prefect entry points and are not imported here: a document's data are its
settings. Prefect's connection errors propagate.

`save` and `remove` write to Prefect first, because runs read from there, and then to the ledger's
encrypted copy. If the process dies in between, `daybook.resources.mirror` finds the difference and
changes the ledger.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from daybook import home, settings
from daybook.errors import InvalidInput, LedgerKeyMissing, NotFound
from daybook.ledger.engine import Ledger
from daybook.resources import copies

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import BlockDocument
    from pydantic import ValidationError

log = logging.getLogger(__name__)

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?\Z")


@dataclass(frozen=True)
class BlockType:
    """A block type; ``noun`` is the word for one document, such as "secret"."""

    slug: str
    title: str
    noun: str


def check_name(of: BlockType, name: str) -> None:
    """Raise `InvalidInput` if ``name`` is no legal document name."""
    if not _NAME.match(name):
        raise InvalidInput(
            "name",
            f'"{name}" cannot be the name of {"an" if of.noun[0] in "aeiou" else "a"} {of.noun}',
            "legal are 1 to 64 lowercase letters, digits and dashes, not at the ends",
        )


async def list_documents(
    client: PrefectClient, of: BlockType, *, include_secrets: bool = False
) -> list[BlockDocument]:
    """Return all documents of the type, by name; [] if the type is not registered."""
    return await list_if_registered(client, of, include_secrets=include_secrets) or []


async def list_if_registered(
    client: PrefectClient, of: BlockType, *, include_secrets: bool = False
) -> list[BlockDocument] | None:
    """Return all documents of the type, by name; None if the type is not registered."""
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        documents = await client.read_block_documents_by_type(
            of.slug, include_secrets=include_secrets
        )
    except PrefectHTTPStatusError as error:
        if error.response.status_code != 404:
            raise
        return None
    with_name = [each for each in documents if each.name and not each.is_anonymous]
    return sorted(with_name, key=lambda each: str(each.name))


async def find(
    client: PrefectClient, of: BlockType, name: str, *, include_secrets: bool = False
) -> BlockDocument | None:
    """Return the document of that name, or None."""
    from prefect.exceptions import ObjectNotFound

    try:
        return await client.read_block_document_by_name(
            name, of.slug, include_secrets=include_secrets
        )
    except ObjectNotFound:
        return None


class RegisteredType(NamedTuple):
    """Prefect's ids of a block type and of its newest schema."""

    type_id: UUID
    schema_id: UUID


async def registered_type(client: PrefectClient, of: BlockType) -> RegisteredType:
    """Return the ids of the type; raise `InvalidInput` if it is not registered."""
    from prefect.exceptions import ObjectNotFound

    try:
        block_type = await client.read_block_type_by_slug(of.slug)
    except ObjectNotFound:
        raise _unregistered(of) from None
    schema = await client.get_most_recent_block_schema_for_block_type(block_type.id)
    if schema is None:
        raise _unregistered(of)
    return RegisteredType(block_type.id, schema.id)


async def save(
    client: PrefectClient,
    of: BlockType,
    name: str,
    data: Mapping[str, Any],
    *,
    replace: bool = False,
) -> None:
    """Write a document; with ``replace``, overwrite all data of an existing one.

    Raises `InvalidInput` for a bad or taken name, and if the type is not registered.
    """
    from prefect.client.schemas.actions import BlockDocumentUpdate
    from prefect.exceptions import ObjectAlreadyExists

    check_name(of, name)
    async with _ledger() as ledger:  # an unreachable ledger raises before any write
        block_type_ids = await registered_type(client, of)
        name_taken = InvalidInput(
            "name", f'"{name}" is taken', f"choose another, or replace that {of.noun}"
        )
        old = await find(client, of, name)
        if old is not None and not replace:
            raise name_taken
        if old is not None:
            changed = BlockDocumentUpdate(
                block_schema_id=block_type_ids.schema_id, data=dict(data), merge_existing_data=False
            )
            await client.update_block_document(old.id, changed)
        else:
            try:
                await create_in_prefect(client, block_type_ids, name, data)
            except ObjectAlreadyExists:  # another process was faster
                raise name_taken from None
        await _copy(ledger, (of.slug, name), str(block_type_ids.type_id), data)


async def create_in_prefect(
    client: PrefectClient, known: RegisteredType, name: str, data: Mapping[str, Any]
) -> UUID:
    """Create a document in Prefect only; return its id.

    Raises Prefect's `ObjectAlreadyExists`.
    """
    from prefect.client.schemas.actions import BlockDocumentCreate

    document = BlockDocumentCreate(
        name=name, data=dict(data), block_schema_id=known.schema_id, block_type_id=known.type_id
    )
    return (await client.create_block_document(document)).id


async def remove(client: PrefectClient, of: BlockType, name: str) -> None:
    """Delete the document of that name and its copy; raise `NotFound` if neither exists."""
    from prefect.exceptions import ObjectNotFound

    async with _ledger() as ledger:
        document = await find(client, of, name)
        deleted = False
        if document is not None:
            try:
                await client.delete_block_document(document.id)
                deleted = True
            except ObjectNotFound:  # another process was faster
                pass
        async with ledger.write() as session:
            had_copy = await copies.remove(session, (of.slug, name))
    if not (deleted or had_copy):
        raise NotFound(of.noun, name)


def validation_problem(error: ValidationError) -> tuple[str, str]:
    """Return the field and its problem.

    Pydantic's own text is not used, because it repeats the input.
    """
    first = error.errors(include_input=False, include_url=False)[0]
    field = str(first["loc"][0]) if first["loc"] else "settings"
    return field, first["msg"].removeprefix("Value error, ")


def _ledger() -> Ledger:
    return Ledger(settings.load().ledger_address)


async def _copy(
    ledger: Ledger, ref: copies.DocumentRef, type_id: str, data: Mapping[str, Any]
) -> None:
    """Write the ledger's copy of the document that Prefect just stored."""
    try:
        async with ledger.write() as session:
            key = await copies.get_or_create_key(session, home.current_home())
            await copies.put(session, ref, type_id, data, key=key, now=ledger.now())
    except (LedgerKeyMissing, OSError) as error:
        # Prefect has the document, so it works; `daybook doctor` explains the problem with the key.
        log.warning("the ledger has no copy of %s: %s", "/".join(ref), error)


def _unregistered(of: BlockType) -> InvalidInput:
    return InvalidInput(
        "type",
        f'this Prefect does not know the block type "{of.title}"',
        "register it with `daybook up`, or `prefect deploy --all` in the repository",
    )
