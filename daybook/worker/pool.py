"""Surroundings of a worker: the output files of its runs, their settings, its health check."""

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
def output_folder(folder: Path) -> Iterator[Path]:
    """Make a folder for the output of the runs' processes, named by this pid; delete it at the end.

    It also deletes the folders of killed workers.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    for entry in folder.iterdir():
        if not entry.name.isdigit() or proc.find(int(entry.name)) is None:
            shutil.rmtree(entry, ignore_errors=True)
    own = folder / str(os.getpid())
    own.mkdir(mode=0o700, exist_ok=True)
    try:
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)


async def child_settings(client: PrefectClient) -> dict[str, str]:
    """Return settings that save the runs' processes requests that the worker has already made.

    The worker's own client has checked the server's version when it connected. Tokens against
    forged requests are requested only if the server issues them.
    """
    settings = {"PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false"}
    try:
        await client.request("GET", "/csrf-token", params={"client": "daybook-worker"})
    except PrefectHTTPStatusError as error:
        if error.response.status_code == HTTPStatus.UNPROCESSABLE_ENTITY:
            settings["PREFECT_CLIENT_CSRF_SUPPORT_ENABLED"] = "false"
    return settings


def healthcheck(polling: Callable[[], bool]) -> AbstractContextManager[None]:
    """Run Prefect's own health check of a worker while the block runs."""
    return private_names.worker_healthcheck(polling)
