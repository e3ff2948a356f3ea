"""Conflicts between ledger and Prefect: stored before the overwrite, listed and decided."""

from __future__ import annotations

from typing import Any

import pytest

from daybook.api import conflicts
from daybook.api import sync as service
from daybook.errors import InvalidInput
from daybook.prefect import deployment, import_edits, reconcile, reconcile_job
from daybook.prefect.reconcile import ReconcileReport
from daybook.schedules.schedule import Cron, Every

pytestmark = [pytest.mark.anyio, pytest.mark.e2e]

CRON = {"cron": "0 9 * * *", "timezone": "UTC", "day_or": True}


async def disputed(world: Any, name: str = "a-job") -> dict[str, Any]:
    """Change a job's schedule on both sides, and return Prefect's version."""
    await world.jobs.add(name, every="1h", prompt="Old")
    await world.sync()
    await world.deployments.edit_schedule(name, active=True, schedule=CRON)
    await world.jobs.edit(name, every="2h")
    return {"cron": "0 9 * * *", "timezone": "UTC"}


async def test_the_losing_version_of_a_conflict_is_kept_and_listed(world: Any) -> None:
    lost = await disputed(world)
    began = world.ledger.now()
    assert (await world.sync()).conflicts == {"a-job": {"schedule": lost}}
    row = (await world.jobs.get("a-job")).row
    (shown,) = await conflicts.list_conflicts()
    assert (shown.job, shown.id) == ("a-job", row.id)
    assert shown.fields["schedule"].prefect == lost
    assert shown.fields["schedule"].ledger["interval"] == 7200
    assert began <= shown.at <= world.ledger.now()
    assert (await world.deployments.get("a-job")).schedules[
        0
    ].schedule.interval.total_seconds() == 7200
    # The conflict stays after both sides agree, until a person decides it.
    assert (await world.sync()).writes == 0
    assert await conflicts.list_conflicts() == [shown]


