"""Reconcile under failures: crashes between both sides, taken names, a busy or absent Prefect."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from prefect.client.orchestration import PrefectClient
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from sqlalchemy import update
from sqlmodel import col

from daybook.api import jobs
from daybook.errors import PrefectUnreachable
from daybook.jobs import model, store
from daybook.keeper.observer import observe
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import RevisionRow
from daybook.operations import server
from daybook.prefect import client as prefect
from daybook.prefect import deployment, reconcile
from daybook.prefect import deployments as listing
from daybook.prefect import links as records
from daybook.prefect.adoption import adopt_deployments
from daybook.prefect.fingerprints import Fingerprints
from daybook.prefect.reconcile import ReconcileReport
from tests.at_prefect import basic
from tests.servers import free_port
from tests.world.prefect_world import PrefectWorld

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

JOBS = 40


async def forget_deployment(world: PrefectWorld, name: str) -> None:
    """Simulate a crash before the program recorded what it created in Prefect."""
    async with world.ledger.write() as session:
        stored = await store.find(session, name)
        await records.record_agreement(session, stored.id, None, None, stored.row.created_at)
        stored.row.sync_pending = True


async def test_a_job_that_cannot_be_read_stops_no_other_job_and_stays_as_it_is(
    world: PrefectWorld,
) -> None:
    bad, good = [await world.jobs.add(name, every="1h") for name in ("bad", "good")]
    await world.sync()
    async with world.ledger.write() as session:
        policy = bad.revision.policy | {"retries": "many"}
        of_bad = col(RevisionRow.job_id) == bad.id
        await session.execute(update(RevisionRow).where(of_bad).values(policy=policy))
    await world.jobs.edit("good", prompt="Newer")

    report = await reconcile.reconcile_all(world.ledger, world.client)
    assert report.updated == ["good"]
    assert "retries" in report.failed["bad"]
    assert report.observed == {good.id}  # so the audit does not decide about the due times of bad
    assert (await world.deployments.get("bad")).parameters["policy"]["retries"] == 3
    assert (await world.jobs.get("bad")).revision.policy == policy

    await world.jobs.archive("bad")
    report = await reconcile.reconcile_all(world.ledger, world.client)
    assert (report.removed, report.failed) == (["bad"], {})


async def test_a_deployment_whose_id_was_not_recorded_is_found_by_its_name(world: Any) -> None:
    await world.jobs.add("a-job", every="1h")
    await world.sync()
    made = await world.deployments.get("a-job")
    await forget_deployment(world, "a-job")
    await world.jobs.edit("a-job", prompt="Newer")
    report = await world.sync()
    # Nothing records which side wrote the older version.
    lost = {"parameters": made.parameters}
    assert (report.created, report.updated) == ([], ["a-job"])
    assert report.conflicts == {"a-job": lost}
    found = await world.deployments.get("a-job")
    assert (found.id, found.parameters["prompt"]) == (made.id, "Newer")
    assert (await world.jobs.get("a-job")).row.deployment_id == str(made.id)
    await forget_deployment(world, "a-job")
    report = await world.sync()
    assert report.writes == 0
    assert not (await world.jobs.get("a-job")).row.sync_pending


@pytest.mark.parametrize("removed_zone", ["schedules", "deployment"])
async def test_a_deployment_replaced_during_the_reconcile_is_compared_again(
    world: Any, removed_zone: str
) -> None:
    """Another process reconciles the same job, so the schedule or the deployment is gone."""
    await world.jobs.add("a-job", every="1h")
    await world.sync()
    found = await world.deployments.get("a-job")
    if removed_zone == "schedules":
        schedules = [
            {"schedule": each.schedule.model_dump(mode="json")} for each in found.schedules
        ]
        same = {"name": found.name, "flow_id": str(found.flow_id), "schedules": schedules}
        (await world.prefect.request("POST", "/deployments/", same)).raise_for_status()
    else:
        (await world.prefect.request("DELETE", f"/deployments/{found.id}")).raise_for_status()
    stored = await world.jobs.edit("a-job", every="2h")
    report = ReconcileReport()
    await reconcile.reconcile_job(world.ledger, world.client, stored, found, report)
    job = await world.jobs.get("a-job")
    if removed_zone == "schedules":
        (schedule,) = (await world.deployments.get("a-job")).schedules
        assert schedule.schedule.interval == timedelta(hours=2)
        assert not job.row.sync_pending
    else:
        assert report.deleted == ["a-job"]
        assert not job.job.enabled


async def test_an_edit_in_prefect_after_a_crash_during_creation_is_imported(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies after it created the deployment, and before it recorded the id."""
    await world.jobs.add("a-job", every="1h", prompt="Old")
    write = deployment.write

    async def dies(*given: Any, **named: Any) -> str:
        await write(*given, **named)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(deployment, "write", dies)
        with pytest.raises(KeyboardInterrupt):
            await world.sync()
    assert (await world.jobs.get("a-job")).row.deployment_id is None
    schedule = {"cron": "0 9 * * *", "timezone": "UTC", "day_or": True}
    await world.deployments.edit_schedule("a-job", active=True, schedule=schedule)
    await world.jobs.edit("a-job", prompt="Newer")
    report = await world.sync()
    assert (report.pulled, report.updated, report.conflicts) == (["a-job"], ["a-job"], {})
    stored = await world.jobs.get("a-job")
    assert (stored.job.schedule.expr, stored.job.action.prompt) == ("0 9 * * *", "Newer")
    found = await world.deployments.get("a-job")
    assert (found.schedules[0].schedule.cron, found.parameters["prompt"]) == ("0 9 * * *", "Newer")
    assert (await world.sync()).writes == 0


