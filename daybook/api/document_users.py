"""Users of stored agents, channels, secrets and tool servers: one in use cannot be removed."""

from __future__ import annotations

from collections.abc import Sequence

from daybook.errors import InvalidInput
from daybook.jobs import store
from daybook.jobs.store import StoredJob
from daybook.ledger.engine import open_ledger


async def stored_jobs() -> list[StoredJob]:
    """Return all jobs of all owners."""
    async with open_ledger() as ledger, ledger.read() as session:
        return await store.all_jobs(session)


def refuse_if_used(noun: str, name: str, users: Sequence[str]) -> None:
    """Raise `InvalidInput` if a document that is to be removed has users."""
    if users:
        raise InvalidInput(
            noun, f'"{name}" is used by {", ".join(users)}', "edit or remove those first"
        )
