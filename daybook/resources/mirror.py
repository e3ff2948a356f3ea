"""Reconciliation of Prefect's block documents with their copies in the ledger.

Runs use the documents in Prefect, so the ledger follows Prefect. If Prefect has lost its database,
the documents are restored from the ledger.

::

    in Prefect   copy     same block type id   action
    yes          no       -                    copy: somebody created the document in Prefect's UI
    yes          differs  -                    copy: somebody edited it there
    no           yes      yes                  delete the copy: somebody deleted the document
    no           yes      no                   restore: the database is new and never had it

A block type gets a new id in each database, and deleting a type deletes its documents. So if a
document is missing while its type still has the recorded id, somebody deleted it on purpose.

Each step is one write to Prefect or one transaction of the ledger, in an order in which dying
between two steps is harmless: a copy gets the new type's id only after its document was created.
The next pass starts over.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from daybook import home, repository
from daybook.errors import CopyDamaged, InvalidInput, LedgerKeyMissing
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import BlockCopyRow
from daybook.resources import copies
from daybook.resources.copies import CopyVersion, DocumentRef
from daybook.resources.encryption import Key
from daybook.resources.store import BlockStore, RegisteredType, create_in_prefect

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from sqlalchemy.ext.asyncio import AsyncSession

log = logging.getLogger(__name__)

_PAGE = 200
_SERVER_ERROR = 500
"""The lowest HTTP status that reports a server problem and not one document."""


@dataclass(frozen=True)
class _Document:
    """A listed document. ``data`` holds its secrets only if they were requested."""

    id: str
    ref: DocumentRef
    type_id: str
    updated: str
    data: dict[str, Any] = field(repr=False)


@dataclass
class ComparisonCache:
    """The pairs that were equal at their last comparison, which the next pass skips.

    ``key_problem`` is that of the last pass, so that the caller reports it only once.
    """

    key_problem: str = ""
    _agreed: dict[DocumentRef, tuple[str, str, CopyVersion | None]] = field(default_factory=dict)

    def is_unchanged(self, document: _Document, row: BlockCopyRow | None) -> bool:
        """Return whether neither side changed since the last comparison."""
        pair = (document.id, document.updated, copies.version(row))
        return row is not None and self._agreed.get(document.ref) == pair

    def record_equal(self, document: _Document, version: CopyVersion | None) -> None:
        """Record that both sides are equal now."""
        self._agreed[document.ref] = (document.id, document.updated, version)


@dataclass
class MirrorReport:
    """The result of one pass; documents are named as in `secret ops`.

    ``locked`` are the documents that Prefect lost and that cannot be restored because the key is
    missing; ``key_problem`` is the reason. ``failed`` are those that failed for another reason.
    """

    registered: bool = False
    copied: list[str] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    locked: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    key_problem: str = ""


async def reconcile(
    ledger: Ledger,
    client: PrefectClient,
    types: Collection[BlockStore[Any]],
    memory: ComparisonCache | None = None,
    *,
    only: str | None = None,
) -> MirrorReport:
    """Compare all documents of these types with their copies; ``only`` selects one name.

    Registers the block types first if Prefect lacks one. A second pass changes nothing. Errors of
    an unreachable Prefect or ledger propagate.
    """
    run = _Pass(
        ledger,
        client,
        {each.slug: each for each in types},
        memory or ComparisonCache(),
        MirrorReport(),
    )
    await run.register()
    await run.compare(only)
    return run.report


async def list_lost(
    ledger: Ledger, client: PrefectClient, types: Collection[BlockStore[Any]]
) -> list[str]:
    """Return the documents that Prefect lost but the ledger has a copy of."""
    run = _Pass(
        ledger, client, {each.slug: each for each in types}, ComparisonCache(), MirrorReport()
    )
    rows = await run.rows()
    present = {each.ref for each in await run.listed()}
    type_ids = await run.type_ids()
    return [
        run.word(ref)
        for ref, row in rows.items()
        if ref not in present and type_ids.get(row.slug) != row.type_id
    ]


@dataclass(frozen=True)
class _Pass:
    ledger: Ledger
    client: PrefectClient
    types: Mapping[str, BlockStore[Any]]
    memory: ComparisonCache
    report: MirrorReport

    async def type_ids(self) -> dict[str, str]:
        """Return the ids of the block types that Prefect has, by slug."""
        query = {"block_types": {"slug": {"any_": list(self.types)}}, "limit": _PAGE}
        response = await self.client.request("POST", "/block_types/filter", json=query)
        return {each["slug"]: each["id"] for each in response.json()}

    async def rows(self) -> dict[DocumentRef, BlockCopyRow]:
        """Return the ledger's copies."""
        async with self.ledger.read() as session:
            all_rows = await copies.list_copies(session)
        return {(row.slug, row.name): row for row in all_rows if row.slug in self.types}

    async def register(self) -> None:
        if (await self.type_ids()).keys() != self.types.keys():
            await repository.load_entry_point("blocks/__init__.py").register(self.client)
            self.report.registered = True

    async def compare(self, only: str | None) -> None:
        rows = await self.rows()
        async with self.ledger.read() as session:
            try:
                key = await copies.key(session, home.current_home())
            except LedgerKeyMissing as error:
                key, self.report.key_problem = None, error.why
        documents = {each.ref: each for each in await self.listed()}
        if only is not None:
            rows = {ref: row for ref, row in rows.items() if ref[1] == only}
            documents = {ref: each for ref, each in documents.items() if ref[1] == only}
        news = [
            each
            for ref, each in documents.items()
            if not self.memory.is_unchanged(each, rows.get(ref))
        ]
        if news and not self.report.key_problem:
            await self._copy(news, rows, key)
        for ref, row in rows.items():
            if ref not in documents:
                await self._handle_missing(row, key)

    # --- from Prefect to the ledger

    async def listed(
        self, ids: Sequence[str] | None = None, *, include_secrets: bool = False
    ) -> list[_Document]:
        """Return the named documents of our types; if ``ids`` is given, only those."""
        document_filter: dict[str, Any] = {"is_anonymous": {"eq_": False}}
        if ids is not None:
            document_filter["id"] = {"any_": ids}
        documents: list[_Document] = []
        for offset in range(0, 1_000_000, _PAGE):
            query = {
                "block_documents": document_filter,
                "block_types": {"slug": {"any_": list(self.types)}},
                "include_secrets": include_secrets,
                "limit": _PAGE,
                "offset": offset,
            }
            response = await self.client.request("POST", "/block_documents/filter", json=query)
            page = response.json()
            documents += [
                _Document(
                    each["id"],
                    (each["block_type"]["slug"], each["name"]),
                    each["block_type_id"],
                    each["updated"],
                    each["data"],
                )
                for each in page
                if each["name"]
            ]
            if len(page) < _PAGE:
                break
        return documents

    async def _copy(
        self, news: Sequence[_Document], rows: Mapping[DocumentRef, BlockCopyRow], key: Key | None
    ) -> None:
        """Copy the documents in ``news`` that differ from their copy, and record the equal ones."""
        differing: list[_Document] = []
        for start in range(0, len(news), _PAGE):
            ids = [each.id for each in news[start : start + _PAGE]]
            for document in await self.listed(ids, include_secrets=True):
                row = rows.get(document.ref)
                if row is not None and _same(document, row, key):
                    self.memory.record_equal(document, copies.version(row))
                else:
                    differing.append(document)
        if not differing:
            return
        written: list[tuple[_Document, CopyVersion]] = []
        async with self.ledger.write() as session:
            try:
                key = await copies.get_or_create_key(session, home.current_home())
            except LedgerKeyMissing as error:  # another home stored its key first
                self.report.key_problem = error.why
                return
            except OSError as error:
                file = home.current_home().ledger_key
                self.report.key_problem = f"{file} cannot be created ({error.strerror})"
                return
            for document in differing:
                ref = document.ref
                before = copies.version(rows.get(ref))
                if copies.version(await copies.get(session, ref)) != before:
                    continue  # written or removed in the meantime: the next pass compares it
                new = await copies.put(
                    session, ref, document.type_id, document.data, key=key, now=self.ledger.now()
                )
                written.append((document, new))
        for document, new in written:
            self.memory.record_equal(document, new)
            self.report.copied.append(self.word(document.ref))

    # --- from the ledger to Prefect

    async def _handle_missing(self, row: BlockCopyRow, key: Key | None) -> None:
        """Handle a copy whose document was not in the list."""
        ref, of = (row.slug, row.name), self.types[row.slug]
        if await of.find(self.client, row.name) is not None:
            return  # created in the meantime, or missed between two pages
        # Read the type after the document: the type is then of this Prefect or a newer one.
        try:
            registered = await of.registered_type(self.client)
        except InvalidInput:
            return  # Prefect lost its database once more
        if str(registered.type_id) == row.type_id:
            async with self.ledger.write() as session:
                if await self._is_unchanged(session, row):
                    await copies.remove(session, ref)
                    self.report.removed.append(self.word(ref))
            return
        if key is None:
            self.report.locked.append(self.word(ref))
            return
        try:
            await self._restore(row, registered, copies.decrypt(row, key))
        except CopyDamaged as error:
            self.report.failed[self.word(ref)] = str(error)

    async def _restore(
        self, row: BlockCopyRow, known: RegisteredType, data: Mapping[str, Any]
    ) -> None:
        from prefect.exceptions import ObjectAlreadyExists, PrefectHTTPStatusError

        ref = (row.slug, row.name)
        try:
            document_id = await create_in_prefect(self.client, known, row.name, data)
        except ObjectAlreadyExists:  # another process was faster: the next pass compares
            return
        except PrefectHTTPStatusError as error:
            status = error.response.status_code
            if status >= _SERVER_ERROR:
                raise
            # Do not quote the response: it repeats the request's data.
            self.report.failed[self.word(ref)] = f"Prefect answered {status}"
            return
        async with self.ledger.write() as session:
            current = await copies.get(session, ref)
            if copies.version(current) == copies.version(row) and current is not None:
                current.type_id = str(known.type_id)
        if current is None:  # removed in the meantime
            await self.client.delete_block_document(document_id)
            return
        self.report.restored.append(self.word(ref))

    async def _is_unchanged(self, session: AsyncSession, row: BlockCopyRow) -> bool:
        current = await copies.get(session, (row.slug, row.name))
        return copies.version(current) == copies.version(row)

    def word(self, ref: DocumentRef) -> str:
        """Return the name of a document in reports: `secret ops`."""
        slug, name = ref
        return f"{self.types[slug].noun} {name}"


def _same(document: _Document, row: BlockCopyRow, key: Key | None) -> bool:
    """Return whether a copy equals its document, under the same block type."""
    if key is None or document.type_id != row.type_id:
        return False
    try:
        return copies.decrypt(row, key) == document.data
    except CopyDamaged:  # the copy is written anew
        return False
