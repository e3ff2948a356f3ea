"""The report about deployments that cannot be adopted as jobs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from daybook.errors import InvalidInput
from daybook.jobs.actions import ACTIONS
from daybook.prefect import adoption, parameter_schema
from daybook.prefect.deployments import ListedDeployment
from daybook.prefect.report import ReconcileReport

pytestmark = pytest.mark.anyio


def listed(id_: str, **raw: Any) -> ListedDeployment:
    return ListedDeployment({"id": id_, "name": "on-demand", "tags": [], **raw}, id_.encode())


async def test_refused_deployments_with_the_same_name_are_reported_separately(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def refused(*_: object) -> str:
        raise InvalidInput("prompt", "is missing")

    monkeypatch.setattr(adoption, "_adopt", refused)
    of_flows = [listed(kind, entrypoint=parameter_schema.entrypoint(kind)) for kind in ACTIONS]
    without_one = listed("1234567890", entrypoint=None, work_pool_name=parameter_schema.WORK_POOL)
    nowhere: Any = cast(Any, SimpleNamespace(id="ledger"))
    report = ReconcileReport()
    await adoption.adopt_deployments(nowhere, nowhere, [*of_flows, without_one], {}, report)
    assert sorted(report.foreign) == sorted(
        [*(f"{kind}/on-demand" for kind in ACTIONS), "on-demand (12345678)"]
    )
