"""Missing deployments: deleted in Prefect, created again there, or lost with another Prefect."""

from __future__ import annotations

from typing import Any

import pytest
from sqlmodel import col, select

from daybook.ledger.states import Status
from daybook.ledger.tables import Fact, RevisionRow, RunRow
from daybook.prefect import links as records
from daybook.prefect import reconcile
from daybook.prefect.reconcile import ReconcileReport
from daybook.runs import claims

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]


async def deleted(world: Any, name: str = "a-job", **fields: Any) -> str:
    """Delete a job's deployment as the UI does, and return the deployment's id."""
    await world.jobs.add(name, **({"every": "1h"} | fields))
    await world.sync()
    found = await world.deployments.get(name)
    await world.prefect.request("DELETE", f"/deployments/{found.id}")
    return str(found.id)


async def missing(world: Any, name: str) -> bool:
    return name not in {each.name for each in (await world.deployments.all()).values()}


async def test_a_deleted_deployment_disables_its_job_until_the_job_is_resumed(world: Any) -> None:
    await world.jobs.add("other", every="1h")
    await deleted(world)
    before = world.ledger.now()
    report = await world.sync()
    assert (report.deleted, report.remade, report.writes) == (["a-job"], [], 0)
    job = await world.jobs.get("a-job")
    assert (job.job.enabled, job.row.disabled_reason) == (False, records.DELETED_REASON)
    assert (job.row.deployment_id, job.row.sync_pending) == (None, False)
    assert before <= job.revision.effective_from <= world.ledger.now()
    # No other edit creates the deployment again.
    await world.jobs.edit("a-job", prompt="Newer")
    for _ in range(2):
        report = await world.sync()
        assert (report.writes, report.deleted, report.failed) == (0, [], {})
        assert await missing(world, "a-job")
    await world.jobs.edit("a-job", enabled=True)
    assert (await world.sync()).created == ["a-job"]
    assert (await world.deployments.get("a-job")).parameters["prompt"] == "Newer"
    assert len(await world.deployments.due("a-job")) >= 3
    assert (await world.sync()).writes == 0


async def test_a_waiting_run_of_a_deleted_deployment_is_skipped_with_the_reason(world: Any) -> None:
    stored = await world.jobs.add("a-job", every="1h")
    await world.sync()
    row = await claims.request(world.ledger, stored, "by-hand", "manual")
    await world.deployments.delete("a-job")
    await world.sync()
    async with world.ledger.read() as session:
        ended = await session.get(RunRow, row.id)
    assert ended is not None
    assert (ended.status, ended.until) == (Status.SKIPPED, None)
    assert records.DELETED_REASON in ended.reason


@pytest.mark.slow
async def test_a_disabled_job_keeps_its_reason_if_its_deployment_is_deleted(world: Any) -> None:
    await world.jobs.add("a-job", every="1h")
    await world.jobs.edit("a-job", enabled=False, reason="paused: holidays")
    await world.sync()
    await world.deployments.delete("a-job")
    assert (await world.sync()).deleted == ["a-job"]
    job = await world.jobs.get("a-job")
    assert job.row.disabled_reason == "paused: holidays"
    assert job.revision.number == 2  # the job itself did not change
    assert (await world.sync()).writes == 0


