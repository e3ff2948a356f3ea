"""What somebody makes of our flows in Prefect becomes a job; what is another's never does."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from daybook.ledger import deployments as records
from daybook.ledger import jobs
from daybook.ledger.engine import Ledger
from daybook.spec.schedule import At, Cron, Every, OnDemand
from daybook.sync import listing, place
from daybook.sync.adopt import all_of
from daybook.sync.reconcile import Report

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

ENTRYPOINTS = {
    "agent-prompt": "flows/agent_prompt.py:agent_prompt",
    "webhook": "flows/webhook.py:webhook",
}
CRON = {"cron": "0 9 * * 1-5", "timezone": "America/New_York"}


async def made(both: Any, name: str, kind: str = "agent-prompt", **body: Any) -> str:
    """A deployment as `prefect deploy` makes it; returns its id."""
    flow = (await both.ui("POST", "/flows/", {"name": kind})).json()["id"]
    given = {"entrypoint": ENTRYPOINTS[kind], "parameters": {"prompt": "Say so"}, **body}
    answer = await both.ui("POST", "/deployments/", {"name": name, "flow_id": flow, **given})
    return str(answer.json()["id"])


@pytest.fixture
async def theirs(both: Any) -> Any:
    """What is made here and left alone by us, to be deleted at the end."""
    ids: list[str] = []
    yield ids
    for each in ids:
        await both.client.delete_deployment(UUID(each))


@pytest.mark.slow
async def test_a_deployment_becomes_a_job_with_all_that_it_says(both: Any) -> None:
    deployment_id = await made(
        both,
        "Morning brief!",
        tags=["mine", "daily"],
        description="My words",
        paused=False,
        parameters={"prompt": "Sum up", "policy": {"retries": 1}},
        schedules=[{"schedule": CRON, "active": True}],
    )
    before = both.ledger.now()
    report = await both.sync()
    assert (report.adopted, report.created) == (["Morning brief!"], [])
    job = await both.job("Morning brief!")
    assert (job.row.owner, job.row.slug, job.row.kind) == (
        "prefect",
        "Morning brief!",
        "agent-prompt",
    )
    assert job.job.schedule == Cron(expr="0 9 * * 1-5", timezone="America/New_York")
    assert (job.job.action.prompt, job.job.policy.retries) == ("Sum up", 1)
    assert job.job.policy.timeout == timedelta(minutes=30)  # what it does not say is the default
    assert (job.row.tags, job.row.description, job.job.enabled) == (
        ["mine", "daily"],
        "My words",
        True,
    )
    # Nobody's due time was before.
    assert before <= job.revision.effective_from == job.row.created_at == job.row.audited_until
    found = await both.client.read_deployment(UUID(deployment_id))
    assert found.tags == ["mine", "daily", f"daybook:{both.ledger.id}"]
    assert found.work_pool_name == "daybook"
    assert found.parameters == job.job.parameters()
    assert str(found.description).endswith("\n\nMy words")
    again = await both.sync()
    assert (again.adopted, again.writes, again.unchanged) == ([], 0, 1)


@pytest.mark.slow
async def test_what_was_due_before_is_no_jobs(both: Any) -> None:
    """A run that Prefect had queued, and that comes late, runs as it would have without us."""
    deployment_id = await made(both, "a-job", schedules=[{"schedule": CRON, "active": True}])
    await both.sync()
    job = await both.job("a-job")
    moment = timedelta(seconds=1)
    async with both.ledger.read() as session:
        for due, owner in (
            (job.row.created_at - moment, None),
            (job.row.created_at + moment, job.id),
            (None, job.id),  # a custom run
        ):
            assert await records.job_of(session, deployment_id, due) == owner
    # One of our own making was never anything else.
    await both.add("own", every="1h")
    await both.sync()
    own = await both.job("own")
    async with both.ledger.read() as session:
        before = own.row.created_at - moment
        assert await records.job_of(session, own.row.deployment_id, before) == own.id


@pytest.mark.slow
async def test_deployed_again_it_stays_the_same_job(both: Any) -> None:
    """`prefect deploy` sets tags, pause and parameters back to its file's."""
    first = await made(both, "a-job", schedules=[{"schedule": CRON, "active": True}])
    await both.sync()
    before = await both.job("a-job")
    body: dict[str, Any] = {
        "tags": [],
        "paused": False,
        "description": None,
        "parameters": {"prompt": "Newer"},
    }
    assert await made(both, "a-job", **body) == first
    report = await both.sync()
    assert (report.pulled, report.adopted) == (["a-job"], [])
    job = await both.job("a-job")
    assert (job.id, job.job.action.prompt) == (before.id, "Newer")
    # Its file is silent about schedules: this request has taken them away.
    assert isinstance(job.job.schedule, OnDemand)
    assert f"daybook:{both.ledger.id}" in (await both.deployment("a-job")).tags
    assert (await both.sync()).writes == 0


@pytest.mark.slow
async def test_what_the_ui_duplicates_is_a_job_that_can_run(both: Any) -> None:
    await both.add("one", every="1h", description="Words")
    await both.sync()
    one = await both.deployment("one")
    copy = {
        "name": "one-copy",
        "flow_id": str(one.flow_id),
        "tags": one.tags,
        "description": one.description,
        "parameters": one.parameters,
    }
    await both.ui("POST", "/deployments/", copy)
    assert (await both.sync()).adopted == ["one-copy"]
    job = await both.job("one-copy")
    assert (job.row.description, job.job.schedule.kind) == ("Words", "on_demand")
    found = await both.deployment("one-copy")
    assert (found.entrypoint, found.work_pool_name) == (one.entrypoint, "daybook")
    assert found.pull_steps == one.pull_steps