async def unwritten(world: Any) -> str:
    """Remove a job whose deployment's id was never recorded, and return that id."""
    await world.jobs.add("a-job", every="1h")
    await world.sync()
    made = str((await world.deployments.get("a-job")).id)
    await forget_deployment(world, "a-job")
    await world.jobs.archive("a-job")
    return made


@pytest.mark.parametrize("minutes", [0, 5])
@pytest.mark.slow
async def test_a_removed_job_with_an_unrecorded_deployment_is_not_adopted_again(
    world: Any, minutes: int
) -> None:
    made = await unwritten(world)
    listed = list((await listing.read(world.client, world.ledger.id)).found.values())
    async with world.ledger.write() as session:  # older than a removal in progress
        row = (await store.find(session, "a-job", archived=True)).row
        row.archived_at = world.ledger.now() - timedelta(minutes=minutes)
        session.add(row)
    await adopt_deployments(world.ledger, world.client, listed, {}, ReconcileReport())
    assert len(await world.jobs.ids()) == 1
    report = await world.sync()
    assert (report.removed, report.adopted) == (["a-job"], [])
    assert await deployment.read(world.client, made) is None
    assert (await world.sync()).removed == []
    async with world.ledger.read() as session:
        assert await records.jobs_to_undeploy(session) == []
        assert await store.all_jobs(session) == []


async def test_a_run_of_an_unrecorded_deployment_belongs_to_the_removed_job(world: Any) -> None:
    made = await unwritten(world)
    await reconcile.recognise(made)
    async with world.ledger.read() as session:
        removed = (await store.find(session, "a-job", archived=True)).id
        assert await records.job_of_deployment(session, made) == removed
    assert (await world.sync()).removed == ["a-job"]


async def test_a_new_job_takes_the_unrecorded_deployment_of_its_name(world: Any) -> None:
    made = await unwritten(world)
    new = await world.jobs.add("a-job", every="2h")
    report = await world.sync()
    assert (report.removed, report.created, report.adopted) == ([], [], [])
    assert (await world.jobs.get("a-job")).row.deployment_id == made
    assert (await world.jobs.get("a-job")).id == new.id
    found = await world.deployments.get("a-job")
    assert found.schedules[0].schedule.interval == timedelta(hours=2)
    report = await world.sync()
    assert report.writes == 0
    assert await deployment.read(world.client, made) is not None


