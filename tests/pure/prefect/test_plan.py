"""The plan of a round: each row of the table of `plan`, with a job and its deployment."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.responses import DeploymentResponse

from daybook.jobs.store import StoredJob
from daybook.prefect import links, projection
from daybook.prefect.diff import Difference
from daybook.prefect.plan import Disable, Import, Plan, Sides, Write, make_plan
from tests.pure.prefect.test_projection import stored

OURS = projection.ledger_tag("ours")


def job(deployment_id: str | None = "d", synced: dict[str, Any] | None = None) -> StoredJob:
    """Return a job on demand, which agreed with its deployment unless ``synced`` is given."""
    made = stored(on_demand=True, tags=["mine"])
    made.row.deployment_id = deployment_id
    made.row.synced = projection.of_job(made, "ours").as_dict() if synced is None else synced
    return made


def deployment(of: StoredJob, **changed: Any) -> DeploymentResponse:
    ours = projection.of_job(of, "ours")
    fields = {"parameters": ours.parameters, "tags": ours.tags, "description": ours.description}
    return DeploymentResponse.model_validate(
        {"id": uuid4(), "name": "a-job", "flow_id": uuid4(), "schedules": [], **fields, **changed}
    )


@pytest.mark.parametrize(
    ("deployment_id", "is_needed", "expected"),
    [
        ("d", True, Write()),
        (None, True, Write()),
        ("d", False, Disable(links.DELETED_REASON)),
        (None, False, None),
    ],
)
def test_a_missing_deployment_is_created_only_if_it_is_needed(
    deployment_id: str | None, is_needed: bool, expected: Plan | None
) -> None:
    assert make_plan(Sides(job(deployment_id), None, is_needed), "ours") == expected


@pytest.mark.parametrize(
    ("changed", "edits"),
    [
        ({}, ()),
        ({"paused": True}, ("enabled",)),
        ({"tags": ["theirs", OURS], "paused": True}, ("enabled", "tags")),
    ],
)
def test_a_deployment_is_imported_if_it_has_edits_and_else_written(
    changed: dict[str, Any], edits: tuple[str, ...]
) -> None:
    known = job()
    found = deployment(known, **changed)
    expected = Import(found, Difference(edits)) if edits else Write()
    assert make_plan(Sides(known, found), "ours") == expected


def test_a_deployment_of_another_ledger_disables_the_job() -> None:
    found = deployment(job(), tags=["daybook:other"], paused=True)
    assert make_plan(Sides(job(), found), "ours") == Disable(links.TAKEN_REASON)


def test_edits_are_imported_once_and_then_the_other_fields_are_written() -> None:
    known = job()
    found = deployment(known, paused=True)
    imported = projection.of_deployment(found)
    assert make_plan(Sides(known, found), "ours", imported) == Write()
    again = deployment(known, tags=["theirs", OURS])
    plan = make_plan(Sides(known, again), "ours", imported)
    assert plan == Import(again, Difference(("tags",)))


def test_after_the_loss_of_a_deployment_all_differences_of_a_new_one_are_edits() -> None:
    lost = job(None, links.NO_DEPLOYMENT)
    found = deployment(lost, tags=["theirs", OURS])
    assert make_plan(Sides(lost, found), "ours") == Import(found, Difference(("tags",)))
    lost.row.synced = None  # nothing was reconciled yet
    conflict = Difference(conflicts={"tags": ["theirs", OURS]})
    assert make_plan(Sides(lost, found), "ours") == Import(found, conflict)
