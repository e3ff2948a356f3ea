"""Deployments that cannot be jobs are each named, whatever their names."""

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


async def test_deployments_of_one_name_are_each_named(monkeypatch: pytest.MonkeyPatch) -> None:
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
