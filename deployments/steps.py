"""Deploy steps of `prefect.yaml`, which create what a deployment needs to run.

A step that runs again changes nothing.
"""

from __future__ import annotations

import sys
from pathlib import Path

from anyio.from_thread import start_blocking_portal


async def prepare() -> dict[str, str]:
    """Migrate the ledger, register the block types, create the work pool and the agent `default`.

    Also restores lost blocks. In `prefect.yaml`: ``build: [{"deployments.steps.prepare": {}}]``.
    Returns the address of the ``ledger``. Raises `daybook.errors.InvalidInput` if a pool of another
    type has the pool's name.
    """
    from prefect.client.orchestration import get_client

    from daybook.ledger.engine import open_ledger
    from daybook.operations import setup

    async with open_ledger() as ledger, get_client() as client:
        for line in await setup.prepare(client):
            print(line)
        return {"ledger": ledger.place}


def make_pool_when_deploying() -> None:
    """Create the work pool if this process is `prefect deploy`.

    That command needs the pool before it runs any deploy step, but imports the flow's file even
    earlier. So the flow's file calls this function.
    """
    if "prefect" in Path(sys.argv[0]).parts[-2:] and "deploy" in sys.argv[1:]:
        with start_blocking_portal("asyncio") as portal:  # the command's own loop is busy
            portal.call(_make_pool)


async def _make_pool() -> None:
    from prefect.client.orchestration import get_client

    from daybook.operations import worker

    async with get_client() as client:
        await worker.ensure_pool(client)
