"""Settings documents that a long-running process reads from their copies, so without Prefect."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from sqlmodel import col, select

from daybook.errors import CopyDamaged, InvalidInput
from daybook.home import Home
from daybook.json_text import JsonObject
from daybook.ledger.credential_tables import BlockCopyRow
from daybook.ledger.engine import Ledger
from daybook.resources import copies
from daybook.resources.copies import CopyVersion, DocumentRef

log = logging.getLogger(__name__)

Built = TypeVar("Built")


@dataclass
class CopiedDocuments(Generic[Built]):
    """The documents of some block types, as objects by name.

    ``builders`` has, by the block type's slug, the function that builds the object from a
    document's name and data; it raises `InvalidInput`. A copy that is damaged or invalid is
    omitted from ``built`` and logged. ``names`` are the names of all copies.
    """

    home: Home
    builders: Mapping[str, Callable[[str, JsonObject], Built]]
    built: dict[str, Built] = field(default_factory=dict, repr=False)
    names: frozenset[str] = frozenset()
    _versions: dict[DocumentRef, CopyVersion | None] = field(default_factory=dict, repr=False)

    async def update(self, ledger: Ledger) -> bool:
        """Read the copies. Return whether a document was added, changed or removed.

        Raise `LedgerUnreachable`, and `LedgerKeyMissing` if the home cannot decrypt the copies.
        """
        async with ledger.read() as session:
            query = select(BlockCopyRow).where(col(BlockCopyRow.slug).in_(self.builders))
            rows = {(row.slug, row.name): row for row in (await session.execute(query)).scalars()}
            versions = {ref: copies.version(row) for ref, row in rows.items()}
            if versions == self._versions:
                return False
            key = await copies.key(session, self.home)
        found = dict[str, Built]()
        for (slug, name), row in rows.items():
            try:
                assert key is not None  # because the ledger has a copy
                found[name] = self.builders[slug](name, copies.decrypt(row, key))
            except (CopyDamaged, InvalidInput) as error:
                log.warning("%s", error, extra={"action": "document_invalid"})
        self.built, self._versions = found, versions
        self.names = frozenset(name for _, name in rows)
        return True
