"""Choice of the launcher for this machine. The ports are in `daybook.worker.base`."""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from daybook.worker.base import Launcher, Running
from daybook.worker.nursery import PROGRAM
from daybook.worker.spawn import Spawner
from daybook.worker.zygote import Zygote

__all__ = ["Launcher", "Running", "best"]

log = logging.getLogger(__name__)


@asynccontextmanager
async def best(
    folder: Path,
    *,
    environment: Mapping[str, str] | None = None,
    program: str = PROGRAM,
    platform: str = sys.platform,
) -> AsyncIterator[Launcher]:
    """Open the launcher for this machine; see `nursery.ProcessLauncher` for the arguments.

    Children are forked only on Linux, and only if the parent has a single thread after its imports.
    On other systems, the system's own libraries may run threads that cannot be counted.
    """
    async with AsyncExitStack() as stack:
        options: dict[str, Any] = {"environment": environment, "program": program}
        why, launcher = f"the platform is {platform}", None
        if platform == "linux":
            try:
                launcher = await stack.enter_async_context(Zygote(folder, **options))
                why = f"{launcher.threads} threads run after the imports"
            except OSError as error:
                why = f"nothing to fork from: {error}"
        if launcher is not None and launcher.threads == 1:
            log.info("forked children", extra={"action": "children_forked"})
            yield launcher
            return
        await stack.aclose()
        log.warning("spawned children: %s", why, extra={"action": "children_spawned"})
        yield await stack.enter_async_context(Spawner(folder, **options))
