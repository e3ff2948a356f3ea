"""What a worker finds around it: whose its pool is, what its runs print, its health check."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http import HTTPStatus
from pathlib import Path

from prefect.client.orchestration import PrefectClient
from prefect.exceptions import PrefectHTTPStatusError

from daybook.errors import Refused
from daybook.host import prefect_private, processes
from daybook.service.pool import ledgers


async def check(client: PrefectClient, pool: str, ledger_id: str) -> None:
    """Raise `Refused` when the pool's jobs are another ledger's and none is this one's.

    Such a worker would take nothing, and nobody would see why (`docs/promise.md` 15).
    """
    has_ours, others = await ledgers(client, pool, ledger_id)
    if others and not has_ours:
        listed = ", ".join(each[:8] for each in others)
        raise Refused(
            "work pool",
            f'"{pool}" has jobs of another ledger ({listed}) and none of this one\'s, '
            f"{ledger_id[:8]}",
            "check DAYBOOK_HOME and DAYBOOK_LEDGER_URL",
        )


@contextmanager
def outputs(folder: Path) -> Iterator[Path]:
    """A folder for what the runs' processes print, named by this process; it goes at the end.

    So do those of workers that were killed.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    for left in folder.iterdir():
        if not left.name.isdigit() or processes.find(int(left.name)) is None:
            shutil.rmtree(left, ignore_errors=True)
    own = folder / str(os.getpid())
    own.mkdir(mode=0o700, exist_ok=True)
    try:
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)


async def savings(client: PrefectClient) -> dict[str, str]:
    """Settings by which the runs' processes ask nothing that the worker has asked already.

    The server's version was seen when the worker's own client connected. Tokens against forged
    requests are asked for only where the server gives them out.
    """
    saved = {"PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false"}
    try:
        await client.request("GET", "/csrf-token", params={"client": "daybook-worker"})
    except PrefectHTTPStatusError as error:
        if error.response.status_code == HTTPStatus.UNPROCESSABLE_ENTITY:
            saved["PREFECT_CLIENT_CSRF_SUPPORT_ENABLED"] = "false"
    return saved


def healthcheck(polling: Callable[[], bool]) -> AbstractContextManager[None]:
    """Prefect's own health check of a worker, as long as the block runs."""
    return prefect_private.worker_healthcheck(polling)
