"""Prefect's client as if planned settings documents were stored: for checks before they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast
from uuid import uuid4

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import BlockDocument

    from daybook.resources.copies import DocumentRef


def with_planned(
    client: PrefectClient, planned: Mapping[DocumentRef, Mapping[str, Any] | None]
) -> PrefectClient:
    """Return a client that also reads the documents ``planned``, by their data with secrets.

    A document whose data are None is removed by the plan, so the client does not find it.
    """
    return cast("PrefectClient", _PlannedClient(client, planned)) if planned else client


class _PlannedClient:
    """A client whose other attributes are those of the given client."""

    def __init__(
        self, client: PrefectClient, planned: Mapping[DocumentRef, Mapping[str, Any] | None]
    ) -> None:
        self._client, self._planned = client, planned

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def read_block_document_by_name(
        self, name: str, block_type_slug: str, include_secrets: bool = True
    ) -> BlockDocument:
        from prefect.exceptions import ObjectNotFound

        ref = (block_type_slug, name)
        if (data := self._planned.get(ref)) is not None:
            return _document(name, data)
        if ref in self._planned:
            raise ObjectNotFound(LookupError(name))
        return await self._client.read_block_document_by_name(
            name, block_type_slug, include_secrets=include_secrets
        )

    async def read_block_documents_by_type(
        self, block_type_slug: str, include_secrets: bool = True
    ) -> list[BlockDocument]:
        found = await self._client.read_block_documents_by_type(
            block_type_slug, include_secrets=include_secrets
        )
        planned = {
            name: data for (slug, name), data in self._planned.items() if slug == block_type_slug
        }
        kept = [each for each in found if each.name not in planned]
        new = [_document(name, data) for name, data in planned.items() if data is not None]
        return [*kept, *new]


def _document(name: str, data: Mapping[str, Any]) -> BlockDocument:
    from prefect.client.schemas.objects import BlockDocument

    return BlockDocument(name=name, data=dict(data), block_schema_id=uuid4(), block_type_id=uuid4())