async def test_removing_a_job_keeps_a_deployment_of_its_name_that_is_not_its_own(
    world: Any,
) -> None:
    await world.jobs.add("a-job", every="1h")
    await world.jobs.archive("a-job")
    flow = (await world.prefect.request("POST", "/flows/", {"name": "agent-prompt"})).json()["id"]
    body = {"name": "a-job", "flow_id": flow, "tags": ["mine"]}
    other = (await world.prefect.request("POST", "/deployments/", body)).json()["id"]
    assert (await world.sync()).removed == []
    assert await deployment.read(world.client, other) is not None
    async with world.ledger.read() as session:
        assert await records.jobs_to_undeploy(session) == []
    await world.prefect.request("DELETE", f"/deployments/{other}")


async def test_a_run_of_an_unrecorded_deployment_finds_its_job(world: Any) -> None:
    await world.jobs.add("a-job", every="1h")
    await world.sync()
    made = await world.deployments.get("a-job")
    copy = {"flow_id": str(made.flow_id), "tags": made.tags, "parameters": made.parameters}
    answer = await world.prefect.request("POST", "/deployments/", copy | {"name": "other"})
    await world.jobs.add("other", every="1h")
    await forget_deployment(world, "a-job")
    await reconcile.recognise(answer.json()["id"])  # a duplicate belongs to no job
    await reconcile.recognise(str(made.id))
    async with world.ledger.read() as session:
        assert await records.job_of_deployment(session, answer.json()["id"]) is None
        assert (
            await records.job_of_deployment(session, str(made.id))
            == (await world.jobs.get("a-job")).id
        )


async def test_compare_imports_one_jobs_edits_and_push_applies_its_changes(world: Any) -> None:
    job_id = (await world.jobs.add("a-job", every="1h")).id
    assert (await world.jobs.get("a-job")).row.sync_pending
    await reconcile.push(job_id)
    assert not (await world.jobs.get("a-job")).row.sync_pending
    schedule = {"cron": "0 9 * * *", "timezone": "UTC", "day_or": True}
    edited = await world.deployments.edit_schedule("a-job", active=True, schedule=schedule)
    await reconcile.push(job_id)  # nothing changed in the ledger
    assert (await world.jobs.get("a-job")).revision.number == 1
    deployment_id = str((await world.deployments.get("a-job")).id)
    assert await reconcile.compare(job_id, deployment_id) == frozenset()
    assert (await world.jobs.get("a-job")).revision.effective_from == edited
    await world.jobs.archive("a-job")
    await reconcile.compare(job_id, deployment_id)
    assert await deployment.read(world.client, deployment_id) is not None
    await reconcile.push(job_id)  # as for a job that its own run removed
    assert await deployment.read(world.client, deployment_id) is None
    assert (await world.sync()).removed == []


async def test_an_interrupted_removal_is_completed_and_spares_a_new_job(world: Any) -> None:
    """A new job of the same name must not get, and then lose, the old job's deployment."""
    await world.jobs.add("a-job", every="1h")
    await world.sync()
    old = await world.deployments.get("a-job")
    await world.jobs.archive("a-job")
    stored = await world.jobs.add("a-job", every="2h")
    report = ReconcileReport()
    await reconcile.reconcile_job(world.ledger, world.client, stored, None, report)
    new = await world.deployments.get("a-job")
    assert new.id != old.id
    assert (report.removed, report.created) == (["a-job"], ["a-job"])
    assert (await world.sync()).writes == 0
    assert await world.deployments.get("a-job") == new