@pytest.mark.slow
async def test_two_flows_may_have_one_name(both: Any) -> None:
    await made(both, "nightly")
    await made(both, "nightly", "webhook", parameters={"url": "https://a.example/x"})
    assert sorted((await both.sync()).adopted) == ["nightly", "nightly-2"]
    found = [await both.job(name) for name in ("nightly", "nightly-2")]
    assert {(each.row.kind, each.row.slug) for each in found} == {
        ("agent-prompt", "nightly"),
        ("webhook", "nightly"),
    }
    assert (await both.sync()).writes == 0


@pytest.mark.parametrize(
    ("body", "schedule", "enabled", "reason"),
    [
        ({"paused": True}, OnDemand, False, "switched off in Prefect"),
        ({"schedules": [{"schedule": CRON, "active": False}]}, Cron, False, "switched off"),
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
            jobs.FIRED,
        ),
    ],
    ids=["paused", "schedule-off", "interval", "once-in-the-past"],
)
@pytest.mark.slow
async def test_its_switch_and_schedule(
    both: Any, body: dict[str, Any], schedule: type, enabled: bool, reason: str
) -> None:
    await made(both, "a-job", **body)
    assert (await both.sync()).adopted == ["a-job"]
    job = await both.job("a-job")
    assert isinstance(job.job.schedule, schedule)
    assert job.job.enabled is enabled
    assert job.row.disabled_reason.startswith(reason)
    assert (await both.sync()).writes == 0


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
async def test_what_no_job_can_say_is_told_and_left(
    both: Any, theirs: list[str], body: dict[str, Any], word: str
) -> None:
    theirs.append(await made(both, "a-job", **body))
    before = await both.deployment("a-job")
    report = await both.sync()
    assert (report.adopted, report.writes, list(report.foreign)) == (
        [],
        0,
        ["agent-prompt/a-job"],
    )
    assert word in report.foreign["agent-prompt/a-job"]
    assert await both.deployment("a-job") == before
    assert await both.job_rows() == {}


@pytest.mark.slow
async def test_strangers_are_left_alone(both: Any, theirs: list[str], tmp_path: Path) -> None:
    theirs += [
        await made(both, "another-file", entrypoint="mine.py:agent_prompt"),
        await made(both, "another-kind", entrypoint=ENTRYPOINTS["webhook"]),
        await made(both, "nothing-of-ours", entrypoint=None),
        await made(both, "another-ledgers", tags=["daybook:another"]),
    ]
    await both.add("a-job", every="1h")  # by which this Prefect is ours as well
    await both.sync()
    before = [await both.client.read_deployment(UUID(each)) for each in theirs]
    assert (await both.sync()).adopted == []
    assert [await both.client.read_deployment(UUID(each)) for each in theirs] == before
    assert list(await both.job_rows()) == ["a-job"]


@pytest.mark.slow
async def test_an_empty_ledger_takes_nothing_from_another_daybooks_prefect(
    both: Any, theirs: list[str], tmp_path: Path
) -> None:
    """A second home that was pointed at the same Prefect."""
    await both.add("a-job", every="1h")
    await both.sync()
    theirs.append(await made(both, "untagged"))
    before = await both.deployment("a-job")
    async with Ledger(f"sqlite+aiosqlite:///{tmp_path / 'other.db'}") as ledger:
        other = type(both)(ledger, both.client, both.writes)
        for _ in range(2):
            report = await other.sync()
            assert (report.adopted, report.removed, report.writes) == ([], [], 0)
        assert await other.job_rows() == {}
        assert both.writes == {}
    assert await both.deployment("a-job") == before
    assert (await both.sync()).adopted == ["untagged"]
    theirs.clear()


async def test_two_that_take_it_over_at_once_make_one_job(both: Any) -> None:
    await made(both, "a-job")
    await place.is_known(both.ledger, both.client, Report())
    seen = list((await listing.read(both.client, both.ledger.id)).found.values())
    report = Report()
    for _ in range(2):  # the second saw what the first did, before it was a job
        await all_of(both.ledger, both.client, seen, {}, report)
    assert report.adopted == ["a-job"]
    assert list(await both.job_rows()) == ["a-job"]


@pytest.mark.slow
async def test_a_crash_after_it_was_stored_is_finished_by_the_next(both: Any) -> None:
    deployment_id = await made(both, "a-job", tags=["mine"])
    seen = list((await listing.read(both.client, both.ledger.id)).found.values())
    await all_of(both.ledger, both.client, seen, {}, Report())
    assert (await both.deployment("a-job")).tags == ["mine"]  # it died before it wrote there
    report = await both.sync()
    assert (report.adopted, report.updated) == ([], ["a-job"])
    assert (await both.deployment("a-job")).tags == ["mine", f"daybook:{both.ledger.id}"]
    assert (await both.job("a-job")).row.deployment_id == deployment_id


@pytest.mark.slow
async def test_a_removal_that_goes_on_is_not_taken_for_something_new(both: Any) -> None:
    """Listed before it was deleted there, judged after its id was forgotten here."""
    await both.add("a-job", every="1h")
    await both.sync()
    seen = list((await listing.read(both.client, both.ledger.id)).found.values())
    stored = await both.archive("a-job")
    async with both.ledger.write() as session:
        await records.agreed(session, stored.id, None, None, stored.row.updated_at)
    report = Report()
    await all_of(both.ledger, both.client, seen, {}, report)
    assert report.adopted == []
