"""Reconciliation of Prefect's block documents with their copies in the ledger.

Runs use the documents in Prefect, so the ledger follows Prefect. If Prefect has lost its database,
this module restores the documents from the ledger.

::

    in Prefect   copy     same block type id   action
    yes          no       -                    copy: a user created the document in Prefect's UI
    yes          differs  -                    copy: a user edited it there
    no           yes      yes                  delete the copy: a user deleted the document
    no           yes      no                   restore: the database is new, without the document

A block type gets a new id in each database, and deleting a type deletes its documents. So if a
document is missing while its type still has the recorded id, a user deleted it on purpose.

Each step is one write to Prefect or one transaction in the ledger. A crash between two steps is
harmless, because the next pass starts over, and because a copy gets the new type's id only after
its document was created.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from daybook import home, repository
from daybook.errors import CopyDamaged, InvalidInput, LedgerKeyMissing
from daybook.json_text import JsonObject
from daybook.ledger.credential_tables import BlockCopyRow
from daybook.ledger.engine import Ledger
from daybook.resources import copies
from daybook.resources.copies import CopyVersion, DocumentRef
from daybook.resources.encryption import Key
from daybook.resources.store import BlockStore, RegisteredType, create_in_prefect

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

log = logging.getLogger(__name__)

_PAGE = 200
_SERVER_ERROR = 500
"""The lowest HTTP status that indicates a problem of the server, not of a single document."""


@dataclass(frozen=True)
class _Document:
    """A document in Prefect. ``data`` contains its secrets only if they were requested."""

    id: str
    ref: DocumentRef
    type_id: str
    updated: str
    data: JsonObject = field(repr=False)


@dataclass
class ComparisonCache:
    """Documents that were equal to their copies at the last comparison.

    A pass skips the documents that have not changed since. ``key_problem`` is the key's problem in
    the last pass, so that the caller reports each problem only once.
    """

    key_problem: str = ""
    _agreed: dict[DocumentRef, tuple[str, str, CopyVersion | None]] = field(default_factory=dict)

    def is_unchanged(self, document: _Document, row: BlockCopyRow | None) -> bool:
        """Return whether neither side has changed since the last comparison."""
        pair = (document.id, document.updated, copies.version(row))
        return row is not None and self._agreed.get(document.ref) == pair

    def record_equal(self, document: _Document, version: CopyVersion | None) -> None:
        """Record that ``document`` equals its copy with this version."""
        self._agreed[document.ref] = (document.id, document.updated, version)


@dataclass
class MirrorReport:
    """Result of one pass. Documents have names such as `secret ops`.

    ``locked`` has the lost documents that cannot be restored because the key is missing;
    ``key_problem`` is the problem with the key. ``failed`` maps other documents that were not
    restored to the reasons.
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
    """Reconcile the documents of these types with their copies; ``only`` selects one name.

    Register the block types first if one is missing in Prefect. A second pass changes nothing.
    Without ``memory``, compare all documents. Errors of an unreachable Prefect or ledger propagate.
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
    """Return the names of the documents that Prefect has lost and of which copies exist."""
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
        """Return the ids of the registered block types, by slug."""
        query = {"block_types": {"slug": {"any_": list(self.types)}}, "limit": _PAGE}
        response = await self.client.request("POST", "/block_types/filter", json=query)
        return {each["slug"]: each["id"] for each in response.json()}

    async def rows(self) -> dict[DocumentRef, BlockCopyRow]:
        """Return the ledger's copies of documents of these types."""
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
        """Return the named documents of these types; with ``ids``, return only these documents."""
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
        """Write the copies of documents that differ from their copies; record equal documents."""
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
            except LedgerKeyMissing as error:  # another home stored the id of its key first
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
                    continue  # meanwhile written or removed: the next pass compares it
                new = await copies.put(
                    session, ref, document.type_id, document.data, key=key, now=self.ledger.now()
                )
                written.append((document, new))
        for document, new in written:
            self.memory.record_equal(document, new)
            self.report.copied.append(self.word(document.ref))

    # --- from the ledger to Prefect

    async def _handle_missing(self, row: BlockCopyRow, key: Key | None) -> None:
        """Delete a copy whose document was deleted, or restore the document that Prefect lost."""
        ref, of = (row.slug, row.name), self.types[row.slug]
        if await of.find(self.client, row.name) is not None:
            return  # created since then, or missed between two pages
        # Read the type after the document: if Prefect got a new database between the two reads, the
        # type's id is the new one.
        try:
            registered = await of.registered_type(self.client)
        except InvalidInput:
            return  # Prefect has lost its database once more
        if str(registered.type_id) == row.type_id:
            async with self.ledger.write() as session:
                current = await copies.get(session, ref)
                if copies.version(current) == copies.version(row):
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
            # Do not quote the response, which repeats the request's data.
            self.report.failed[self.word(ref)] = f"Prefect answered {status}"
            return
        async with self.ledger.write() as session:
            current = await copies.get(session, ref)
            if copies.version(current) == copies.version(row) and current is not None:
                current.type_id = str(known.type_id)
        if current is None:  # already removed
            await self.client.delete_block_document(document_id)
            return
        self.report.restored.append(self.word(ref))

    def word(self, ref: DocumentRef) -> str:
        """Return the name of a document for reports, such as `secret ops`."""
        slug, name = ref
        return f"{self.types[slug].noun} {name}"


def _same(document: _Document, row: BlockCopyRow, key: Key | None) -> bool:
    """Return whether a copy has the same data and block type as its document.

    Return False if the copy cannot be decrypted.
    """
    if key is None or document.type_id != row.type_id:
        return False
    try:
        return copies.decrypt(row, key) == document.data
    except CopyDamaged:  # not readable: write the copy again
        return False
