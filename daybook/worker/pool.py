"""What a worker has around it: what its runs print, what they need not ask, its health check."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http import HTTPStatus
from pathlib import Path

from prefect.client.orchestration import PrefectClient
from prefect.exceptions import PrefectHTTPStatusError

from daybook.prefect import private_names
from daybook.processes import proc


@contextmanager
def outputs(folder: Path) -> Iterator[Path]:
    """A folder for what the runs' processes print, named by this process; it goes at the end.

    So do those of workers that were killed.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    for left in folder.iterdir():
        if not left.name.isdigit() or proc.find(int(left.name)) is None:
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
    return private_names.worker_healthcheck(polling)