@pytest.mark.slow
async def test_a_deleted_deployment_of_a_job_enabled_since_is_created_again(
    world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await world.jobs.add("a-job", every="1h")
    await world.jobs.edit("a-job", enabled=False, reason="paused")
    await world.sync()
    await world.deployments.delete("a-job")
    await world.jobs.edit("a-job", enabled=True)
    report = await world.sync()
    assert (report.remade, report.created, report.deleted) == (["a-job"], ["a-job"], [])
    assert "sync_remade" in {getattr(record, "action", "") for record in caplog.records}
    assert (await world.jobs.get("a-job")).job.enabled


@pytest.mark.slow
async def test_the_comparison_of_a_claim_notices_a_deletion_too(world: Any) -> None:
    old = await deleted(world)
    job = await world.jobs.get("a-job")
    await world.sync()
    await world.jobs.edit("a-job", enabled=True)
    await world.sync()
    again = await world.deployments.get("a-job")
    await world.prefect.request("DELETE", f"/deployments/{again.id}")
    assert await reconcile.compare(job.id, str(again.id)) == frozenset()
    assert (await world.jobs.get("a-job")).row.disabled_reason == records.DELETED_REASON
    assert str(again.id) != old


async def test_a_run_by_hand_creates_the_missing_deployment(world: Any) -> None:
    """`daybook run` runs a disabled job, and the job stays disabled."""
    await deleted(world)
    await world.sync()
    stored = await world.jobs.get("a-job")
    await reconcile.reconcile_for_run(world.ledger, world.client, stored, None, ReconcileReport())
    assert (await world.deployments.get("a-job")).paused
    assert not (await world.jobs.get("a-job")).job.enabled
    assert (await world.sync()).writes == 0


@pytest.mark.parametrize("noticed", [False, True])
@pytest.mark.slow
async def test_a_deployment_created_again_under_its_name_is_the_same_job(
    world: Any, noticed: bool
) -> None:
    """Create it as `prefect deploy` does: without the ledger's tag, with the fields of the file."""
    old = await deleted(world)
    before = await world.jobs.get("a-job")
    if noticed:
        await world.sync()
    flow = (await world.prefect.request("POST", "/flows/", {"name": "agent-prompt"})).json()["id"]
    body = {
        "name": "a-job",
        "flow_id": flow,
        "entrypoint": "flows/agent_prompt.py:agent_prompt",
        "parameters": {"prompt": "As the file says"},
        "schedules": [{"schedule": {"cron": "0 9 * * *", "timezone": "UTC"}, "active": True}],
    }
    await world.prefect.request("POST", "/deployments/", body)
    report = await world.sync()
    assert (report.pulled, report.adopted, report.deleted) == (["a-job"], [], [])
    job = await world.jobs.get("a-job")
    assert job.id == before.id
    assert (job.job.enabled, job.job.action.prompt) == (True, "As the file says")
    assert job.job.schedule.expr == "0 9 * * *"
    found = await world.deployments.get("a-job")
    assert str(found.id) == job.row.deployment_id != old
    assert f"daybook:{world.ledger.id}" in found.tags
    assert (await world.sync()).writes == 0


@pytest.mark.slow
async def test_in_another_prefect_all_missing_deployments_are_created_again(world: Any) -> None:
    """An emptied database or another server at the old address looks like this."""
    await deleted(world, "a-job")
    await world.jobs.add("other", every="1h")
    await world.sync()
    await world.jobs.edit("a-job", enabled=True)
    await world.sync()
    await world.jobs.edit("other", enabled=False, reason="paused")
    await world.sync()
    remaining, missing = (
        await world.deployments.get("a-job"),
        await world.deployments.get("other"),
    )
    await world.prefect.request("DELETE", f"/deployments/{missing.id}")
    async with world.ledger.write() as session:  # as if the known pool were another Prefect's
        fact = await session.get(Fact, "pool")
        assert fact is not None
        fact.value = "0" * 32
        session.add(fact)
    report = await world.sync()
    assert (report.remade, report.created, report.deleted) == (["other"], ["other"], [])
    assert (await world.deployments.get("other")).paused
    assert (await world.deployments.get("a-job")).id == remaining.id
    assert (await world.sync()).writes == 0


async def test_a_crash_after_noticing_another_prefect_deletes_nothing(world: Any) -> None:
    """The pool's id and the jobs to deploy again are recorded in one transaction."""
    await deleted(world)
    async with world.ledger.write() as session:
        assert await records.record_instance(session, "another", []) == ["a-job"]
    job = await world.jobs.get("a-job")
    assert (job.row.deployment_id, job.row.sync_pending, job.job.enabled) == (None, True, True)


async def test_a_deployment_that_got_another_ledgers_tag_disables_its_job(world: Any) -> None:
    await world.jobs.add("a-job", every="1h")
    await world.sync()
    await world.deployments.edit("a-job", tags=["daybook:another"])
    before = await world.deployments.get("a-job")
    report = await world.sync()
    assert (report.deleted, report.writes) == (["a-job"], 0)
    job = await world.jobs.get("a-job")
    assert (job.job.enabled, job.row.disabled_reason) == (False, records.TAKEN_REASON)
    assert await world.deployments.get("a-job") == before
    assert (await world.sync()).writes == 0
    await world.jobs.edit("a-job", enabled=True)
    assert (await world.sync()).created == ["a-job"]
    assert (await world.jobs.get("a-job")).row.slug == "a-job-2"
    assert await world.deployments.get("a-job") == before
    await world.client.delete_deployment(before.id)


async def test_deletion_and_resumption_each_make_a_revision(world: Any) -> None:
    await deleted(world)
    await world.sync()
    await world.jobs.edit("a-job", enabled=True)
    of_job = select(RevisionRow).order_by(col(RevisionRow.number))
    async with world.ledger.read() as session:
        rows = (await session.execute(of_job)).scalars().all()
    assert [(row.enabled, row.source) for row in rows] == [
        (True, "cli"),
        (False, "prefect"),
        (True, "daybook"),
    ]
