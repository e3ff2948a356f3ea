"""Jobs as deployments in a real Prefect: created, updated and deleted, with counted requests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, permutations
from typing import Any

import pytest

from daybook.jobs import store
from daybook.prefect import projection
from daybook.schedules.due import due_times

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

KINDS: dict[str, dict[str, Any]] = {
    "cron": {"cron": "*/7 * * * *"},
    "six": {"cron": "*/20 * * * * *"},
    "six-fixed": {"cron": "15,45 */2 * * * *"},
    "daily": {"cron": "@daily", "timezone": "Asia/Kolkata"},
    "every": {"every": "90s"},
    "two-days": {"every": "2d"},
    "once": {"at": "in 90m"},
    "on-demand": {"on_demand": True},
}

PAIRS = list(permutations(["six", "every", "once", "on-demand"], 2))
STRANGE = "DTSTART:20260101T090000\nRRULE:FREQ=MONTHLY;BYDAY=2MO"
"""A schedule that no job supports, so it stays Prefect's own."""


@pytest.mark.parametrize("fields", KINDS.values(), ids=KINDS)
@pytest.mark.slow
async def test_each_schedule_kind_is_queued_in_prefect_at_its_due_times(
    world: Any, fields: dict[str, Any]
) -> None:
    stored = await world.jobs.add("a-job", tags=["x", "y"], description="Words.\n\nMore.", **fields)
    report = await world.sync()
    assert (report.created, report.writes, report.failed) == (["a-job"], 1, {})
    expected = list(islice(due_times(stored.job.schedule, after=stored.revision.effective_from), 3))
    queued = await world.deployments.due("a-job")
    assert queued[: len(expected)] == expected
    assert bool(queued) == bool(expected)
    found = await world.deployments.get("a-job")
    assert projection.of_deployment(found) == projection.of_job(stored, world.ledger.id)
    assert found.work_pool_name == "daybook"
    assert found.entrypoint == "flows/agent_prompt.py:agent_prompt"
    assert found.enforce_parameter_schema
    assert found.tags == ["x", "y", f"daybook:{world.ledger.id}"]
    assert str(found.description).startswith("**a-job** — ")
    assert str(found.description).endswith("\n\nWords.\n\nMore.")
    row = (await world.jobs.get("a-job")).row
    assert row.deployment_id == str(found.id)
    assert not row.sync_pending
    again = await world.sync()
    assert (again.unchanged, again.writes, again.pulled, again.foreign) == (1, 0, [], {})
    assert world.prefect.traffic.writes == {}
    assert await world.deployments.get("a-job") == found


@pytest.mark.slow
async def test_a_sync_sends_only_changed_fields_and_the_schedule_keeps_its_id(world: Any) -> None:
    await world.jobs.add("a-job", every="1h")
    await world.sync()
    assert world.prefect.traffic.writes == {
        "POST flows/": 1,
        "POST deployments/": 1,
        "POST deployments/…/schedule": 1,
    }
    (before,) = (await world.deployments.get("a-job")).schedules
    queued = await world.deployments.due("a-job")

    await world.jobs.edit("a-job", prompt="Say more", tags=["t"])
    assert (await world.sync()).updated == ["a-job"]
    assert world.prefect.traffic.writes == {
        "PATCH deployments/…": 1,
        "POST deployments/…/schedule": 1,
    }
    found = await world.deployments.get("a-job")
    assert found.parameters["prompt"] == "Say more"
    assert found.tags[0] == "t"
    assert found.schedules == [before]
    assert (await world.deployments.due("a-job"))[:3] == queued[:3]
    assert {r.parameters["prompt"] for r in await world.prefect.runs(found)} == {"Say more"}

    await world.jobs.edit("a-job", cron="30 9 * * 1-5")
    await world.sync()
    assert world.prefect.traffic.writes == {
        "PATCH deployments/…": 1,
        "PATCH deployments/…/schedules/…": 1,
        "POST deployments/…/schedule": 1,
    }
    (after,) = (await world.deployments.get("a-job")).schedules
    assert (after.id, after.slug) == (before.id, None)  # the UI describes it in words
    job = await world.jobs.get("a-job")
    expected = list(islice(due_times(job.job.schedule, after=world.ledger.now()), 3))
    assert (await world.deployments.due("a-job"))[:3] == expected


@pytest.mark.parametrize(("first", "second"), PAIRS)
@pytest.mark.slow
async def test_each_schedule_kind_can_be_changed_into_any_other(
    world: Any, first: str, second: str
) -> None:
    await world.jobs.add("a-job", **KINDS[first])
    await world.sync()
    if first != "on-demand":  # else the only schedule would count as the job's
        await world.deployments.add_schedule("a-job", {"rrule": STRANGE, "timezone": "UTC"})
    await world.jobs.edit("a-job", **KINDS[second])
    report = await world.sync()
    assert (report.updated, report.conflicts, report.failed) == (["a-job"], {}, {})
    job = await world.jobs.get("a-job")
    found = await world.deployments.get("a-job")
    strange = [each for each in found.schedules if getattr(each.schedule, "rrule", "") == STRANGE]
    own_schedules = [each for each in found.schedules if each not in strange]
    assert projection.of_deployment(found).enabled
    assert len(own_schedules) == (second != "on-demand")
    if first != "on-demand":
        assert [each.active for each in strange] == [True]
    expected = list(islice(due_times(job.job.schedule, after=job.revision.effective_from), 3))
    assert set(expected) <= set(await world.deployments.due("a-job"))
    assert (await world.sync()).writes == 0


