"""Index of all hooks, read from their copies in the ledger. It works without Prefect."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field

from sqlmodel import col, select

from daybook.errors import CopyDamaged, DaybookError, InvalidInput
from daybook.features.hooks.documents import STORE, Hook, build
from daybook.home import Home
from daybook.ledger.credential_tables import BlockCopyRow
from daybook.ledger.engine import Ledger
from daybook.resources import copies
from daybook.resources.copies import CopyVersion

log = logging.getLogger(__name__)

MAX_AGE_SECONDS = 0.25
"""Maximum age of the index. If the index is older, a request first updates it from the ledger."""


@dataclass
class HookIndex:
    """Index of the hooks by name. It omits, and logs, a copy that is damaged or invalid."""

    home: Home
    _hooks: dict[str, Hook] = field(default_factory=dict, repr=False)
    _versions: dict[str, CopyVersion | None] = field(default_factory=dict, repr=False)
    _problem: DaybookError | None = None
    _read_at: float = float("-inf")
    _reading: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)

    async def find(self, ledger: Ledger, name: str) -> Hook | None:
        """Return the hook with this name; None if there is no such hook or its copy is unusable.

        Raise `LedgerUnreachable`, and `LedgerKeyMissing` if the home cannot decrypt the copies.
        """
        if self._is_old():
            async with self._reading:
                if self._is_old():
                    try:
                        await self._read(ledger)
                        self._problem = None
                    except DaybookError as error:
                        self._problem = error
                    self._read_at = time.monotonic()
        if self._problem is not None:
            raise self._problem.with_traceback(None)
        return self._hooks.get(name)

    def _is_old(self) -> bool:
        return time.monotonic() - self._read_at >= MAX_AGE_SECONDS

    async def _read(self, ledger: Ledger) -> None:
        async with ledger.read() as session:
            query = select(BlockCopyRow).where(col(BlockCopyRow.slug) == STORE.slug)
            found = {row.name: row for row in (await session.execute(query)).scalars()}
            versions = {name: copies.version(row) for name, row in found.items()}
            if versions != self._versions:
                key = await copies.key(session, self.home)
                assert key is not None or not found
                hooks = {}
                for name, row in found.items():
                    try:
                        assert key is not None
                        hooks[name] = build(name, copies.decrypt(row, key))
                    except (CopyDamaged, InvalidInput) as error:
                        log.warning("%s", error, extra={"action": "hook_invalid"})
                self._hooks, self._versions = hooks, versions
