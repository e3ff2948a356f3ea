"""Webhook jobs from the flow on: what is sent, and the outcome of the run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from prefect.exceptions import CrashedRun, FailedRun
from sqlmodel import col, select

from daybook.api import jobs as service
from daybook.delivery.outbox import CALLBACK
from daybook.jobs import store
from daybook.jobs.model import edit
from daybook.jobs.store import StoredJob
from daybook.ledger.tables import JobRow, OutboxRow, RunRow
from daybook.owners import Actor, acting_as
from flows.webhook import webhook
from tests.receiver import Receiver, answer, hang, serving
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, *PREFECT_LEAVES_A_SOCKET]


@pytest.fixture
async def server() -> AsyncIterator[Receiver]:
    async with serving() as server:
        yield server


async def call(**given: Any) -> dict[str, Any]:
    result: dict[str, Any] = await webhook(**given)
    return result


@pytest.mark.floor("B", "A webhook sends its headers and its body")
@pytest.mark.floor("B", "The status and body of a webhook's answer are the result")
@pytest.mark.slow
async def test_an_answer_is_stored_and_the_request_carries_its_occurrence(
    world: PrefectWorld, server: Receiver
) -> None:
    server.steps = [answer(201, b'{"id": 7}', {"Content-Type": "application/json"})]

    result = await call(url=f"{server.address}/a", headers={"X-Team": "ops"}, body='{"a": 1}')

    row = await world.runs.row()
    (request,) = server.requests
    assert (request.method, request.path, request.body) == ("POST", "/a", b'{"a": 1}')
    assert request.headers["idempotency-key"] == row.occurrence
    assert (request.headers["x-team"], request.headers["content-type"]) == (
        "ops",
        "application/json",
    )
    assert result["result"] == {"status_code": 201, "body": '{"id": 7}'} == row.result
    assert (row.kind, row.status, row.session_id, row.agent) == ("webhook", "succeeded", None, None)
    page = await world.prefect.artifact(row.flow_run_id)
    assert f"POST {server.address}/a" in page
    assert '{"id": 7}' in page


@pytest.mark.floor("B", "The status and body of a failed webhook are kept")
async def test_an_error_status_fails_the_run_and_stores_status_and_body(
    world: PrefectWorld, server: Receiver
) -> None:
    server.steps = [answer(500, b"no")]

    with pytest.raises(FailedRun, match="500 Internal Server Error"):
        await call(url=server.address, policy={"retries": 3})

    row = await world.runs.row()
    assert (row.status, row.attempts, len(server.requests)) == ("failed", 1, 1)
    assert row.result == {"status_code": 500, "body": "no"}


@pytest.mark.slow
async def test_503_and_429_are_retried_as_often_as_promised_with_the_same_key(
    world: PrefectWorld, server: Receiver
) -> None:
    server.steps = [answer(503), answer(429, headers={"Retry-After": "1"}), answer(200, b"at last")]

    result = await call(url=server.address, policy={"retries": 2, "retry_delay": "1s"})

    assert result["output"] == "at last"
    assert (await world.runs.row()).attempts == 3
    assert len(server.requests) == 3
    assert len({request.headers["idempotency-key"] for request in server.requests}) == 1


@pytest.mark.slow
async def test_a_request_without_an_answer_leaves_the_run_unknown_and_is_not_repeated(
    world: PrefectWorld, server: Receiver
) -> None:
    server.steps = [hang]

    with pytest.raises(CrashedRun):
        await call(url=server.address, policy={"timeout": "5s", "retries": 3})

    row = await world.runs.row()
    assert (row.status, row.attempts, len(server.requests)) == ("unknown", 1, 1)
    assert "so its effect is unknown" in row.reason


@pytest.mark.slow
async def test_an_idempotent_request_without_an_answer_is_repeated_with_the_same_key(
    world: PrefectWorld, server: Receiver
) -> None:
    server.steps = [hang, answer(200, b"at last")]
    policy = {"timeout": "5s", "retries": 1, "retry_delay": "1s", "idempotent": True}

    result = await call(url=server.address, policy=policy)

    assert result["output"] == "at last"
    first, second = server.requests
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert (await world.runs.row()).attempts == 2


async def test_the_metadata_service_is_refused_before_anything_is_sent(world: PrefectWorld) -> None:
    with pytest.raises(FailedRun, match="metadata service"):
        await call(url="http://169.254.169.254/latest")

    row = await world.runs.row()
    assert (row.status, row.attempts) == ("failed", 0)


@pytest.mark.slow
async def test_the_address_rule_follows_the_last_writer_of_the_address(
    world: PrefectWorld, server: Receiver
) -> None:
    """A model changes the address of the operator's job; then the operator writes it again."""
    name = f"http://localhost:{server.port}"  # for an agent refused by its text alone
    stored = await world.deploy(prompt=None, url="https://api.example.org/x", on_demand=True)
    hook = {"on_complete": f"{server.address}/notified"}

    async def written(by: Actor, **changes: Any) -> StoredJob:
        """Edit the job as `service.jobs` does, without the guard, which does not resolve names."""
        async with world.ledger.write() as session:
            old = await store.find(session, stored.id)
            job = edit(old.job, changes, now=world.ledger.now())
            return await store.change(session, old, job, world.ledger.now(), writer=by.writer)

    async def ran(job: StoredJob) -> RunRow:
        asked = await world.prefect.custom_run(stored, **job.job.parameters())
        await world.executions.complete(asked)
        (row,) = [each for each in await world.runs.rows() if each.flow_run_id == str(asked.id)]
        return row

    row = await ran(await written(Actor("user", via="mcp"), url=name, **hook))
    assert (row.status, server.requests) == ("failed", [])
    assert "agents' jobs may reach public addresses only" in str(row.error)
    # An edit of another field does not make the operator the writer of the address; writing the
    # address does.
    row = await ran(await written(Actor(), headers={"X-Team": "ops"}))
    assert (row.status, server.requests) == ("failed", [])
    edited = await service.edit_job(stored.id, {"url": f"{name}/mine"})
    async with world.ledger.read() as session:
        row = await ran(await store.find(session, edited.id))
    assert (row.status, len(server.requests)) == ("succeeded", 1)
    async with world.ledger.read() as session:
        callbacks = select(OutboxRow).where(col(OutboxRow.purpose) == CALLBACK)
        (callback,) = (await session.execute(callbacks)).scalars()
    assert (callback.address, callback.owner, callback.writer) == (
        hook["on_complete"],
        "user",
        "mcp",
    )


@pytest.mark.slow
async def test_an_edit_records_its_writer(world: PrefectWorld) -> None:
    stored = await world.deploy(prompt=None, url="https://a.example.org/x", on_demand=True)
    wrote = []
    for actor in (Actor("user", via="mcp"), Actor("plugin", via="api"), Actor("user", via="run")):
        with acting_as(actor):
            await service.edit_job(stored.id, {"url": f"https://a.example.org/{actor.via}"})
        async with world.ledger.read() as session:
            wrote.append((await store.find(session, stored.id)).revision.written_by["url"])
    assert wrote == ["mcp", "api", "run"]


@pytest.mark.slow
async def test_a_job_added_through_mcp_reaches_no_private_address(
    world: PrefectWorld, server: Receiver
) -> None:
    stored = await world.deploy(prompt=None, url=server.address, on_demand=True)
    async with world.ledger.write() as session:
        row = await session.get(JobRow, stored.id)
        assert row is not None
        row.created_by = "mcp"

    state = await world.executions.complete(await world.prefect.custom_run(stored))

    assert state.is_failed()
    assert server.requests == []
    ended = await world.runs.row()
    assert (ended.status, stored.row.owner) == ("failed", "user")
    assert "agents' jobs may reach public addresses only" in str(ended.error)