@pytest.mark.slow
async def test_a_conflict_is_stored_before_prefect_is_overwritten(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = await disputed(world)

    async def dies(*_: object, **__: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(deployment, "write", dies)
        with pytest.raises(KeyboardInterrupt):
            await world.sync()
    conflict = (await world.jobs.get("a-job")).row.conflict
    assert conflict is not None
    assert conflict["fields"] == {"schedule": lost}
    assert (await world.sync()).conflicts == {"a-job": {"schedule": lost}}


async def test_an_edit_that_restores_the_earlier_value_is_imported_after_a_crash(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first import was committed, but its process died before it recorded the agreement."""
    await world.jobs.add("a-job", every="1h", prompt="First")
    await world.sync()
    before = (await world.jobs.get("a-job")).job.parameters()
    await world.deployments.edit("a-job", parameters=before | {"prompt": "Second"})

    async def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(reconcile_job, "_push", dies)
        with pytest.raises(KeyboardInterrupt):
            await world.sync()
    assert (await world.jobs.get("a-job")).job.parameters()["prompt"] == "Second"
    await world.deployments.edit("a-job", parameters=before)
    assert (await world.sync()).conflicts == {}
    assert (await world.jobs.get("a-job")).job.parameters() == before
    assert (await world.deployments.get("a-job")).parameters == before


async def test_an_edit_made_during_an_import_is_imported_too(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The value of the first edit is incomplete, so the import is followed by a write."""
    await world.jobs.add("a-job", every="1h", prompt="First")
    await world.sync()
    before = (await world.jobs.get("a-job")).job.parameters()
    incomplete = before | {"prompt": "Second", "notify": {}}
    await world.deployments.edit("a-job", parameters=incomplete)
    real = import_edits.import_edits

    async def edited_again(*given: Any) -> Any:
        try:
            return await real(*given)
        finally:
            await world.deployments.edit("a-job", parameters=before)
            monkeypatch.undo()

    monkeypatch.setattr(reconcile_job, "import_edits", edited_again)
    assert (await world.sync()).conflicts == {}
    assert (await world.jobs.get("a-job")).job.parameters() == before
    assert (await world.deployments.get("a-job")).parameters == before


@pytest.mark.slow
async def test_a_second_conflict_in_another_field_is_added_to_the_first(world: Any) -> None:
    lost = await disputed(world)
    await world.sync()
    job = await world.jobs.get("a-job")
    theirs = job.job.parameters() | {"prompt": "Theirs"}
    await world.deployments.edit("a-job", parameters=theirs)
    await world.jobs.edit("a-job", prompt="Ours")
    await world.sync()
    (shown,) = await conflicts.list_conflicts()
    assert {name: versions.prefect for name, versions in shown.fields.items()} == {
        "schedule": lost,
        "parameters": theirs,
    }


@pytest.mark.slow
async def test_a_second_conflict_in_the_same_field_keeps_the_first_version(world: Any) -> None:
    lost = await disputed(world)
    await world.sync()
    (shown,) = await conflicts.list_conflicts()
    await world.deployments.edit_schedule(
        "a-job", active=True, schedule=CRON | {"cron": "0 11 * * *"}
    )
    await world.jobs.edit("a-job", every="3h")
    report = await world.sync()
    assert report.conflicts["a-job"]["schedule"]["cron"] == "0 11 * * *"
    (again,) = await conflicts.list_conflicts()
    assert again.fields["schedule"].prefect == lost
    assert again.at == shown.at


async def test_prefer_prefect_applies_prefects_version_and_clears_the_conflict(world: Any) -> None:
    await disputed(world)
    result = await service.sync("prefect")  # finds and decides the conflict in one call
    assert isinstance(result, service.DecidedSyncReport)
    assert (result.decided, list(result.conflicts)) == (["a-job"], ["a-job"])
    job = await world.jobs.get("a-job")
    assert job.job.schedule == Cron(expr="0 9 * * *", timezone="UTC")
    assert (job.revision.source, job.row.conflict) == ("prefect", None)
    assert (await world.deployments.get("a-job")).schedules[0].schedule.cron == "0 9 * * *"
    assert await conflicts.list_conflicts() == []
    assert (await world.sync()).writes == 0


async def test_prefer_ledger_for_one_job_clears_only_its_conflict(world: Any) -> None:
    for name in ("a-job", "other"):
        await disputed(world, name)
    result = await service.sync("ledger", "a-job")
    assert isinstance(result, service.DecidedSyncReport)
    assert result.decided == ["a-job"]
    assert isinstance((await world.jobs.get("a-job")).job.schedule, Every)
    assert [each.job for each in await conflicts.list_conflicts()] == ["other"]


@pytest.mark.parametrize(
    ("prefer", "ref", "word"),
    [("both", None, "ledger or prefect"), (None, "a-job", "prefer"), ("ledger", "calm", "no conf")],
)
@pytest.mark.slow
async def test_an_invalid_decision_is_refused(
    world: Any, prefer: str | None, ref: str | None, word: str
) -> None:
    await world.jobs.add("calm", every="1h")
    await disputed(world)
    with pytest.raises(InvalidInput, match=word):
        await service.sync(prefer, ref)
    assert len(await conflicts.list_conflicts()) == (ref == "calm")


async def test_an_invalid_version_in_prefect_is_kept_and_cannot_be_preferred(world: Any) -> None:
    await world.jobs.add("a-job", every="1h", prompt="Say so")
    await world.sync()
    await world.deployments.edit(
        "a-job", enforce_parameter_schema=False, parameters={"prompt": " "}
    )
    refused = (await world.sync()).refused
    assert "a-job" in refused
    (shown,) = await conflicts.list_conflicts()
    assert shown.fields["parameters"].invalid == refused["a-job"]
    assert shown.fields["parameters"].prefect == {"prompt": " "}
    with pytest.raises(InvalidInput, match="prompt"):
        await service.sync("prefect", "a-job")
    result = await service.sync("prefect")
    assert isinstance(result, service.DecidedSyncReport)
    assert (result.decided, list(result.refused)) == ([], ["a-job"])
    assert await conflicts.list_conflicts() == [shown]
    assert (await world.jobs.get("a-job")).job.action.prompt == "Say so"

    await world.deployments.edit("a-job", parameters={"prompt": "Say more"})
    assert (await world.sync()).pulled == ["a-job"]
    assert await conflicts.list_conflicts() == []


async def test_a_losing_schedule_that_no_job_supports_cannot_be_preferred(world: Any) -> None:
    await world.jobs.add("a-job", every="1h")
    await world.sync()
    rule = "DTSTART:20260101T090000\nRRULE:FREQ=MONTHLY;BYDAY=2MO"
    await world.deployments.edit_schedule(
        "a-job", active=True, schedule={"rrule": rule, "timezone": "UTC"}
    )
    await world.jobs.edit("a-job", every="2h")
    await world.sync()
    with pytest.raises(InvalidInput, match="rrule"):
        await service.sync("prefect", "a-job")
    assert isinstance((await world.jobs.get("a-job")).job.schedule, Every)


async def test_a_job_that_is_edited_during_the_reconcile_is_compared_again(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A person edits the job between the comparison and the write; the newest version wins."""
    await disputed(world)
    deployment = await world.deployments.get("a-job")
    stale = await world.jobs.get("a-job")
    await world.jobs.edit("a-job", every="3h")
    await reconcile.reconcile_job(world.ledger, world.client, stale, deployment, ReconcileReport())
    held = (await world.deployments.get("a-job")).schedules[0].schedule
    assert held.interval.total_seconds() == 3 * 3600


async def test_an_edit_in_the_ledger_during_an_import_is_not_overwritten(world: Any) -> None:
    """A person edits the same field after the job was read, so the edits are a conflict."""
    await world.jobs.add("a-job", every="1h")
    await world.sync()
    await world.deployments.edit_schedule("a-job", active=True, schedule=CRON)
    deployment = await world.deployments.get("a-job")
    stale = await world.jobs.get("a-job")
    await world.jobs.edit("a-job", every="3h")
    report = ReconcileReport()
    await reconcile.reconcile_job(world.ledger, world.client, stale, deployment, report)
    assert (list(report.conflicts), report.pulled) == (["a-job"], [])
    assert (await world.jobs.get("a-job")).job.schedule.every.total_seconds() == 3 * 3600
