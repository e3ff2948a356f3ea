"""Prefect's records that the processes of runs need (`daybook.prefect.known_answers`)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import Flow, FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound

from daybook.json_text import JsonObject
from daybook.prefect import known_answers
from daybook.prefect.known_answers import as_json

MAX_AGE_SECONDS = 60.0
"""Age at which a record that rarely changes is read again."""
MAX_RECORDS = 1_000


class Records:
    """Records of one Prefect: flows, work queues, work pools, and the default storage of results.

    A record that cannot be read is missing in the results, and the process of the run asks Prefect
    for it.
    """

    def __init__(self, client: PrefectClient) -> None:
        self._client = client
        self._records: dict[str, tuple[float, Any]] = {}

    async def of_job_run(self) -> dict[str, JsonObject]:
        """Return the records that each run of a job needs, by their paths."""
        storage = await self._read(
            known_answers.STORAGE, self._client.read_server_default_result_storage
        )
        return {} if storage is None else {known_answers.STORAGE: as_json(storage)}

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
        storage, *records = await asyncio.gather(
            self.of_job_run(), *(self._read(path, read) for path, read in reads.items())
        )
        found |= {path: each for path, each in zip(reads, records, strict=True) if each is not None}
        of_all: dict[str, JsonObject] = storage
        return of_all | {path: as_json(each) for path, each in found.items()}

    async def flow(self, run: FlowRun) -> Flow:
        """Return the flow of a run; raise `ObjectNotFound` and `httpx.HTTPError`."""
        path = f"/flows/{run.flow_id}"
        known = self._find(path)
        if known is None:
            known = self._keep(path, await self._client.read_flow(run.flow_id))
        flow: Flow = known
        return flow

    async def _read(self, path: str, read: Callable[[], Awaitable[Any]]) -> Any:
        if (known := self._find(path)) is not None:
            return known
        try:
            return self._keep(path, await read())
        except (ObjectNotFound, httpx.HTTPError):
            return None

    def _find(self, path: str) -> Any:
        read_at, record = self._records.get(path, (float("-inf"), None))
        return record if time.monotonic() - read_at < MAX_AGE_SECONDS else None

    def _keep(self, path: str, record: Any) -> Any:
        self._records.pop(path, None)
        self._records[path] = time.monotonic(), record
        if len(self._records) > MAX_RECORDS:
            del self._records[next(iter(self._records))]
        return record
