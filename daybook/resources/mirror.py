"""The block documents in Prefect and their copies in the ledger, brought into agreement.

What Prefect holds is what runs use, so the ledger follows Prefect; and when Prefect has lost its
database, Prefect gets back what the ledger holds.

::

    in Prefect   copy    the block type has the id that the copy knows
    yes          no      -       copied: somebody made it in Prefect's UI
    yes          differs -       copied: somebody edited it there
    no           yes     yes     the copy is deleted: somebody deleted the document on purpose
    no           yes     no      restored: this Prefect never had it, because its database is new

A block type has a fresh id in each database, and deleting a type deletes its documents with it; so
a document that is missing below the very type that it was seen below was deleted by somebody.

Each step is one write to Prefect or one transaction of the ledger, in the order in which dying in
between does no harm: a copy gets the new type's id only after its document was made. The next pass
begins as a whole.
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
from daybook.resources import documents as block_documents
from daybook.resources.copies import Ref, Version
from daybook.resources.documents import BlockType
from daybook.resources.encryption import Key

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from sqlalchemy.ext.asyncio import AsyncSession

log = logging.getLogger(__name__)

_PAGE = 200
_AWAY = 500
"""The lowest HTTP status that is not about one document."""


@dataclass(frozen=True)
class _Document:
    """A document as it was listed. ``data`` has its secrets only where they were asked for."""

    id: str
    ref: Ref
    type_id: str
    updated: str
    data: dict[str, Any] = field(repr=False)


@dataclass
class Memory:
    """The pairs that agreed when they were last compared, so that the next pass skips them.

    ``key_problem`` is the one of the last pass, so that its caller tells it once.
    """

    key_problem: str = ""
    _agreed: dict[Ref, tuple[str, str, Version | None]] = field(default_factory=dict)

    def knows(self, document: _Document, row: BlockCopyRow | None) -> bool:
        """Whether neither side changed since then."""
        both = (document.id, document.updated, copies.version(row))
        return row is not None and self._agreed.get(document.ref) == both

    def agreed(self, document: _Document, version: Version | None) -> None:
        """Both sides hold the same now."""
        self._agreed[document.ref] = (document.id, document.updated, version)


@dataclass
class Report:
    """What one pass did, by references such as `secret ops`.

    ``locked`` are the documents that Prefect lost and that cannot be restored, because the key is
    missing: ``key_problem`` says why. ``failed`` are those that failed for another reason.
    """

    registered: bool = False
    copied: list[str] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    locked: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    key_problem: str = ""


async def agree(
    ledger: Ledger,
    client: PrefectClient,
    types: Collection[BlockType],
    memory: Memory | None = None,
    *,
    only: str | None = None,
) -> Report:
    """Compare all documents of these types with their copies; ``only`` those of one name.

    Registers the block types first if Prefect lacks one. A second pass changes nothing. Raises what
    a Prefect or a ledger raises that cannot be reached.
    """
    work = _Pass(ledger, client, {each.slug: each for each in types}, memory or Memory(), Report())
    await work.register()
    await work.compare(only)
    return work.report


async def lost(ledger: Ledger, client: PrefectClient, types: Collection[BlockType]) -> list[str]:
    """The documents that Prefect lost and that the ledger has a copy of."""
    work = _Pass(ledger, client, {each.slug: each for each in types}, Memory(), Report())
    rows = await work.rows()
    there = {each.ref for each in await work.listed()}
    type_ids = await work.type_ids()
    return [
        work.word(ref)
        for ref, row in rows.items()
        if ref not in there and type_ids.get(row.slug) != row.type_id
    ]


@dataclass(frozen=True)
class _Pass:
    ledger: Ledger
    client: PrefectClient
    types: Mapping[str, BlockType]
    memory: Memory
    report: Report

    async def type_ids(self) -> dict[str, str]:
        """Prefect's ids of the block types that it knows, by slug."""
        asked = {"block_types": {"slug": {"any_": list(self.types)}}, "limit": _PAGE}
        answer = await self.client.request("POST", "/block_types/filter", json=asked)
        return {each["slug"]: each["id"] for each in answer.json()}

    async def rows(self) -> dict[Ref, BlockCopyRow]:
        """The ledger's copies."""
        async with self.ledger.read() as session:
            every = await copies.every(session)
        return {(row.slug, row.name): row for row in every if row.slug in self.types}

    async def register(self) -> None:
        if (await self.type_ids()).keys() != self.types.keys():
            await repository.load_door("blocks/__init__.py").register(self.client)
            self.report.registered = True

    async def compare(self, only: str | None) -> None:
        rows = await self.rows()
        async with self.ledger.read() as session:
            try:
                key = await copies.key(session, home.here())
            except LedgerKeyMissing as error:
                key, self.report.key_problem = None, error.why
        documents = {each.ref: each for each in await self.listed()}
        if only is not None:
            rows = {ref: row for ref, row in rows.items() if ref[1] == only}
            documents = {ref: each for ref, each in documents.items() if ref[1] == only}
        news = [
            each for ref, each in documents.items() if not self.memory.knows(each, rows.get(ref))
        ]
        if news and not self.report.key_problem:
            await self._copy(news, rows, key)
        for ref, row in rows.items():
            if ref not in documents:
                await self._miss(row, key)

    # --- from Prefect to the ledger

    async def listed(
        self, ids: Sequence[str] | None = None, *, include_secrets: bool = False
    ) -> list[_Document]:
        """The named documents of our types; only those with these ``ids`` where they are given."""
        of: dict[str, Any] = {"is_anonymous": {"eq_": False}}
        if ids is not None:
            of["id"] = {"any_": ids}
        found: list[_Document] = []
        for offset in range(0, 1_000_000, _PAGE):
            asked = {
                "block_documents": of,
                "block_types": {"slug": {"any_": list(self.types)}},
                "include_secrets": include_secrets,
                "limit": _PAGE,
                "offset": offset,
            }
            answer = await self.client.request("POST", "/block_documents/filter", json=asked)
            page = answer.json()
            found += [
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
        return found

    async def _copy(
        self, news: Sequence[_Document], rows: Mapping[Ref, BlockCopyRow], key: Key | None
    ) -> None:
        """Copy those of ``news`` that differ from their copy, and remember the others."""
        differing: list[_Document] = []
        for begin in range(0, len(news), _PAGE):
            ids = [each.id for each in news[begin : begin + _PAGE]]
            for document in await self.listed(ids, include_secrets=True):
                row = rows.get(document.ref)
                if row is not None and _same(document, row, key):
                    self.memory.agreed(document, copies.version(row))
                else:
                    differing.append(document)
        if not differing:
            return
        written: list[tuple[_Document, Version]] = []
        async with self.ledger.write() as session:
            try:
                key = await copies.key_to_write(session, home.here())
            except LedgerKeyMissing as error:  # another home was faster
                self.report.key_problem = error.why
                return
            except OSError as error:
                file = home.here().ledger_key
                self.report.key_problem = f"{file} cannot be made ({error.strerror})"
                return
            for document in differing:
                ref = document.ref
                before = copies.version(rows.get(ref))
                if copies.version(await copies.get(session, ref)) != before:
                    continue  # written or removed meanwhile: for the next pass
                new = await copies.put(
                    session, ref, document.type_id, document.data, key=key, now=self.ledger.now()
                )
                written.append((document, new))
        for document, new in written:
            self.memory.agreed(document, new)
            self.report.copied.append(self.word(document.ref))

    # --- from the ledger to Prefect

    async def _miss(self, row: BlockCopyRow, key: Key | None) -> None:
        """Decide about a copy whose document was not in the list."""
        ref, of = (row.slug, row.name), self.types[row.slug]
        if await block_documents.named(self.client, of, row.name) is not None:
            return  # made meanwhile, or missed between two pages
        # Asked after that: the answer is about this Prefect or a newer one.
        try:
            known = await block_documents.registered(self.client, of)
        except InvalidInput:
            return  # lost once more
        if str(known.type_id) == row.type_id:
            async with self.ledger.write() as session:
                if await self._is_unchanged(session, row):
                    await copies.remove(session, ref)
                    self.report.removed.append(self.word(ref))
            return
        if key is None:
            self.report.locked.append(self.word(ref))
            return
        try:
            await self._restore(row, known, copies.data(row, key))
        except CopyDamaged as error:
            self.report.failed[self.word(ref)] = str(error)

    async def _restore(
        self, row: BlockCopyRow, known: block_documents.Registered, data: Mapping[str, Any]
    ) -> None:
        from prefect.exceptions import ObjectAlreadyExists, PrefectHTTPStatusError

        ref = (row.slug, row.name)
        try:
            made = await block_documents.create(self.client, known, row.name, data)
        except ObjectAlreadyExists:  # someone was faster: the next pass compares
            return
        except PrefectHTTPStatusError as error:
            status = error.response.status_code
            if status >= _AWAY:
                raise
            # Not its words: they repeat what it was sent.
            self.report.failed[self.word(ref)] = f"Prefect answered {status}"
            return
        async with self.ledger.write() as session:
            now = await copies.get(session, ref)
            if copies.version(now) == copies.version(row) and now is not None:
                now.type_id = str(known.type_id)
        if now is None:  # removed meanwhile
            await self.client.delete_block_document(made)
            return
        self.report.restored.append(self.word(ref))

    async def _is_unchanged(self, session: AsyncSession, row: BlockCopyRow) -> bool:
        now = await copies.get(session, (row.slug, row.name))
        return copies.version(now) == copies.version(row)

    def word(self, ref: Ref) -> str:
        """A document as it is called in reports: `secret ops`."""
        slug, name = ref
        return f"{self.types[slug].noun} {name}"


def _same(document: _Document, row: BlockCopyRow, key: Key | None) -> bool:
    """Whether a copy holds what the document holds, below the same block type."""
    if key is None or document.type_id != row.type_id:
        return False
    try:
        return copies.data(row, key) == document.data
    except CopyDamaged:  # it is written anew
        return False
