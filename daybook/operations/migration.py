"""Creation or migration of the ledger in a process that ends afterwards.

What a migration imports and allocates would stay in the memory of `up`, 30 MB.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress

from daybook.home import Home
from daybook.ledger.engine import open_ledger
from daybook.processes import image, proc


async def migrate(home: Home, forked_from: image.Image) -> None:
    """Open the ledger in a fork, and wait for its end.

    If that fails, nothing is raised: the caller opens the ledger next, and gets the error.
    """
    output = os.open(os.devnull, os.O_WRONLY)
    try:
        with suppress(OSError):
            migrating = await forked_from.start(
                [*image.PYTHON_MODULE, "daybook.operations.migration"],
                environment=os.environ,
                folder=home.path,
                output=output,
            )
            try:
                await migrating.wait()
            finally:
                if migrating.returncode is None:  # this process stops
                    with suppress(ProcessLookupError):
                        migrating.kill()
    finally:
        os.close(output)


async def _open() -> None:
    async with open_ledger():
        pass


if __name__ == "__main__":
    proc.end_with_parent()
    asyncio.run(_open())
