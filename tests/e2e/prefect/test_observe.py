"""One look at everything: what it finds, what it passes over, what it tells only once."""

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


def _told(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [each for each in caplog.records if getattr(each, "action", "") == "sync_failed"]


class Watch:
    """An observer of the world, which has looked until nothing was new."""

    def __init__(self, world: Any) -> None:
        self._world, self.seen = world, Fingerprints()

    async def look(self, **given: Any) -> Observation:
        self._world.prefect.writes.clear()
        return await observe(self._world.ledger, self._world.client, self.seen, **given)

    async def settled(self) -> Observation:
        for _ in range(3):
            seen = await self.look()
        assert seen.report.writes == 0
        return seen


@pytest.fixture
async def watch(world: Any) -> Watch:
    return Watch(world)


@pytest.mark.slow
async def test_nothing_changed_costs_two_requests_for_each_page(world: Any, watch: Watch) -> None:
    for name in ("one", "two", "three"):
        await world.add(name, every="1h")
    await watch.settled()
    before = world.ledger.now()
    seen = await watch.look()
    assert seen.requests == 2  # the list, which is shorter than a page, and the pool
    assert len(await world.prefect.deployments()) < PAGE_SIZE
    assert world.prefect.writes == {}
    assert seen.jobs == set((await world.ids()).values())
    assert seen.report.unchanged == 3
    assert before <= seen.began <= world.ledger.now()
    assert 0 < seen.cpu_seconds < 1


@pytest.mark.slow
async def test_an_edit_is_found_by_the_next_look_and_the_runs_are_queued(
    world: Any, watch: Watch
) -> None:
    for name in ("one", "two", "three"):
        await world.add(name, every="1h")
    await watch.settled()
    edited = await world.prefect.edit_schedule("two", active=True, schedule=CRON)
    seen = await watch.look()
    assert (seen.report.pulled, seen.report.unchanged) == (["two"], 2)
    assert len(set(seen.jobs)) == 3
    job = await world.job("two")
    assert job.revision.effective_from == edited
    due = list(islice(due_times(job.job.schedule, after=edited), 3))
    assert (await world.prefect.due("two"))[:3] == due


@pytest.mark.slow
async def test_a_switch_that_is_turned_on_has_its_runs_at_once(world: Any, watch: Watch) -> None:
    """The schedule's own switch: Prefect itself would look for it a minute later."""
    await world.add("a-job", every="1h")
    await watch.settled()
    await world.prefect.edit_schedule("a-job", active=False)
    assert (await watch.look()).report.pulled == ["a-job"]
    assert await world.prefect.due("a-job") == []
    await watch.settled()
    await world.prefect.edit_schedule("a-job", active=True)
    assert (await watch.look()).report.pulled == ["a-job"]
    assert len(await world.prefect.due("a-job")) >= 3


async def test_a_schedule_saved_as_it_is_gets_its_runs_back(world: Any, watch: Watch) -> None:
    await world.add("a-job", cron="*/7 * * * *", timezone="UTC")
    await watch.settled()
    queued = await world.prefect.due("a-job")
    await world.prefect.edit_schedule("a-job", active=True, schedule=CRON)
    assert await world.prefect.due("a-job") == []  # that is what saving does
    seen = await watch.look()
    assert (seen.report.pulled, seen.report.writes) == ([], 0)
    assert (await world.prefect.due("a-job"))[:3] == queued[:3]
    assert (await watch.look()).requests == 2


@pytest.mark.slow
async def test_a_change_here_is_brought_there(world: Any, watch: Watch) -> None:
    await world.add("a-job", every="1h")
    await watch.settled()
    await world.edit("a-job", prompt="Newer")
    assert (await watch.look()).report.updated == ["a-job"]
    assert (await world.prefect.deployment("a-job")).parameters["prompt"] == "Newer"


@pytest.mark.slow
async def test_a_job_that_prefect_refuses_is_observed_and_told_once(
    world: Any, watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its due times want an outcome all the same."""
    stored = await world.add("a-big-one", every="1h", prompt="x" * 600_000)
    seen = await watch.look()
    assert (list(seen.report.failed), set(seen.jobs)) == (["a-big-one"], {stored.id})
    seen = await watch.look()
    assert (seen.report.failed, set(seen.jobs), world.prefect.writes) == ({}, {stored.id}, {})
    assert len(_told(caplog)) == 1
    await world.edit("a-big-one", prompt="Smaller")
    assert (await watch.look()).report.created == ["a-big-one"]


async def test_a_schedule_that_prefect_cannot_queue_holds_up_nobody(
    world: Any, watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    """Prefect takes a cron that is never due, and answers 500 when it is to queue its runs."""
    odd = await world.add("a-job", every="1h")
    other = await world.add("other", every="1h")
    await watch.settled()
    never = {"cron": "0 0 31 2 *", "timezone": "UTC", "day_or": True}
    await world.prefect.add_schedule("a-job", never)
    await world.edit("a-job", prompt="Newer")
    seen = await watch.look()
    assert list(seen.report.failed) == ["a-job"]
    assert seen.report.failed["a-job"].startswith("500")
    assert seen.jobs == {odd.id, other.id}  # what was edited there is in the ledger
    assert (await world.prefect.deployment("a-job")).parameters["prompt"] == "Newer"
    for _ in range(2):
        seen = await watch.look()
        assert seen.jobs == {odd.id, other.id}
    await world.prefect.edit_schedule("other", active=False)
    assert (await watch.look()).report.pulled == ["other"]
    assert len(_told(caplog)) <= 2  # once more, for what was written there before it failed


@pytest.mark.slow
async def test_a_job_that_cannot_be_compared_is_told_once_and_the_others_are_observed(
    world: Any, watch: Watch, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = await world.add("a-job", every="1h")
    other = await world.add("other", every="1h")
    await watch.settled()
    held = projection.of_deployment

    def stumbles(found: DeploymentResponse) -> projection.Projection:
        if found.name == "a-job":
            raise OverflowError("with the prompt in it")
        return held(found)

    await world.prefect.edit_deployment("a-job", description="Odd")
    await world.prefect.edit_deployment("other", description="Edited")
    with monkeypatch.context() as patched:
        patched.setattr(projection, "of_deployment", stumbles)
        seen = await watch.look()
        assert (set(seen.jobs), seen.report.pulled) == ({other.id}, ["other"])
        assert list(seen.report.failed) == ["a-job"]
        assert "OverflowError" in seen.report.failed["a-job"]
        seen = await watch.look()
        assert (set(seen.jobs), seen.report.failed) == ({other.id}, {})
    assert len(_told(caplog)) == 1
    assert "with the prompt in it" not in caplog.text
    await world.prefect.edit_deployment("a-job", description="Sound")
    seen = await watch.look()
    assert (set(seen.jobs), seen.report.pulled) == ({odd.id, other.id}, ["a-job"])


@pytest.mark.slow
async def test_an_interval_of_ages_is_told_and_holds_up_nobody(world: Any, watch: Watch) -> None:
    """Its last due time before now is before the year 1."""
    both_ids = {(await world.add(name, every="1h")).id for name in ("a-job", "other")}
    await watch.settled()
    soon = (world.ledger.now() + timedelta(minutes=10)).isoformat()
    await world.prefect.edit_schedule("a-job", schedule={"interval": 1e11, "anchor_date": soon})
    seen = await watch.look()
    assert "schedule" in seen.report.refused["a-job"]
    assert seen.jobs == both_ids
    assert (await world.job("a-job")).row.conflict is not None


async def test_a_deployment_that_prefect_does_not_delete_holds_up_nobody(
    world: Any, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = await world.add("a-job", every="1h")
    gone = await world.add("gone", every="1h")
    other = await world.add("other", every="1h")
    await watch.settled()
    kept = (await world.job("a-job")).row.deployment_id
    for name in ("a-job", "gone"):
        await world.archive(name)
    delete = deployment.delete

    async def stumbles(client: Any, deployment_id: str) -> None:
        if deployment_id == kept:
            raise OverflowError
        await delete(client, deployment_id)

    with monkeypatch.context() as patched:
        patched.setattr(deployment, "delete", stumbles)
        seen = await watch.look()
        assert (list(seen.report.failed), seen.report.removed) == (["a-job"], ["gone"])
        assert seen.jobs == {other.id}
    assert (await watch.look()).report.removed == ["a-job"]
    assert {odd.id, gone.id}.isdisjoint((await watch.settled()).jobs)


async def test_what_goes_wrong_in_taking_one_over_holds_up_nobody(
    world: Any, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = await world.add("a-job", every="1h")
    await watch.settled()
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
        seen = await watch.look()
        assert (seen.report.adopted, list(seen.report.foreign)) == (["sound"], ["agent-prompt/odd"])
        assert stored.id in seen.jobs
        assert (await watch.look()).report.foreign == {}
    await world.prefect.request("DELETE", f"/deployments/{odd}")


@pytest.mark.slow
async def test_what_cannot_be_a_job_is_told_once(
    world: Any, watch: Watch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    flow = (await world.prefect.request("POST", "/flows/", {"name": "agent-prompt"})).json()["id"]
    body = {"name": "template", "flow_id": flow, "entrypoint": "flows/agent_prompt.py:agent_prompt"}
    made = (await world.prefect.request("POST", "/deployments/", body)).json()["id"]
    for expected in (["agent-prompt/template"], [], []):
        assert list((await watch.look()).report.foreign) == expected
    assert (await watch.look()).requests == 2
    parameters = {"parameters": {"prompt": "Now it can be one"}}
    await world.prefect.request("PATCH", f"/deployments/{made}", parameters)
    assert (await watch.look()).report.adopted == ["template"]
    assert await world.client.read_deployment(UUID(made))
    told = [record for record in caplog.records if getattr(record, "action", "") == "sync_foreign"]
    assert len(told) == 1


async def test_a_deletion_is_found_once_and_stays(world: Any, watch: Watch) -> None:
    stored = await world.add("a-job", every="1h")
    await watch.settled()
    await world.prefect.delete_deployment("a-job")
    seen = await watch.look()
    assert (seen.report.deleted, set(seen.jobs)) == (["a-job"], {stored.id})
    seen = await watch.settled()
    assert (seen.report.deleted, set(seen.jobs), seen.requests) == ([], {stored.id}, 2)
    assert (await world.job("a-job")).row.disabled_reason == records.DELETED_REASON


async def test_what_there_was_no_time_for_is_not_observed(world: Any, watch: Watch) -> None:
    stored = [await world.add(name, every="1h") for name in ("one", "two")]
    seen = await watch.look(most_seconds=-1)
    assert (set(seen.jobs), seen.report.left, world.prefect.writes) == (set(), 2, {})
    seen = await watch.look()
    assert seen.jobs == {each.id for each in stored}


@pytest.mark.slow
async def test_while_prefect_is_away_nothing_is_observed_and_nothing_lost(
    world: Any, watch: Watch
) -> None:
    await world.add("a-job", every="1h")
    await watch.settled()
    await world.prefect.edit_schedule("a-job", active=True, schedule=CRON)
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
        async with PrefectClient(server.api_url(free_port())) as nobody:
            with pytest.raises(Exception, match="connect"):
                await observe(world.ledger, nobody, watch.seen)
    assert (await watch.look()).report.pulled == ["a-job"]
