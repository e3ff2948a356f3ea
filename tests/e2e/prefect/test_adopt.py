"""Adoption of deployments that a person made from Daybook's flows in a real Prefect."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from daybook.jobs import store
from daybook.ledger.engine import Ledger
from daybook.prefect import deployments, instances
from daybook.prefect import links as records
from daybook.prefect.adoption import adopt_deployments
from daybook.prefect.reconcile import ReconcileReport
from daybook.schedules.schedule import At, Cron, Every, OnDemand

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

ENTRYPOINTS = {
    "agent-prompt": "flows/agent_prompt.py:agent_prompt",
    "webhook": "flows/webhook.py:webhook",
}
CRON = {"cron": "0 9 * * 1-5", "timezone": "America/New_York"}


async def made(world: Any, name: str, kind: str = "agent-prompt", **body: Any) -> str:
    """Create a deployment as `prefect deploy` does, and return its id."""
    flow = (await world.prefect.request("POST", "/flows/", {"name": kind})).json()["id"]
    given = {"entrypoint": ENTRYPOINTS[kind], "parameters": {"prompt": "Say so"}, **body}
    answer = await world.prefect.request(
        "POST", "/deployments/", {"name": name, "flow_id": flow, **given}
    )
    return str(answer.json()["id"])


@pytest.fixture
async def theirs(world: Any) -> Any:
    """Yield a list for ids of deployments that Daybook does not adopt; delete them at the end."""
    ids: list[str] = []
    yield ids
    for each in ids:
        await world.client.delete_deployment(UUID(each))


@pytest.mark.slow
async def test_an_adopted_deployment_becomes_a_job_with_all_its_fields(world: Any) -> None:
    deployment_id = await made(
        world,
        "Morning brief!",
        tags=["mine", "daily"],
        description="My words",
        paused=False,
        parameters={"prompt": "Sum up", "policy": {"retries": 1}},
        schedules=[{"schedule": CRON, "active": True}],
    )
    before = world.ledger.now()
    report = await world.sync()
    assert (report.adopted, report.created) == (["Morning brief!"], [])
    job = await world.jobs.get("Morning brief!")
    assert (job.row.owner, job.row.slug, job.row.kind) == (
        "prefect",
        "Morning brief!",
        "agent-prompt",
    )
    assert job.job.schedule == Cron(expr="0 9 * * 1-5", timezone="America/New_York")
    assert (job.job.action.prompt, job.job.policy.retries) == ("Sum up", 1)
    assert job.job.policy.timeout == timedelta(
        minutes=30
    )  # a field that it does not set has the default
    assert (job.row.tags, job.row.description, job.job.enabled) == (
        ["mine", "daily"],
        "My words",
        True,
    )
    # The job has no due time before its adoption.
    assert before <= job.revision.effective_from == job.row.created_at == job.row.audited_until
    found = await world.client.read_deployment(UUID(deployment_id))
    assert found.tags == ["mine", "daily", f"daybook:{world.ledger.id}"]
    assert found.work_pool_name == "daybook"
    assert found.parameters == job.job.parameters()
    assert str(found.description).endswith("\n\nMy words")
    again = await world.sync()
    assert (again.adopted, again.writes, again.unchanged) == ([], 0, 1)


@pytest.mark.slow
async def test_a_due_time_before_the_adoption_does_not_belong_to_the_job(world: Any) -> None:
    """A late run that Prefect had queued before runs as it would have without Daybook."""
    deployment_id = await made(world, "a-job", schedules=[{"schedule": CRON, "active": True}])
    await world.sync()
    job = await world.jobs.get("a-job")
    moment = timedelta(seconds=1)
    async with world.ledger.read() as session:
        for due, owner in (
            (job.row.created_at - moment, None),
            (job.row.created_at + moment, job.id),
            (None, job.id),  # a custom run
        ):
            assert await records.job_of_deployment(session, deployment_id, due) == owner
    # A deployment that Daybook created has always belonged to its job.
    await world.jobs.add("own", every="1h")
    await world.sync()
    own = await world.jobs.get("own")
    async with world.ledger.read() as session:
        before = own.row.created_at - moment
        assert await records.job_of_deployment(session, own.row.deployment_id, before) == own.id


@pytest.mark.slow
async def test_a_second_prefect_deploy_keeps_the_same_job(world: Any) -> None:
    """`prefect deploy` resets tags, pause and parameters to those of its file."""
    first = await made(world, "a-job", schedules=[{"schedule": CRON, "active": True}])
    await world.sync()
    before = await world.jobs.get("a-job")
    body: dict[str, Any] = {
        "tags": [],
        "paused": False,
        "description": None,
        "parameters": {"prompt": "Newer"},
    }
    assert await made(world, "a-job", **body) == first
    report = await world.sync()
    assert (report.pulled, report.adopted) == (["a-job"], [])
    job = await world.jobs.get("a-job")
    assert (job.id, job.job.action.prompt) == (before.id, "Newer")
    # The file names no schedules, so this request has removed them.
    assert isinstance(job.job.schedule, OnDemand)
    assert f"daybook:{world.ledger.id}" in (await world.deployments.get("a-job")).tags
    assert (await world.sync()).writes == 0


@pytest.mark.slow
async def test_a_deployment_duplicated_in_the_ui_becomes_a_job_that_can_run(world: Any) -> None:
    await world.jobs.add("one", every="1h", description="Words")
    await world.sync()
    one = await world.deployments.get("one")
    copy = {
        "name": "one-copy",
        "flow_id": str(one.flow_id),
        "tags": one.tags,
        "description": one.description,
        "parameters": one.parameters,
    }
    await world.prefect.request("POST", "/deployments/", copy)
    assert (await world.sync()).adopted == ["one-copy"]
    job = await world.jobs.get("one-copy")
    assert (job.row.description, job.job.schedule.kind) == ("Words", "on_demand")
    found = await world.deployments.get("one-copy")
    assert (found.entrypoint, found.work_pool_name) == (one.entrypoint, "daybook")
    assert found.pull_steps == one.pull_steps


@pytest.mark.slow
async def test_deployments_of_two_flows_with_one_name_become_two_jobs(world: Any) -> None:
    await made(world, "nightly")
    await made(world, "nightly", "webhook", parameters={"url": "https://a.example/x"})
    assert sorted((await world.sync()).adopted) == ["nightly", "nightly-2"]
    found = [await world.jobs.get(name) for name in ("nightly", "nightly-2")]
    assert {(each.row.kind, each.row.slug) for each in found} == {
        ("agent-prompt", "nightly"),
        ("webhook", "nightly"),
    }
    assert (await world.sync()).writes == 0


@pytest.mark.parametrize(
    ("body", "schedule", "enabled", "reason"),
    [
        ({"paused": True}, OnDemand, False, "turned off in Prefect"),
        (
            {"schedules": [{"schedule": CRON, "active": False}]},
            Cron,
            False,
            "turned off in Prefect",
        ),
        (
            {"schedules": [{"schedule": {"interval": 90, "timezone": "UTC"}, "active": True}]},
            Every,
            True,
            "",
        ),
        (
            {
                "schedules": [
                    {
                        "schedule": {
                            "rrule": "DTSTART:20260101T090000Z\nRRULE:FREQ=DAILY;COUNT=1",
                            "timezone": "UTC",
                        },
                        "active": True,
                    }
                ]
            },
            At,
            False,
            store.FIRED_REASON,
        ),
    ],
    ids=["paused", "schedule-off", "interval", "once-in-the-past"],
)
@pytest.mark.slow
async def test_an_adopted_job_has_the_schedule_and_enabled_flag_of_its_deployment(
    world: Any, body: dict[str, Any], schedule: type, enabled: bool, reason: str
) -> None:
    await made(world, "a-job", **body)
    assert (await world.sync()).adopted == ["a-job"]
    job = await world.jobs.get("a-job")
    assert isinstance(job.job.schedule, schedule)
    assert job.job.enabled is enabled
    assert job.row.disabled_reason.startswith(reason)
    assert (await world.sync()).writes == 0


async def test_an_adopted_deployment_stays_in_its_pool_with_its_own_pull_steps(world: Any) -> None:
    await world.prefect.request("POST", "/work_pools/", {"name": "mine", "type": "process"})
    steps = [{"prefect.deployments.steps.set_working_directory": {"directory": "/srv/daybook"}}]
    await made(world, "a-job", work_pool_name="mine", pull_steps=steps)

    assert (await world.sync()).adopted == ["a-job"]

    await world.jobs.edit("a-job", prompt="Say more")
    await world.sync()
    found = await world.deployments.get("a-job")
    assert (found.work_pool_name, found.work_queue_name) == ("mine", "default")
    assert (found.pull_steps, found.parameters["prompt"]) == (steps, "Say more")
    assert (await world.sync()).writes == 0


RULE = "DTSTART:20260101T090000\nRRULE:FREQ=MONTHLY;BYDAY=2MO"


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"parameters": {}}, "prompt"),
        ({"parameters": {"prompt": "x", "surprise": 1}}, "surprise"),
        ({"parameters": {"prompt": "x", "policy": {"timeout": "soon"}}}, "timeout"),
        (
            {"schedules": [{"schedule": {"rrule": RULE, "timezone": "UTC"}, "active": True}]},
            "rrule",
        ),
    ],
    ids=["nothing", "unknown", "policy", "schedule"],
)
async def test_a_deployment_that_cannot_be_a_job_is_reported_and_not_changed(
    world: Any, theirs: list[str], body: dict[str, Any], word: str
) -> None:
    theirs.append(await made(world, "a-job", **body))
    before = await world.deployments.get("a-job")
    report = await world.sync()
    assert (report.adopted, report.writes, list(report.foreign)) == (
        [],
        0,
        ["agent-prompt/a-job"],
    )
    assert word in report.foreign["agent-prompt/a-job"]
    assert await world.deployments.get("a-job") == before
    assert await world.jobs.ids() == {}


@pytest.mark.slow
async def test_deployments_of_other_flows_or_ledgers_are_not_changed(
    world: Any, theirs: list[str], tmp_path: Path
) -> None:
    theirs += [
        await made(world, "another-file", entrypoint="mine.py:agent_prompt"),
        await made(world, "another-kind", entrypoint=ENTRYPOINTS["webhook"]),
        await made(world, "nothing-of-ours", entrypoint=None),
        await made(world, "another-ledgers", tags=["daybook:another"]),
    ]
    await world.jobs.add("a-job", every="1h")  # so that this Prefect belongs to the ledger
    await world.sync()
    before = [await world.client.read_deployment(UUID(each)) for each in theirs]
    assert (await world.sync()).adopted == []
    assert [await world.client.read_deployment(UUID(each)) for each in theirs] == before
    assert list(await world.jobs.ids()) == ["a-job"]


async def test_an_empty_ledger_adopts_nothing_in_another_daybooks_prefect(
    world: Any, theirs: list[str], tmp_path: Path
) -> None:
    """A second home uses the same Prefect."""
    await world.jobs.add("a-job", every="1h")
    await world.sync()
    theirs.append(await made(world, "untagged"))
    before = await world.deployments.get("a-job")
    async with Ledger(f"sqlite+aiosqlite:///{tmp_path / 'other.db'}") as ledger:
        other = world.beside(ledger)
        for _ in range(2):
            report = await other.sync()
            assert (report.adopted, report.removed, report.writes) == ([], [], 0)
        assert await other.jobs.ids() == {}
        assert world.prefect.traffic.writes == {}
    assert await world.deployments.get("a-job") == before
    assert (await world.sync()).adopted == ["untagged"]
    theirs.clear()


async def test_two_concurrent_adoptions_create_one_job(world: Any) -> None:
    await made(world, "a-job")
    await instances.is_same_instance(world.ledger, world.client, ReconcileReport())
    found = list((await deployments.read(world.client, world.ledger.id)).found.values())
    report = ReconcileReport()
    for _ in range(2):  # the second uses the listing from before the first
        await adopt_deployments(world.ledger, world.client, found, {}, report)
    assert report.adopted == ["a-job"]
    assert list(await world.jobs.ids()) == ["a-job"]


@pytest.mark.slow
async def test_an_adoption_that_crashed_after_storing_is_completed_by_the_next_sync(
    world: Any,
) -> None:
    deployment_id = await made(world, "a-job", tags=["mine"])
    found = list((await deployments.read(world.client, world.ledger.id)).found.values())
    await adopt_deployments(world.ledger, world.client, found, {}, ReconcileReport())
    assert (await world.deployments.get("a-job")).tags == [
        "mine"
    ]  # it crashed before it wrote to Prefect
    report = await world.sync()
    assert (report.adopted, report.updated) == ([], ["a-job"])
    assert (await world.deployments.get("a-job")).tags == ["mine", f"daybook:{world.ledger.id}"]
    assert (await world.jobs.get("a-job")).row.deployment_id == deployment_id


@pytest.mark.slow
async def test_a_deployment_whose_removal_is_in_progress_is_not_adopted(world: Any) -> None:
    """It was listed before its deletion, and compared after the ledger had cleared its id."""
    await world.jobs.add("a-job", every="1h")
    await world.sync()
    found = list((await deployments.read(world.client, world.ledger.id)).found.values())
    stored = await world.jobs.archive("a-job")
    async with world.ledger.write() as session:
        await records.record_agreement(session, stored.id, None, None, stored.row.updated_at)
    report = ReconcileReport()
    await adopt_deployments(world.ledger, world.client, found, {}, report)
    assert report.adopted == []
