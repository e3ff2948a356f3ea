"""Index of all hooks, read from their copies in the ledger. It works without Prefect."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from daybook.errors import DaybookError
from daybook.features.hooks.documents import STORE, Hook, build
from daybook.home import Home
from daybook.ledger.engine import Ledger
from daybook.resources.copied_documents import CopiedDocuments

MAX_AGE_SECONDS = 0.25
"""Maximum age of the index. If the index is older, a request first updates it from the ledger."""


@dataclass
class HookIndex:
    """The hooks by name, as new as `MAX_AGE_SECONDS`."""

    home: Home
    _problem: DaybookError | None = None
    _read_at: float = float("-inf")
    _reading: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)
    _documents: CopiedDocuments[Hook] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._documents = CopiedDocuments(self.home, {STORE.slug: build})

    async def find(self, ledger: Ledger, name: str) -> Hook | None:
        """Return the hook with this name; None if there is no such hook or its copy is unusable.

        Raise `LedgerUnreachable`, and `LedgerKeyMissing` if the home cannot decrypt the copies.
        """
        if self._is_old():
            async with self._reading:
                if self._is_old():
                    try:
                        await self._documents.update(ledger)
                        self._problem = None
                    except DaybookError as error:
                        self._problem = error
                    self._read_at = time.monotonic()
        if self._problem is not None:
            raise self._problem.with_traceback(None)
        return self._documents.built.get(name)

    def _is_old(self) -> bool:
        return time.monotonic() - self._read_at >= MAX_AGE_SECONDS
