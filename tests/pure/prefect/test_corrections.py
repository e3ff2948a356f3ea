"""The queued Prefect runs that the keeper corrects around a clock change."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import FlowRun

from daybook.prefect import corrections, flow_runs

NOON = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)


@pytest.mark.anyio
async def test_runs_of_a_schedule_added_in_prefect_are_not_corrected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own_id, theirs = uuid4(), uuid4()

    def made_by(schedule: UUID, minute: int) -> FlowRun:
        return FlowRun.model_validate(
            {
                "flow_id": uuid4(),
                "auto_scheduled": True,
                "expected_start_time": NOON.replace(minute=minute),
                "created_by": {"id": schedule, "type": "SCHEDULE", "display_value": "one"},
            }
        )

    async def queued(*_: Any) -> list[FlowRun]:
        return [made_by(own_id, 1), made_by(theirs, 2)]

    monkeypatch.setattr(flow_runs, "read_queued", queued)

    found = await corrections._queued(cast(Any, None), "d", NOON, {str(theirs)})

    assert list(found) == [NOON.replace(minute=1)]
