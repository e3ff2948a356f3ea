"""Prefect's client as if planned settings documents were stored: for checks before they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

from daybook.resources import store
from daybook.resources.copies import DocumentRef

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import BlockDocument


def with_planned(
    client: PrefectClient, planned: Mapping[DocumentRef, Mapping[str, Any] | None]
) -> PrefectClient:
    """Return a client that also reads the documents ``planned``, by their data with secrets.

    A document whose data are None is removed by the plan, so the client does not find it.
    """
    return cast("PrefectClient", _PlannedClient(client, planned)) if planned else client


async def find(
    client: PrefectClient, name: str, slugs: Sequence[str], *, include_secrets: bool = False
) -> dict[str, BlockDocument]:
    """Return the documents with this name of the block types ``slugs``, by the slug of the type."""
    given: object = client
    read, planned = client, dict[DocumentRef, Mapping[str, Any] | None]()
    if isinstance(given, _PlannedClient):
        read, planned = given.client, dict(given.planned)
    found = await store.find_in_prefect(read, name, slugs, include_secrets=include_secrets)
    for slug in slugs:
        if (slug, name) in planned:
            found.pop(slug, None)
            if (data := planned[slug, name]) is not None:
                found[slug] = _document(name, data)
    return found


class _PlannedClient:
    """A client whose other attributes are those of the given client."""

    def __init__(
        self, client: PrefectClient, planned: Mapping[DocumentRef, Mapping[str, Any] | None]
    ) -> None:
        self.client, self.planned = client, planned

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    async def read_block_document_by_name(
        self, name: str, block_type_slug: str, include_secrets: bool = True
    ) -> BlockDocument:
        from prefect.exceptions import ObjectNotFound

        ref = (block_type_slug, name)
        if (data := self.planned.get(ref)) is not None:
            return _document(name, data)
        if ref in self.planned:
            raise ObjectNotFound(LookupError(name))
        return await self.client.read_block_document_by_name(
            name, block_type_slug, include_secrets=include_secrets
        )

    async def read_block_documents_by_type(
        self, block_type_slug: str, include_secrets: bool = True
    ) -> list[BlockDocument]:
        found = await self.client.read_block_documents_by_type(
            block_type_slug, include_secrets=include_secrets
        )
        planned = {
            name: data for (slug, name), data in self.planned.items() if slug == block_type_slug
        }
        kept = [each for each in found if each.name not in planned]
        new = [_document(name, data) for name, data in planned.items() if data is not None]
        return [*kept, *new]


def _document(name: str, data: Mapping[str, Any]) -> BlockDocument:
    from prefect.client.schemas.objects import BlockDocument

    return BlockDocument(name=name, data=dict(data), block_schema_id=uuid4(), block_type_id=uuid4())