@pytest.mark.slow
async def test_pausing_and_resuming_a_job_pauses_and_resumes_its_deployment(world: Any) -> None:
    await world.jobs.add("a-job", every="1h")
    await world.sync()
    queued = await world.deployments.due("a-job")
    await world.jobs.edit("a-job", enabled=False, reason="paused: holidays")
    await world.sync()
    found = await world.deployments.get("a-job")
    assert found.paused
    assert found.schedules[0].active
    assert await world.deployments.due("a-job") == []
    assert (await world.sync()).writes == 0
    await world.jobs.edit("a-job", enabled=True)
    await world.sync()
    assert not (await world.deployments.get("a-job")).paused
    assert (await world.deployments.due("a-job"))[:3] == queued[:3]
    assert (await world.sync()).writes == 0


@pytest.mark.slow
async def test_a_disabled_job_stays_disabled_in_prefect_after_an_edit(world: Any) -> None:
    await world.jobs.add("a-job", every="1h")
    await world.sync()
    await world.deployments.edit_schedule("a-job", active=False)
    assert (await world.sync()).pulled == ["a-job"]
    await world.jobs.edit("a-job", every="2h")
    await world.sync()
    assert not projection.of_deployment(await world.deployments.get("a-job")).enabled
    assert await world.deployments.due("a-job") == []
    assert (await world.sync()).writes == 0
    await world.jobs.edit("a-job", enabled=True)
    await world.sync()
    found = await world.deployments.get("a-job")
    assert not found.paused
    assert found.schedules[0].active
    assert len(await world.deployments.due("a-job")) >= 3


@pytest.mark.slow
async def test_removing_a_job_deletes_only_its_deployment(world: Any) -> None:
    for name in ("one", "two"):
        await world.jobs.add(name, every="1h")
    await world.sync()
    one = await world.deployments.get("one")
    # It belongs to no job although it has the tag, because its entrypoint is another flow's.
    copy = {"name": "a-copy", "flow_id": str(one.flow_id), "tags": one.tags, "paused": False}
    copy |= {"parameters": one.parameters, "entrypoint": "mine.py:mine"}
    await world.prefect.request("POST", "/deployments/", copy)
    await world.jobs.archive("one")
    report = await world.sync()
    assert (report.removed, report.writes, report.adopted) == (["one"], 1, [])
    assert world.prefect.traffic.writes == {"DELETE deployments/…": 1}
    names = {each.name for each in (await world.deployments.all()).values()}
    assert names == {"two", "a-copy"}
    assert (await world.sync()).writes == 0
    async with world.ledger.read() as session:
        job = await store.get(session, (await world.jobs.ids())["one"])
    assert job is not None
    assert job.row.deployment_id is None


@pytest.mark.slow
async def test_deployment_fields_that_only_prefect_has_are_kept(world: Any) -> None:
    await world.jobs.add("a-job", every="1h")
    await world.sync()
    await world.deployments.edit(
        "a-job", concurrency_limit=3, job_variables={"env": {"A": "b"}}, version="7"
    )
    assert (await world.sync()).writes == 0
    for change in ({"prompt": "Other"}, {"cron": "0 9 * * *"}, {"on_demand": True}):
        await world.jobs.edit("a-job", **change)
        await world.sync()
        found = await world.deployments.get("a-job")
        assert found.global_concurrency_limit is not None
        assert found.global_concurrency_limit.limit == 3
        assert found.job_variables == {"env": {"A": "b"}}
        assert found.version == "7"


@pytest.mark.slow
async def test_a_due_time_between_the_edit_and_the_write_is_queued(world: Any) -> None:
    """A due time that passes while Prefect is slow is not lost: it is queued late."""
    await world.jobs.add("idle", cron="0 0 1 1 *")
    await world.sync()  # all imports and first requests are done
    start = world.ledger.now().replace(microsecond=0) + timedelta(seconds=1)
    await world.clock.wait_until(start)
    await world.jobs.add("soon", every="1s")
    at = (start + timedelta(seconds=2)).isoformat()
    await world.jobs.add("once", at=at)
    await world.clock.wait_until(start + timedelta(seconds=4))
    written = world.ledger.now()
    await world.sync()
    due = await world.deployments.due("soon")
    first = (await world.jobs.get("soon")).job.schedule.anchor + timedelta(seconds=1)
    assert due[0] == first
    assert due[:20] == [first + timedelta(seconds=n) for n in range(20)]
    assert first < written
    assert await world.deployments.due("once") == [datetime.fromisoformat(at).astimezone(UTC)]
    runs = await world.prefect.runs(await world.deployments.get("once"))
    assert [run.state_type for run in runs] == ["SCHEDULED"]