async def test_deployment_names_of_other_ledgers_and_people_are_not_taken(
    world: Any, tmp_path: Path
) -> None:
    """Another ledger's job and a deployment without a job have the name (promise 15)."""
    flow = (await world.prefect.request("POST", "/flows/", {"name": "agent-prompt"})).json()["id"]
    made_by_hand = {"name": "a-job-2", "flow_id": flow, "tags": ["mine"]}
    await world.prefect.request("POST", "/deployments/", made_by_hand)
    async with Ledger(f"sqlite+aiosqlite:///{tmp_path / 'other.db'}") as ledger:
        other = world.beside(ledger)
        await other.jobs.add("a-job", every="1h")
        await other.sync()
        before = {name: await world.deployments.get(name) for name in ("a-job", "a-job-2")}
        await world.jobs.add("a-job", every="2h")
        report = await world.sync()
        assert (report.created, report.writes) == (["a-job"], 1)
        assert (await world.jobs.get("a-job")).row.slug == "a-job-3"
        assert (await world.sync()).writes == 0
        await world.jobs.archive("a-job")
        await world.sync()
        assert await world.deployments.all() == {}
        assert {name: await world.deployments.get(name) for name in before} == before
        for found in before.values():
            await world.client.delete_deployment(found.id)


async def test_a_job_that_prefect_refuses_blocks_no_other_job(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "MAX_PARAMETERS_BYTES", 1_000_000)
    await world.jobs.add("a-big-one", every="1h", prompt="x" * 600_000)
    await world.jobs.add("other", every="1h")
    report = await world.sync()
    assert list(report.failed) == ["a-big-one"]
    # Prefect's answer repeats the whole request; the report shortens it.
    assert "parameters" in report.failed["a-big-one"]
    assert "524,288 bytes" in report.failed["a-big-one"]
    assert "xxx" not in report.failed["a-big-one"]
    assert report.created == ["other"]
    assert (await world.jobs.get("a-big-one")).row.sync_pending


async def test_a_job_removed_during_its_reconcile_leaves_no_deployment(world: Any) -> None:
    stored = await world.jobs.add("a-job", every="1h")
    await world.jobs.archive("a-job")
    assert (await world.sync()).writes == 0
    await reconcile.reconcile_job(
        world.ledger, world.client, stored, None, ReconcileReport()
    )  # with the job as read before
    assert (await world.sync()).removed == ["a-job"]
    assert await world.deployments.all() == {}


