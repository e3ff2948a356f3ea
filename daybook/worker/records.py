"""Prefect's records that the processes of runs need (`daybook.prefect.known_answers`)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import Flow, FlowRun
from prefect.client.schemas.responses import DeploymentResponse

from daybook.json_text import JsonObject
from daybook.prefect import known_answers

log = logging.getLogger(__name__)

MAX_AGE_SECONDS = 60.0
"""Age at which a record that rarely changes is read again."""
MAX_RECORDS = 1_000
READ_TIMEOUT_SECONDS = 5.0


class Records:
    """Records of one Prefect: flows, work queues, work pools, and the default storage of results.

    A record that cannot be read is missing in the results, and the process of the run asks Prefect
    for it.
    """

    def __init__(self, client: PrefectClient) -> None:
        self._client = client
        self._records: dict[str, tuple[float, Any]] = {}
        self._reading: asyncio.Task[Any] | None = None

    def of_job_run(self) -> dict[str, JsonObject]:
        """Return the known records of those that each run of a job needs, by their paths.

        This asks no server: old records are read again in the background.
        """
        read_at, storage = self._records.get(known_answers.STORAGE, (float("-inf"), None))
        age = time.monotonic() - read_at
        if age >= MAX_AGE_SECONDS and (self._reading is None or self._reading.done()):
            read = self._client.read_server_default_result_storage
            self._reading = asyncio.create_task(self._read(known_answers.STORAGE, read))
        is_known = storage is not None and age < 2 * MAX_AGE_SECONDS
        return {known_answers.STORAGE: storage.model_dump(mode="json")} if is_known else {}

    async def of_external_run(
        self, run: FlowRun, flow: Flow, deployment: DeploymentResponse | None
    ) -> dict[str, JsonObject]:
        """Return the records that an external run needs, by their paths."""
        client, pool, queue = self._client, run.work_pool_name, run.work_queue_id
        found: dict[str, Any] = {f"/flows/{flow.id}": flow}
        if deployment is not None:
            found[f"/deployments/{deployment.id}"] = deployment
        reads: dict[str, Callable[[], Awaitable[Any]]] = {}
        if queue is not None:
            reads[f"/work_queues/{queue}"] = lambda: client.read_work_queue(queue)
        if pool is not None:
            reads[f"/work_pools/{pool}"] = lambda: client.read_work_pool(pool)
        records = await asyncio.gather(*(self._read(path, read) for path, read in reads.items()))
        found |= {path: each for path, each in zip(reads, records, strict=True) if each is not None}
        return self.of_job_run() | {
            path: each.model_dump(mode="json") for path, each in found.items()
        }

    async def flow(self, run: FlowRun) -> Flow:
        """Return the flow of a run; raise `ObjectNotFound` and `httpx.HTTPError`."""
        path = f"/flows/{run.flow_id}"
        if not self._is_fresh(path):
            self._keep(path, await self._client.read_flow(run.flow_id))
        flow: Flow = self._records[path][1]
        return flow

    async def _read(self, path: str, read: Callable[[], Awaitable[Any]]) -> Any:
        if self._is_fresh(path):
            return self._records[path][1]
        try:
            async with asyncio.timeout(READ_TIMEOUT_SECONDS):
                return self._keep(path, await read())
        except Exception as error:  # also an answer that is no JSON, such as a proxy's page
            log.info("cannot read %s from Prefect: %r", path, error)
            return self._keep(path, None)  # ask again only after a while

    def _is_fresh(self, path: str) -> bool:
        read_at, _ = self._records.get(path, (float("-inf"), None))
        return time.monotonic() - read_at < MAX_AGE_SECONDS

    def _keep(self, path: str, record: Any) -> Any:
        self._records.pop(path, None)
        self._records[path] = time.monotonic(), record
        if len(self._records) > MAX_RECORDS:
            del self._records[next(iter(self._records))]
        return record
