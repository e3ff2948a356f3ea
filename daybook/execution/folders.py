"""Real paths of the folders of programs, which a claim compares (`daybook.runs.folders`).

They are looked up before the claim's transaction, because a network file system may hang.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from weakref import WeakKeyDictionary

from sqlalchemy.ext.asyncio import AsyncSession

from daybook import home
from daybook.agents import kinds
from daybook.errors import CopyDamaged, LedgerKeyMissing
from daybook.ledger import job_kinds
from daybook.ledger.engine import Ledger
from daybook.processes import locations
from daybook.resources import copies
from daybook.runs import folders
from daybook.runs.claim_requests import ClaimRequest, agent_name

KEEP_SECONDS = 5.0
"""How long the folders of the agents stay in the cache."""

MAX_LOOKUP_SECONDS = 2.0
"""Time for one path. Then the claim uses the path as it is written."""

_cache: WeakKeyDictionary[Ledger, tuple[float, Mapping[str, str]]] = WeakKeyDictionary()


async def of_request(ledger: Ledger, request: ClaimRequest) -> Mapping[str, str]:
    """Return the real paths for `ClaimRequest.folders`; empty if the run asks no agent.

    Raise `LedgerUnreachable`.
    """
    if not job_kinds.asks_agent(request.kind) or request.policy.repo:
        return {}
    if written := request.policy.work_dir:
        return {written: await real_path(written)}
    read_at, of_all = _cache.get(ledger, (float("-inf"), {}))
    if time.monotonic() - read_at > KEEP_SECONDS:
        async with ledger.read() as session:
            of_all = await of_agents(session)
        _cache[ledger] = time.monotonic(), of_all
    asked = agent_name(request.parameters)
    return {
        folders.agent_key(name): await real_path(folder)
        if name == asked  # an unreachable folder of another agent delays no run
        else locations.plain_path(folder)
        for name, folder in of_all.items()
    }


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


async def real_path(written: str) -> str:
    """Return the real path, or after `MAX_LOOKUP_SECONDS` the path as it is written.

    The thread of a look-up that hangs ends with the process, and uses no place of the event loop's
    executor, which the process would wait for at its end.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[str] = loop.create_future()

    def finish(path: str) -> None:
        if not result.done():
            result.set_result(path)

    def look_up() -> None:
        path = locations.real_path(written)
        with suppress(RuntimeError):  # the loop is closed, so no caller waits any more
            loop.call_soon_threadsafe(finish, path)

    threading.Thread(target=look_up, name="daybook-folder", daemon=True).start()
    with suppress(TimeoutError):
        async with asyncio.timeout(MAX_LOOKUP_SECONDS):
            return await result
    return locations.plain_path(written)
