"""Observer of all deployments: what one pass finds, leaves alone, and reports only once."""

from __future__ import annotations

import logging
from datetime import timedelta
from itertools import islice
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.responses import DeploymentResponse
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from daybook.jobs import model
from daybook.keeper.observer import Observation, observe
from daybook.operations import server
from daybook.prefect import deployment, projection
from daybook.prefect import links as records
from daybook.prefect.deployments import PAGE_SIZE
from daybook.prefect.fingerprints import Fingerprints
from daybook.schedules.due import due_times
from tests.servers import free_port

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

CRON = {"cron": "*/7 * * * *", "timezone": "UTC", "day_or": True}


def _sync_failures(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [each for each in caplog.records if getattr(each, "action", "") == "sync_failed"]


class Watch:
    """An observer of the world; `until_stable` observes until nothing is new."""

    def __init__(self, world: Any) -> None:
        self._world, self.fingerprints = world, Fingerprints()

    async def observe(self, **given: Any) -> Observation:
        self._world.prefect.traffic.writes.clear()
        return await observe(self._world.ledger, self._world.client, self.fingerprints, **given)

    async def until_stable(self) -> Observation:
        for _ in range(3):
            observation = await self.observe()
        assert observation.report.writes == 0
        return observation


@pytest.fixture
async def watch(world: Any) -> Watch:
    return Watch(world)


@pytest.mark.slow
async def test_a_pass_without_changes_costs_two_requests_for_one_page(
    world: Any, watch: Watch
) -> None:
    for name in ("one", "two", "three"):
        await world.jobs.add(name, every="1h")
    await watch.until_stable()
    before = world.ledger.now()
    observation = await watch.observe()
    assert observation.requests == 2  # the list, shorter than a page, and the pool
    assert len(await world.deployments.all()) < PAGE_SIZE
    assert world.prefect.traffic.writes == {}
    assert observation.jobs == set((await world.jobs.ids()).values())
    assert observation.report.unchanged == 3
    assert before <= observation.began <= world.ledger.now()
    assert 0 < observation.cpu_seconds < 1


@pytest.mark.slow
async def test_the_next_pass_finds_an_edit_and_queues_its_runs(world: Any, watch: Watch) -> None:
    for name in ("one", "two", "three"):
        await world.jobs.add(name, every="1h")
    await watch.until_stable()
    edited = await world.deployments.edit_schedule("two", active=True, schedule=CRON)
    observation = await watch.observe()
    assert (observation.report.pulled, observation.report.unchanged) == (["two"], 2)
    assert len(set(observation.jobs)) == 3
    job = await world.jobs.get("two")
    assert job.revision.effective_from == edited
    due = list(islice(due_times(job.job.schedule, after=edited), 3))
    assert (await world.deployments.due("two"))[:3] == due


@pytest.mark.slow
async def test_a_schedule_enabled_in_prefect_has_its_runs_queued_at_once(
    world: Any, watch: Watch
) -> None:
    """It is the schedule's own switch; Prefect's scheduler would queue the runs a minute later."""
    await world.jobs.add("a-job", every="1h")
    await watch.until_stable()
    await world.deployments.edit_schedule("a-job", active=False)
    assert (await watch.observe()).report.pulled == ["a-job"]
    assert await world.deployments.due("a-job") == []
    await watch.until_stable()
    await world.deployments.edit_schedule("a-job", active=True)
    assert (await watch.observe()).report.pulled == ["a-job"]
    assert len(await world.deployments.due("a-job")) >= 3


async def test_a_schedule_saved_without_a_change_gets_its_runs_back(
    world: Any, watch: Watch
) -> None:
    await world.jobs.add("a-job", cron="*/7 * * * *", timezone="UTC")
    await watch.until_stable()
    queued = await world.deployments.due("a-job")
    await world.deployments.edit_schedule("a-job", active=True, schedule=CRON)
    assert await world.deployments.due("a-job") == []  # saving deletes the queued runs
    observation = await watch.observe()
    assert (observation.report.pulled, observation.report.writes) == ([], 0)
    assert (await world.deployments.due("a-job"))[:3] == queued[:3]
    assert (await watch.observe()).requests == 2


async def test_a_pass_applies_an_edit_of_the_ledger_to_prefect(world: Any, watch: Watch) -> None:
    await world.jobs.add("a-job", every="1h")
    await watch.until_stable()
    await world.jobs.edit("a-job", prompt="Newer")
    assert (await watch.observe()).report.updated == ["a-job"]
    assert (await world.deployments.get("a-job")).parameters["prompt"] == "Newer"


@pytest.mark.slow
async def test_a_job_that_prefect_refuses_is_observed_and_reported_once(
    world: Any,
    watch: Watch,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its due times still need an outcome."""
    monkeypatch.setattr(model, "MAX_PARAMETERS_BYTES", 1_000_000)
    stored = await world.jobs.add("a-big-one", every="1h", prompt="x" * 600_000)
    observation = await watch.observe()
    assert (list(observation.report.failed), set(observation.jobs)) == (["a-big-one"], {stored.id})
    observation = await watch.observe()
    assert (observation.report.failed, set(observation.jobs), world.prefect.traffic.writes) == (
        {},
        {stored.id},
        {},
    )
    assert len(_sync_failures(caplog)) == 1
    await world.jobs.edit("a-big-one", prompt="Smaller")
    assert (await watch.observe()).report.created == ["a-big-one"]


async def test_a_schedule_that_prefect_cannot_queue_blocks_no_other_job(
    world: Any, watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    """Prefect accepts a cron that is never due, and answers 500 when asked to queue its runs."""
    odd = await world.jobs.add("a-job", every="1h")
    other = await world.jobs.add("other", every="1h")
    await watch.until_stable()
    never = {"cron": "0 0 31 2 *", "timezone": "UTC", "day_or": True}
    await world.deployments.add_schedule("a-job", never)
    await world.jobs.edit("a-job", prompt="Newer")
    observation = await watch.observe()
    assert list(observation.report.failed) == ["a-job"]
    assert observation.report.failed["a-job"].startswith("500")
    assert observation.jobs == {odd.id, other.id}  # its edit in Prefect is in the ledger
    assert (await world.deployments.get("a-job")).parameters["prompt"] == "Newer"
    for _ in range(2):
        observation = await watch.observe()
        assert observation.jobs == {odd.id, other.id}
    await world.deployments.edit_schedule("other", active=False)
    assert (await watch.observe()).report.pulled == ["other"]
    assert len(_sync_failures(caplog)) <= 2  # once more, because of the write before the failure


@pytest.mark.slow
async def test_a_job_that_cannot_be_compared_is_reported_once_and_blocks_no_other(
    world: Any, watch: Watch, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = await world.jobs.add("a-job", every="1h")
    other = await world.jobs.add("other", every="1h")
    await watch.until_stable()
    held = projection.of_deployment

    def stumbles(found: DeploymentResponse) -> projection.Projection:
        if found.name == "a-job":
            raise OverflowError("with the prompt in it")
        return held(found)

    await world.deployments.edit("a-job", description="Odd")
    await world.deployments.edit("other", description="Edited")
    with monkeypatch.context() as patched:
        patched.setattr(projection, "of_deployment", stumbles)
        observation = await watch.observe()
        assert (set(observation.jobs), observation.report.pulled) == ({other.id}, ["other"])
        assert list(observation.report.failed) == ["a-job"]
        assert "OverflowError" in observation.report.failed["a-job"]
        observation = await watch.observe()
        assert (set(observation.jobs), observation.report.failed) == ({other.id}, {})
    assert len(_sync_failures(caplog)) == 1
    assert "with the prompt in it" not in caplog.text
    await world.deployments.edit("a-job", description="Sound")
    observation = await watch.observe()
    assert (set(observation.jobs), observation.report.pulled) == ({odd.id, other.id}, ["a-job"])


@pytest.mark.slow
async def test_an_interval_of_ages_is_refused_and_blocks_no_other_job(
    world: Any, watch: Watch
) -> None:
    """The last due time before now would be before the year 1."""
    both_ids = {(await world.jobs.add(name, every="1h")).id for name in ("a-job", "other")}
    await watch.until_stable()
    soon = (world.ledger.now() + timedelta(minutes=10)).isoformat()
    await world.deployments.edit_schedule("a-job", schedule={"interval": 1e11, "anchor_date": soon})
    observation = await watch.observe()
    assert "schedule" in observation.report.refused["a-job"]
    assert observation.jobs == both_ids
    assert (await world.jobs.get("a-job")).row.conflict is not None


async def test_a_deployment_that_cannot_be_deleted_blocks_no_other_job(
    world: Any, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = await world.jobs.add("a-job", every="1h")
    removed = await world.jobs.add("gone", every="1h")
    other = await world.jobs.add("other", every="1h")
    await watch.until_stable()
    old_deployment_id = (await world.jobs.get("a-job")).row.deployment_id
    for name in ("a-job", "gone"):
        await world.jobs.archive(name)
    delete = deployment.delete

    async def stumbles(client: Any, deployment_id: str) -> None:
        if deployment_id == old_deployment_id:
            raise OverflowError
        await delete(client, deployment_id)

    with monkeypatch.context() as patched:
        patched.setattr(deployment, "delete", stumbles)
        observation = await watch.observe()
        assert (list(observation.report.failed), observation.report.removed) == (
            ["a-job"],
            ["gone"],
        )
        assert observation.jobs == {other.id}
    assert (await watch.observe()).report.removed == ["a-job"]
    assert {odd.id, removed.id}.isdisjoint((await watch.until_stable()).jobs)


async def test_a_failed_adoption_blocks_no_other_deployment(
    world: Any, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = await world.jobs.add("a-job", every="1h")
    await watch.until_stable()
    flow = (await world.prefect.request("POST", "/flows/", {"name": "agent-prompt"})).json()["id"]
    body = {"flow_id": flow, "entrypoint": "flows/agent_prompt.py:agent_prompt"}
    body |= {"parameters": {"prompt": "Say so"}}
    odd = (await world.prefect.request("POST", "/deployments/", body | {"name": "odd"})).json()[
        "id"
    ]
    await world.prefect.request("POST", "/deployments/", body | {"name": "sound"})
    read = deployment.read

    async def stumbles(client: Any, deployment_id: str) -> DeploymentResponse | None:
        if deployment_id == odd:
            raise OverflowError
        return await read(client, deployment_id)

    with monkeypatch.context() as patched:
        patched.setattr(deployment, "read", stumbles)
        observation = await watch.observe()
        assert (observation.report.adopted, list(observation.report.foreign)) == (
            ["sound"],
            ["agent-prompt/odd"],
        )
        assert stored.id in observation.jobs
        assert (await watch.observe()).report.foreign == {}
    await world.prefect.request("DELETE", f"/deployments/{odd}")


@pytest.mark.slow
async def test_a_deployment_that_cannot_be_a_job_is_reported_once(
    world: Any, watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    flow = (await world.prefect.request("POST", "/flows/", {"name": "agent-prompt"})).json()["id"]
    body = {"name": "template", "flow_id": flow, "entrypoint": "flows/agent_prompt.py:agent_prompt"}
    made = (await world.prefect.request("POST", "/deployments/", body)).json()["id"]
    for expected in (["agent-prompt/template"], [], []):
        assert list((await watch.observe()).report.foreign) == expected
    assert (await watch.observe()).requests == 2
    parameters = {"parameters": {"prompt": "Now it can be one"}}
    await world.prefect.request("PATCH", f"/deployments/{made}", parameters)
    assert (await watch.observe()).report.adopted == ["template"]
    assert await world.client.read_deployment(UUID(made))
    records = [
        record for record in caplog.records if getattr(record, "action", "") == "sync_foreign"
    ]
    assert len(records) == 1


async def test_a_deleted_deployment_is_reported_once(world: Any, watch: Watch) -> None:
    stored = await world.jobs.add("a-job", every="1h")
    await watch.until_stable()
    await world.deployments.delete("a-job")
    observation = await watch.observe()
    assert (observation.report.deleted, set(observation.jobs)) == (["a-job"], {stored.id})
    observation = await watch.until_stable()
    assert (observation.report.deleted, set(observation.jobs), observation.requests) == (
        [],
        {stored.id},
        2,
    )
    assert (await world.jobs.get("a-job")).row.disabled_reason == records.DELETED_REASON


async def test_jobs_left_over_at_the_time_limit_do_not_count_as_observed(
    world: Any, watch: Watch
) -> None:
    stored = [await world.jobs.add(name, every="1h") for name in ("one", "two")]
    observation = await watch.observe(most_seconds=-1)
    assert (set(observation.jobs), observation.report.left, world.prefect.traffic.writes) == (
        set(),
        2,
        {},
    )
    observation = await watch.observe()
    assert observation.jobs == {each.id for each in stored}


@pytest.mark.slow
async def test_a_pass_without_prefect_loses_no_edit(world: Any, watch: Watch) -> None:
    await world.jobs.add("a-job", every="1h")
    await watch.until_stable()
    await world.deployments.edit_schedule("a-job", active=True, schedule=CRON)
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
        async with PrefectClient(server.api_url(free_port())) as nobody:
            with pytest.raises(Exception, match="connect"):
                await observe(world.ledger, nobody, watch.fingerprints)
    assert (await watch.observe()).report.pulled == ["a-job"]
