"""Webhook jobs from the flow on: what is sent, and what becomes of the run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from prefect.exceptions import CrashedRun, FailedRun

from flows.webhook import webhook
from tests.floor import PREFECT_LEAVES_A_SOCKET, Floor
from tests.unit.outgoing.wires import Server, answer, hang, serving

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, *PREFECT_LEAVES_A_SOCKET]


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as here:
        yield here


async def call(**given: Any) -> dict[str, Any]:
    result: dict[str, Any] = await webhook(**given)
    return result


async def test_an_answer_is_kept_and_the_request_carries_its_occurrence(
    floor: Floor, server: Server
) -> None:
    server.steps = [answer(201, b'{"id": 7}', {"Content-Type": "application/json"})]

    result = await call(url=f"{server.address}/a", headers={"X-Team": "ops"}, body='{"a": 1}')

    row = await floor.row()
    (seen,) = server.requests
    assert (seen.method, seen.path, seen.body) == ("POST", "/a", b'{"a": 1}')
    assert seen.headers["idempotency-key"] == row.occurrence
    assert (seen.headers["x-team"], seen.headers["content-type"]) == ("ops", "application/json")
    assert result["result"] == {"status_code": 201, "body": '{"id": 7}'} == row.result
    assert (row.kind, row.status, row.session_id, row.agent) == ("webhook", "succeeded", None, None)
    page = await floor.artifact(row.flow_run_id)
    assert f"POST {server.address}/a" in page
    assert '{"id": 7}' in page


async def test_another_status_fails_with_status_and_body_kept(floor: Floor, server: Server) -> None:
    server.steps = [answer(500, b"no")]

    with pytest.raises(FailedRun, match="500 Internal Server Error"):
        await call(url=server.address, policy={"retries": 3})

    row = await floor.row()
    assert (row.status, row.attempts, len(server.requests)) == ("failed", 1, 1)
    assert row.result == {"status_code": 500, "body": "no"}


async def test_503_is_tried_as_often_as_promised_with_the_same_key(
    floor: Floor, server: Server
) -> None:
    server.steps = [answer(503), answer(429, headers={"Retry-After": "1"}), answer(200, b"at last")]

    result = await call(url=server.address, policy={"retries": 2, "retry_delay": "1s"})

    assert result["output"] == "at last"
    assert (await floor.row()).attempts == 3
    assert len(server.requests) == 3
    assert len({seen.headers["idempotency-key"] for seen in server.requests}) == 1


async def test_no_answer_after_it_was_sent_is_unknown_and_not_repeated(
    floor: Floor, server: Server
) -> None:
    server.steps = [hang]

    with pytest.raises(CrashedRun):
        await call(url=server.address, policy={"timeout": "1s", "retries": 3})

    row = await floor.row()
    assert (row.status, row.attempts, len(server.requests)) == ("unknown", 1, 1)
    assert "whether it was done is not known" in row.reason


async def test_an_idempotent_one_is_repeated_with_the_same_key(
    floor: Floor, server: Server
) -> None:
    server.steps = [hang, answer(200, b"at last")]
    policy = {"timeout": "1s", "retries": 1, "retry_delay": "1s", "idempotent": True}

    result = await call(url=server.address, policy=policy)

    assert result["output"] == "at last"
    first, second = server.requests
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert (await floor.row()).attempts == 2


async def test_the_metadata_service_is_refused_before_anything_is_sent(floor: Floor) -> None:
    with pytest.raises(FailedRun, match="metadata service"):
        await call(url="http://169.254.169.254/latest")

    row = await floor.row()
    assert (row.status, row.attempts) == ("failed", 0)
