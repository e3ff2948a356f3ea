"""A job becomes a Prefect deployment, follows its changes, and goes; requests are counted."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, permutations
from typing import Any

import pytest

from daybook.ledger import jobs
from daybook.spec.due import due_times
from daybook.sync import projection

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
"""No job can say this: it stays Prefect's own."""


@pytest.mark.parametrize("fields", KINDS.values(), ids=KINDS)
@pytest.mark.slow
async def test_each_kind_of_schedule_is_queued_at_once_at_its_due_times(
    both: Any, fields: dict[str, Any]
) -> None:
    stored = await both.add("a-job", tags=["x", "y"], description="Words.\n\nMore.", **fields)
    report = await both.sync()
    assert (report.created, report.writes, report.failed) == (["a-job"], 1, {})
    expected = list(islice(due_times(stored.job.schedule, after=stored.revision.effective_from), 3))
    queued = await both.due("a-job")
    assert queued[: len(expected)] == expected
    assert bool(queued) == bool(expected)
    found = await both.deployment("a-job")
    assert projection.of_deployment(found) == projection.of_job(stored, both.ledger.id)
    assert found.work_pool_name == "daybook"
    assert found.entrypoint == "flows/agent_prompt.py:agent_prompt"
    assert found.enforce_parameter_schema
    assert found.tags == ["x", "y", f"daybook:{both.ledger.id}"]
    assert str(found.description).startswith("**a-job** — ")
    assert str(found.description).endswith("\n\nWords.\n\nMore.")
    row = (await both.job("a-job")).row
    assert row.deployment_id == str(found.id)
    assert not row.sync_pending
    again = await both.sync()
    assert (again.unchanged, again.writes, again.pulled, again.foreign) == (1, 0, [], {})
    assert both.writes == {}
    assert await both.deployment("a-job") == found


@pytest.mark.slow
async def test_only_what_changed_is_sent_and_the_schedule_keeps_its_id(both: Any) -> None:
    await both.add("a-job", every="1h")
    await both.sync()
    assert both.writes == {
        "POST flows/": 1,
        "POST deployments/": 1,
        "POST deployments/…/schedule": 1,
    }
    (before,) = (await both.deployment("a-job")).schedules
    queued = await both.due("a-job")

    await both.edit("a-job", prompt="Say more", tags=["t"])
    assert (await both.sync()).updated == ["a-job"]
    assert both.writes == {"PATCH deployments/…": 1, "POST deployments/…/schedule": 1}
    found = await both.deployment("a-job")
    assert found.parameters["prompt"] == "Say more"
    assert found.tags[0] == "t"
    assert found.schedules == [before]
    assert (await both.due("a-job"))[:3] == queued[:3]
    assert {r.parameters["prompt"] for r in await both.runs(found)} == {"Say more"}

    await both.edit("a-job", cron="30 9 * * 1-5")
    await both.sync()
    assert both.writes == {
        "PATCH deployments/…": 1,
        "PATCH deployments/…/schedules/…": 1,
        "POST deployments/…/schedule": 1,
    }
    (after,) = (await both.deployment("a-job")).schedules
    assert (after.id, after.slug) == (before.id, None)  # the UI says it in words
    job = await both.job("a-job")
    expected = list(islice(due_times(job.job.schedule, after=both.ledger.now()), 3))
    assert (await both.due("a-job"))[:3] == expected


@pytest.mark.parametrize(("first", "second"), PAIRS)
@pytest.mark.slow
async def test_any_schedule_becomes_any_other(both: Any, first: str, second: str) -> None:
    await both.add("a-job", **KINDS[first])
    await both.sync()
    if first != "on-demand":  # the only schedule of a deployment would be the job's
        await both.ui_add_schedule("a-job", {"rrule": STRANGE, "timezone": "UTC"})
    await both.edit("a-job", **KINDS[second])
    report = await both.sync()
    assert (report.updated, report.conflicts, report.failed) == (["a-job"], {}, {})
    job = await both.job("a-job")
    found = await both.deployment("a-job")
    strange = [each for each in found.schedules if getattr(each.schedule, "rrule", "") == STRANGE]
    ours = [each for each in found.schedules if each not in strange]
    assert projection.of_deployment(found).enabled
    assert len(ours) == (second != "on-demand")
    if first != "on-demand":
        assert [each.active for each in strange] == [True]
    expected = list(islice(due_times(job.job.schedule, after=job.revision.effective_from), 3))
    assert set(expected) <= set(await both.due("a-job"))
    assert (await both.sync()).writes == 0


