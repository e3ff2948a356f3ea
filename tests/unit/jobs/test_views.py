"""Views of jobs and runs, as models and as JSON."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from sqlmodel import col, update

from daybook.delivery import messages
from daybook.jobs import store
from daybook.jobs.actions import Webhook
from daybook.jobs.views import ListedJob
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import RevisionRow
from daybook.ledger.views import Run
from daybook.runs import overdue
from daybook.schedules.due_times import DueTimes
from daybook.schedules.schedule import make
from tests.world import World

pytestmark = pytest.mark.anyio

NOON = datetime(2027, 1, 15, 12, tzinfo=UTC)


async def test_in_json_the_fields_of_the_action_replace_the_field_action(world: World) -> None:
    stored = await world.jobs.add(
        prompt=None, kind="webhook", url="https://example.org/x", cron="0 9 * * *"
    )
    job = ListedJob.of(await world.jobs.get(stored.id), world.clock.now(), running=False)
    assert isinstance(job.action, Webhook)
    names = list(job.model_dump(mode="json"))
    fields = [name for name in ListedJob.model_fields if name != "action"]
    assert [name for name in names if name in fields] == fields
    place = names.index("created_by") + 1
    assert names[place : names.index("policy")] == list(Webhook.model_fields)


async def test_the_view_of_a_job_is_valid(world: World) -> None:
    """It is built without validation, so each value must have the type of its field."""
    stored = await world.jobs.add(
        cron="0 9 * * *", timezone="Asia/Tokyo", tags=["a", "b"], metadata={"team": "blue"}
    )
    async with world.ledger.write() as session:
        found = await store.get(session, stored.id)
        assert found is not None
        later = world.clock.now() + timedelta(days=2)
        found.row.skips, found.row.snoozed_until = [later.isoformat()], later
        found.row.conflict = {"at": later.isoformat(), "fields": {"prompt": "before"}}
        found.row.synced = {"foreign": ["every full moon"]}
        view = ListedJob.of(found, world.clock.now(), running=True)
    assert ListedJob.model_validate(dict(view)) == view
    assert json.loads(view.model_dump_json(warnings="error"))["tags"] == ["a", "b"]


async def test_a_job_whose_time_zone_is_missing_is_listed_with_the_other_jobs(
    world: World,
) -> None:
    other = await world.jobs.add("other", cron="0 * * * *")
    lost = await world.jobs.add("lost", cron="0 * * * *")
    once = await world.jobs.add("once", at="2027-01-15T12:00:00Z")
    async with world.ledger.write() as session:
        for each in (lost, once):
            schedule = each.revision.schedule | {"timezone": "Mars/Olympus"}
            change = update(RevisionRow).where(col(RevisionRow.job_id) == each.id)
            await session.execute(change.values(schedule=schedule))
    world.clock.move(timedelta(hours=2))

    async with world.ledger.read() as session:
        stored = await store.all_jobs(session)
        late = await overdue.find_all(session, overdue.DueTimeCache(), world.clock.now())
    views = [ListedJob.of(each, world.clock.now(), running=False) for each in stored]

    assert [each.name for each in views] == ["lost", "once", "other"]
    for view in views[:2]:
        assert "this machine has no time zone Mars/Olympus" in view.words
        assert view.next_due == []
        assert view.model_dump_json(warnings="error")
    assert [each.job.id for each in late] == [other.id]


@pytest.mark.parametrize(
    ("zone", "local"),
    [
        ("UTC", "2027-01-15T12:00:00+00:00"),
        ("Europe/London", "2027-01-15T12:00:00+00:00"),
        ("America/New_York", "2027-01-15T07:00:00-05:00"),
    ],
)
def test_a_due_time_in_json_has_its_zones_offset_even_if_that_is_zero(
    zone: str, local: str
) -> None:
    schedule = make(at="2027-01-15T12:00:00Z", timezone=zone, now=NOON - timedelta(days=1))
    shown: dict[str, Any] = json.loads(DueTimes.of(schedule, [NOON], 1).model_dump_json())
    assert shown["due"] == [{"utc": "2027-01-15T12:00:00Z", "local": local}]
    assert shown["schedule"]["at"] == local


async def test_the_instants_of_a_run_are_shown_in_utc(world: World) -> None:
    row = await world.runs.request(await world.jobs.add(cron="0 9 * * *"))
    east = row.due.astimezone(timezone(timedelta(hours=2)))
    row.due = east
    found = Run.of(row, None)
    assert (found.scheduled_for, found.scheduled_for.utcoffset()) == (east, timedelta(0))
    assert found.model_dump(mode="json")["scheduled_for"].endswith("Z")


async def test_a_run_with_any_stored_json_can_be_shown(world: World) -> None:
    """The transaction that records an outcome builds a view, so a view must not raise an error."""
    row = await world.runs.request(await world.jobs.add(cron="0 9 * * *"))
    row.usage, row.result = {"input_tokens": "many", "1": None}, [1, {"a": "\ud800"}]
    found = Run.of(row, None)
    assert (found.usage, found.result) == (row.usage, row.result)
    deep: Any = {"\ud800": 1}
    for _ in range(100):
        deep = [deep]
    row.result = Outcome(Status.SUCCEEDED, result=deep).result
    assert json.loads(messages.listener_body(row, None, "completed", None))["usage"] == row.usage
