"""Prefect's records for runs: read once a minute, and never a reason not to start a run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest
from anyio.lowlevel import checkpoint
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import Flow, FlowRun, ServerDefaultResultStorage

from daybook.worker import records
from daybook.worker.records import Records

pytestmark = pytest.mark.anyio


class Prefect:
    """A client that counts what it reads, and fails with ``error`` if there is one."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.read = error, list[str]()

    def _read(self, what: str, found: Any) -> Any:
        self.read.append(what)
        if self.error is not None:
            raise self.error
        return found

    async def read_server_default_result_storage(self) -> Any:
        return self._read("storage", ServerDefaultResultStorage())

    async def read_flow(self, flow_id: Any) -> Any:
        return self._read("flow", Flow(id=flow_id, name="hello", labels={}))

    async def read_work_pool(self, name: str) -> Any:
        return self._read("pool", Flow(name=name, labels={}))

    async def read_work_queue(self, id_: Any) -> Any:
        return self._read("queue", Flow(name="default", labels={}))


def records_of(prefect: Prefect) -> Records:
    return Records(cast(PrefectClient, prefect))


async def settle() -> None:
    """Let the background tasks end; the fake client never waits."""
    for _ in range(10):
        await checkpoint()


async def test_a_job_run_never_waits_for_a_record() -> None:
    prefect = Prefect()
    known = records_of(prefect)
    assert known.of_job_run() == {}
    await settle()
    assert list(known.of_job_run()) == ["/admin/storage"]
    await settle()
    assert prefect.read == ["storage"]


@pytest.mark.parametrize("error", [ValueError("no JSON"), TimeoutError()])
async def test_a_record_that_cannot_be_read_is_asked_for_only_now_and_then(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefect = Prefect(error)
    known = records_of(prefect)
    for _ in range(3):
        assert known.of_job_run() == {}
        await settle()
    assert prefect.read == ["storage"]
    prefect.error = None
    monkeypatch.setattr(records, "MAX_AGE_SECONDS", 0.0)
    known.of_job_run()
    await settle()
    assert prefect.read == ["storage", "storage"]


async def test_an_external_run_has_its_flow_pool_and_queue() -> None:
    prefect = Prefect()
    known = records_of(prefect)
    run = FlowRun(id=uuid4(), flow_id=uuid4(), work_pool_name="p", work_queue_id=uuid4())
    deployment: Any = SimpleNamespace(id="d", model_dump=lambda mode: {"name": "d"})
    for _ in range(2):
        flow = await known.flow(run)
        found = await known.of_external_run(run, flow, deployment)
    paths = {f"/flows/{run.flow_id}", "/deployments/d", "/work_pools/p"}
    assert paths | {f"/work_queues/{run.work_queue_id}"} <= set(found)
    assert found["/deployments/d"] == {"name": "d"}
    await settle()
    assert sorted(prefect.read) == ["flow", "pool", "queue", "storage"]


async def test_a_flow_that_cannot_be_read_is_an_error() -> None:
    with pytest.raises(ValueError, match="no JSON"):
        await records_of(Prefect(ValueError("no JSON"))).flow(FlowRun(flow_id=uuid4()))


async def test_only_some_records_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_RECORDS", 2)
    prefect = Prefect()
    known = records_of(prefect)
    runs = [FlowRun(flow_id=uuid4()) for _ in range(3)]
    for each in [*runs, runs[0]]:
        await known.flow(each)
    assert prefect.read == ["flow"] * 4