@pytest.mark.slow
async def test_pause_and_resume(both: Any) -> None:
    await both.add("a-job", every="1h")
    await both.sync()
    queued = await both.due("a-job")
    await both.edit("a-job", enabled=False, reason="paused: holidays")
    await both.sync()
    found = await both.deployment("a-job")
    assert found.paused
    assert found.schedules[0].active
    assert await both.due("a-job") == []
    assert (await both.sync()).writes == 0
    await both.edit("a-job", enabled=True)
    await both.sync()
    assert not (await both.deployment("a-job")).paused
    assert (await both.due("a-job"))[:3] == queued[:3]
    assert (await both.sync()).writes == 0


@pytest.mark.slow
async def test_a_job_that_is_edited_while_it_is_off_stays_off(both: Any) -> None:
    await both.add("a-job", every="1h")
    await both.sync()
    await both.ui_schedule("a-job", active=False)
    assert (await both.sync()).pulled == ["a-job"]
    await both.edit("a-job", every="2h")
    await both.sync()
    assert not projection.of_deployment(await both.deployment("a-job")).enabled
    assert await both.due("a-job") == []
    assert (await both.sync()).writes == 0
    await both.edit("a-job", enabled=True)
    await both.sync()
    found = await both.deployment("a-job")
    assert not found.paused
    assert found.schedules[0].active
    assert len(await both.due("a-job")) >= 3


@pytest.mark.slow
async def test_removing_takes_the_deployment_away_and_nothing_else(both: Any) -> None:
    for name in ("one", "two"):
        await both.add(name, every="1h")
    await both.sync()
    one = await both.deployment("one")
    # No job's, although it has our tag: it has another flow's entrypoint.
    copy = {"name": "a-copy", "flow_id": str(one.flow_id), "tags": one.tags, "paused": False}
    copy |= {"parameters": one.parameters, "entrypoint": "mine.py:mine"}
    await both.ui("POST", "/deployments/", copy)
    await both.archive("one")
    report = await both.sync()
    assert (report.removed, report.writes, report.adopted) == (["one"], 1, [])
    assert both.writes == {"DELETE deployments/…": 1}
    names = {each.name for each in (await both.mine()).values()}
    assert names == {"two", "a-copy"}
    assert (await both.sync()).writes == 0
    async with both.ledger.read() as session:
        gone = await jobs.get(session, (await both.job_rows())["one"])
    assert gone is not None
    assert gone.row.deployment_id is None


@pytest.mark.slow
async def test_what_only_prefect_knows_is_kept(both: Any) -> None:
    await both.add("a-job", every="1h")
    await both.sync()
    await both.ui_deployment(
        "a-job", concurrency_limit=3, job_variables={"env": {"A": "b"}}, version="7"
    )
    assert (await both.sync()).writes == 0
    for change in ({"prompt": "Other"}, {"cron": "0 9 * * *"}, {"on_demand": True}):
        await both.edit("a-job", **change)
        await both.sync()
        found = await both.deployment("a-job")
        assert found.global_concurrency_limit is not None
        assert found.global_concurrency_limit.limit == 3
        assert found.job_variables == {"env": {"A": "b"}}
        assert found.version == "7"


async def test_a_due_time_between_the_change_and_the_write_is_queued(both: Any) -> None:
    """What comes due while Prefect is slow is not lost: it is queued, although it has passed."""
    await both.add("idle", cron="0 0 1 1 *")
    await both.sync()  # all imports and first requests are behind us
    start = both.ledger.now().replace(microsecond=0) + timedelta(seconds=1)
    await both.wait_until(start)
    await both.add("soon", every="1s")
    at = (start + timedelta(seconds=2)).isoformat()
    await both.add("once", at=at)
    await both.wait_until(start + timedelta(seconds=4))
    written = both.ledger.now()
    await both.sync()
    due = await both.due("soon")
    first = (await both.job("soon")).job.schedule.anchor + timedelta(seconds=1)
    assert due[0] == first
    assert due[:20] == [first + timedelta(seconds=n) for n in range(20)]
    assert first < written
    assert await both.due("once") == [datetime.fromisoformat(at).astimezone(UTC)]
    runs = await both.runs(await both.deployment("once"))
    assert [run.state_type for run in runs] == ["SCHEDULED"]
