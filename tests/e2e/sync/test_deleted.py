"""A deployment that is gone: deleted there, made again there, or this is another Prefect."""

from __future__ import annotations

from typing import Any

import pytest
from sqlmodel import col, select

from daybook.ledger import claims
from daybook.ledger import deployments as records
from daybook.ledger.states import Status
from daybook.ledger.tables import Fact, RevisionRow, RunRow
from daybook.sync import reconcile
from daybook.sync.reconcile import Reconciliation, Report

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]


async def deleted(both: Any, name: str = "a-job", **fields: Any) -> str:
    """A job whose deployment is deleted in the UI; returns that one's id."""
    await both.add(name, **({"every": "1h"} | fields))
    await both.sync()
    found = await both.deployment(name)
    await both.ui("DELETE", f"/deployments/{found.id}")
    return str(found.id)


async def missing(both: Any, name: str) -> bool:
    return name not in {each.name for each in (await both.mine()).values()}


@pytest.mark.slow
async def test_a_deletion_switches_the_job_off_until_it_is_resumed(both: Any) -> None:
    await both.add("other", every="1h")
    await deleted(both)
    before = both.ledger.now()
    report = await both.sync()
    assert (report.deleted, report.remade, report.writes) == (["a-job"], [], 0)
    job = await both.job("a-job")
    assert (job.job.enabled, job.row.disabled_reason) == (False, records.DELETED)
    assert (job.row.deployment_id, job.row.sync_pending) == (None, False)
    assert before <= job.revision.effective_from <= both.ledger.now()
    # It is not made behind anybody's back, whatever else is edited.
    await both.edit("a-job", prompt="Newer")
    for _ in range(2):
        report = await both.sync()
        assert (report.writes, report.deleted, report.failed) == (0, [], {})
        assert await missing(both, "a-job")
    await both.edit("a-job", enabled=True)
    assert (await both.sync()).created == ["a-job"]
    assert (await both.deployment("a-job")).parameters["prompt"] == "Newer"
    assert len(await both.due("a-job")) >= 3
    assert (await both.sync()).writes == 0


async def test_who_waited_is_skipped_and_says_why(both: Any) -> None:
    stored = await both.add("a-job", every="1h")
    await both.sync()
    row = await claims.request(both.ledger, stored, "by-hand", "manual")
    await both.ui("DELETE", f"/deployments/{(await both.deployment('a-job')).id}")
    await both.sync()
    async with both.ledger.read() as session:
        ended = await session.get(RunRow, row.id)
    assert ended is not None
    assert (ended.status, ended.until) == (Status.SKIPPED, None)
    assert records.DELETED in ended.reason


@pytest.mark.slow
async def test_one_that_was_off_keeps_its_reason(both: Any) -> None:
    await both.add("a-job", every="1h")
    await both.edit("a-job", enabled=False, reason="paused: holidays")
    await both.sync()
    await both.ui("DELETE", f"/deployments/{(await both.deployment('a-job')).id}")
    assert (await both.sync()).deleted == ["a-job"]
    job = await both.job("a-job")
    assert job.row.disabled_reason == "paused: holidays"
    assert job.revision.number == 2  # nothing changed of what it means
    assert (await both.sync()).writes == 0