@asynccontextmanager
async def busy(api_url: str, refusals: int) -> AsyncIterator[tuple[str, list[str]]]:
    """Serve a Prefect that refuses each kind of write ``refusals`` times with 503."""
    refused: list[str] = []
    base = httpx.URL(api_url)
    origin = str(base.copy_with(path="/"))

    async def application(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        method, path = scope["method"], scope["path"]
        reads = method == "GET" or path.endswith("/filter")
        if not reads and refused.count(f"{method} {path}") < refusals:
            refused.append(f"{method} {path}")
            status, answer = 503, b'{"exception_message": "Service Unavailable"}'
        else:
            async with httpx.AsyncClient(
                base_url=origin, auth=basic(), trust_env=False, timeout=30
            ) as client:
                forwarded = await client.request(
                    method,
                    f"{path}?{scope['query_string'].decode()}",
                    content=body,
                    headers={"content-type": "application/json"},
                )
            status, answer = forwarded.status_code, forwarded.content
        headers = [(b"content-type", b"application/json"), (b"retry-after", b"0")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    port = free_port()
    config = uvicorn.Config(application, port=port, log_level="error", lifespan="off")
    shim = uvicorn.Server(config)
    serving = asyncio.create_task(shim.serve())
    await server.wait_until_healthy(f"http://127.0.0.1:{port}/api")
    try:
        yield f"http://127.0.0.1:{port}/api", refused
    finally:
        shim.should_exit = True
        await serving


@pytest.mark.slow
async def test_a_sync_succeeds_after_prefect_answered_503(world: Any, prefect_server: Any) -> None:
    await world.jobs.add("idle", every="1h")
    await world.sync()
    await world.jobs.edit("idle", prompt="New")
    async with (
        busy(prefect_server.api_url, refusals=1) as (address, refused),
        PrefectClient(address) as client,
    ):
        report = await reconcile.reconcile_all(world.ledger, client)
    assert report.updated == ["idle"]
    assert len(refused) == 2
    assert (await world.deployments.get("idle")).parameters["prompt"] == "New"
    assert (await world.sync()).writes == 0


@pytest.mark.slow
async def test_a_prefect_that_stays_busy_counts_as_unreachable(
    world: Any, prefect_server: Any
) -> None:
    await world.jobs.add("a-job", every="1h")
    with pytest.raises(PrefectUnreachable, match="503"):
        async with busy(prefect_server.api_url, refusals=99) as (address, _):
            with temporary_settings({PREFECT_API_URL: address, PREFECT_CLIENT_MAX_RETRIES: 0}):
                async with prefect.connected() as client:
                    await reconcile.reconcile_all(world.ledger, client)
    assert (await world.jobs.get("a-job")).row.sync_pending
    assert (await world.sync()).created == ["a-job"]


async def test_an_absent_prefect_is_reported_with_its_address(world: Any) -> None:
    await world.jobs.add("a-job", every="1h")
    address = server.api_url(free_port())
    with temporary_settings({PREFECT_API_URL: address}):
        with pytest.raises(PrefectUnreachable) as caught:
            async with prefect.connected() as client:
                await reconcile.reconcile_all(world.ledger, client)
        assert caught.value.address == address
        with pytest.raises(PrefectUnreachable):
            async with prefect.connected() as client:
                await prefect.check_connection(client)
    assert (await world.jobs.get("a-job")).row.sync_pending


async def test_the_observer_syncs_changes_that_were_made_while_prefect_was_absent(
    world: Any,
) -> None:
    given = {"prompt": "Old", "every": "1h"}
    await jobs.add({**given, "name": "old"})
    with temporary_settings({PREFECT_API_URL: server.api_url(free_port())}):
        assert (await jobs.edit_job("old", {"prompt": "New"})).sync == "pending"
        assert (await jobs.pause("old")).sync == "pending"
        assert (await jobs.add({**given, "name": "new"})).sync == "pending"
    report = (await observe(world.ledger, world.client, Fingerprints())).report
    assert (report.created, report.updated, report.conflicts) == (["new"], ["old"], {})
    found = await world.deployments.get("old")
    assert (found.parameters["prompt"], found.paused) == ("New", True)
    assert not (await world.deployments.get("new")).paused
    assert {each.sync for each in await jobs.list_jobs()} == {"synced"}


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_second_sync_of_a_page_of_jobs_writes_nothing(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "PAGE_SIZE", JOBS)
    kinds: list[dict[str, Any]] = [
        {"cron": "0 9 * * *"},
        {"every": "1h"},
        {"at": "in 2h"},
        {"on_demand": True},
    ]
    for number in range(JOBS):
        await world.jobs.add(f"job-{number}", **kinds[number % len(kinds)])
    since = world.ledger.now() - timedelta(seconds=1)
    began = time.monotonic()
    report = await world.sync()
    first = time.monotonic() - began
    assert (len(report.created), report.failed) == (JOBS, {})
    began = time.monotonic()
    report = await world.sync()
    second = time.monotonic() - began
    assert (report.unchanged, report.writes, report.pulled) == (JOBS, 0, [])
    assert world.prefect.traffic.writes == {}
    print(f"{JOBS} jobs: first sync {first:.1f} s, second {second:.2f} s")
    assert second < first
    known = Fingerprints()
    await observe(world.ledger, world.client, known)
    observation = await observe(world.ledger, world.client, known)
    print(f"unchanged: {observation.cpu_seconds:.3f} s of CPU, {observation.requests} requests")
    # A full page, the empty page after it, and the pool. On an idle machine 1,000 jobs take a
    # second: `make bench` measures it.
    assert (len(observation.jobs), observation.requests) == (JOBS, 3)
    assert observation.cpu_seconds < JOBS / 200
    await world.deployments.edit_schedule("job-20", active=False)
    assert (await observe(world.ledger, world.client, known)).report.pulled == ["job-20"]
    found = list((await world.deployments.all()).values())
    assert len(found) == JOBS
    assert all(each.updated is not None and each.updated >= since for each in found)
