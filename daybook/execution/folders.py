"""Real paths of the folders of programs, which a claim compares (`daybook.runs.folders`).

They are looked up before the claim's transaction, because a network file system may hang.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import suppress
from weakref import WeakKeyDictionary

from sqlalchemy.ext.asyncio import AsyncSession

from daybook import home
from daybook.agents import kinds
from daybook.errors import CopyDamaged, LedgerKeyMissing
from daybook.jobs import policy
from daybook.jobs.actions import CONVERSATION_KINDS
from daybook.ledger.engine import Ledger
from daybook.processes import locations
from daybook.resources import copies
from daybook.runs import folders
from daybook.runs.claim_requests import ClaimRequest

KEEP_SECONDS = 5.0
"""How long the folders of the agents stay in the cache."""

MAX_LOOKUP_SECONDS = 2.0
"""Time for one path. Then the claim uses the path as it is written."""

_cache: WeakKeyDictionary[Ledger, tuple[float, Mapping[str, str]]] = WeakKeyDictionary()


async def of_request(ledger: Ledger, request: ClaimRequest) -> Mapping[str, str]:
    """Return the real paths for `ClaimRequest.folders`; empty if the run asks no agent.

    Raise `LedgerUnreachable`.
    """
    if request.kind not in CONVERSATION_KINDS:
        return {}
    if written := policy.policy_from_parameters(request.parameters).work_dir:
        return {written: await _real_path(written)}
    read_at, found = _cache.get(ledger, (float("-inf"), {}))
    if time.monotonic() - read_at > KEEP_SECONDS:
        async with ledger.read() as session:
            written_by_agent = await of_agents(session)
        found = {
            folders.agent_key(name): await _real_path(folder)
            for name, folder in written_by_agent.items()
        }
        _cache[ledger] = time.monotonic(), found
    return found


async def of_agents(session: AsyncSession) -> dict[str, str]:
    """Return the work directories of the command agents, as they are written, by agent.

    Omit an agent without one, or whose copy this home cannot read.
    """
    found = dict[str, str]()
    stored = [each for each in await copies.list_copies(session) if each.slug == kinds.COMMAND.slug]
    try:
        key = await copies.key(session, home.current_home()) if stored else None
    except (LedgerKeyMissing, OSError):
        return found
    if key is None:
        return found
    for row in stored:
        with suppress(CopyDamaged):
            folder = copies.decrypt(row, key).get("work_dir")
            if isinstance(folder, str) and folder:
                found[row.name] = folder
    return found


async def _real_path(written: str) -> str:
    with suppress(TimeoutError):
        async with asyncio.timeout(MAX_LOOKUP_SECONDS):
            return await asyncio.to_thread(locations.real_path, written)
    return locations.plain_path(written)