@pytest.mark.slow
async def test_who_was_switched_on_here_since_is_made_again(
    both: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await both.add("a-job", every="1h")
    await both.edit("a-job", enabled=False, reason="paused")
    await both.sync()
    await both.ui("DELETE", f"/deployments/{(await both.deployment('a-job')).id}")
    await both.edit("a-job", enabled=True)
    report = await both.sync()
    assert (report.remade, report.created, report.deleted) == (["a-job"], ["a-job"], [])
    assert "sync_remade" in {getattr(record, "action", "") for record in caplog.records}
    assert (await both.job("a-job")).job.enabled


@pytest.mark.slow
async def test_the_claims_compare_sees_a_deletion_too(both: Any, at_home: Any) -> None:
    old = await deleted(both)
    job = await both.job("a-job")
    await both.sync()
    await both.edit("a-job", enabled=True)
    await both.sync()
    again = await both.deployment("a-job")
    await both.ui("DELETE", f"/deployments/{again.id}")
    assert await Reconciliation().compare(job.id, str(again.id)) == frozenset()
    assert (await both.job("a-job")).row.disabled_reason == records.DELETED
    assert str(again.id) != old


@pytest.mark.slow
async def test_a_run_by_hand_needs_a_deployment_and_gets_one(both: Any) -> None:
    """`daybook run` runs a job that is off, and it stays off."""
    await deleted(both)
    await both.sync()
    stored = await both.job("a-job")
    await reconcile.bring(both.ledger, both.client, stored, None, Report(), needed=True)
    assert (await both.deployment("a-job")).paused
    assert not (await both.job("a-job")).job.enabled
    assert (await both.sync()).writes == 0


@pytest.mark.parametrize("noticed", [False, True])
@pytest.mark.slow
async def test_made_again_under_its_name_it_is_the_same_job(both: Any, noticed: bool) -> None:
    """As `prefect deploy` makes it: without our tag, with what its file says."""
    old = await deleted(both)
    before = await both.job("a-job")
    if noticed:
        await both.sync()
    flow = (await both.ui("POST", "/flows/", {"name": "agent-prompt"})).json()["id"]
    body = {
        "name": "a-job",
        "flow_id": flow,
        "entrypoint": "flows/agent_prompt.py:agent_prompt",
        "parameters": {"prompt": "As the file says"},
        "schedules": [{"schedule": {"cron": "0 9 * * *", "timezone": "UTC"}, "active": True}],
    }
    await both.ui("POST", "/deployments/", body)
    report = await both.sync()
    assert (report.pulled, report.adopted, report.deleted) == (["a-job"], [], [])
    job = await both.job("a-job")
    assert job.id == before.id
    assert (job.job.enabled, job.job.action.prompt) == (True, "As the file says")
    assert job.job.schedule.expr == "0 9 * * *"
    found = await both.deployment("a-job")
    assert str(found.id) == job.row.deployment_id != old
    assert f"daybook:{both.ledger.id}" in found.tags
    assert (await both.sync()).writes == 0


@pytest.mark.slow
async def test_in_another_prefect_everything_is_made_again(both: Any) -> None:
    """What an emptied database, or another server under the old address, looks like."""
    await deleted(both, "a-job")
    await both.add("other", every="1h")
    await both.sync()
    await both.edit("a-job", enabled=True)
    await both.sync()
    await both.edit("other", enabled=False, reason="paused")
    await both.sync()
    kept, gone = await both.deployment("a-job"), await both.deployment("other")
    await both.ui("DELETE", f"/deployments/{gone.id}")
    async with both.ledger.write() as session:  # the pool that it knew is another Prefect's
        fact = await session.get(Fact, "pool")
        assert fact is not None
        fact.value = "0" * 32
        session.add(fact)
    report = await both.sync()
    assert (report.remade, report.created, report.deleted) == (["other"], ["other"], [])
    assert (await both.deployment("other")).paused
    assert (await both.deployment("a-job")).id == kept.id
    assert (await both.sync()).writes == 0


async def test_a_crash_on_the_way_to_another_prefect_deletes_nothing(both: Any) -> None:
    """The pool's id and what has to be made again are one transaction."""
    await deleted(both)
    async with both.ledger.write() as session:
        assert await records.moved(session, "another", []) == ["a-job"]
    job = await both.job("a-job")
    assert (job.row.deployment_id, job.row.sync_pending, job.job.enabled) == (None, True, True)


@pytest.mark.slow
async def test_what_has_another_ledgers_tag_by_now_is_not_ours(both: Any) -> None:
    await both.add("a-job", every="1h")
    await both.sync()
    await both.ui_deployment("a-job", tags=["daybook:another"])
    before = await both.deployment("a-job")
    report = await both.sync()
    assert (report.deleted, report.writes) == (["a-job"], 0)
    job = await both.job("a-job")
    assert (job.job.enabled, job.row.disabled_reason) == (False, records.TAKEN)
    assert await both.deployment("a-job") == before
    assert (await both.sync()).writes == 0
    await both.edit("a-job", enabled=True)
    assert (await both.sync()).created == ["a-job"]
    assert (await both.job("a-job")).row.slug == "a-job-2"
    assert await both.deployment("a-job") == before
    await both.client.delete_deployment(before.id)


async def test_every_change_of_these_is_a_revision_of_its_own(both: Any) -> None:
    await deleted(both)
    await both.sync()
    await both.edit("a-job", enabled=True)
    of_job = select(RevisionRow).order_by(col(RevisionRow.number))
    async with both.ledger.read() as session:
        rows = (await session.execute(of_job)).scalars().all()
    assert [(row.enabled, row.source) for row in rows] == [
        (True, "ledger"),
        (False, "prefect"),
        (True, "ledger"),
    ]
