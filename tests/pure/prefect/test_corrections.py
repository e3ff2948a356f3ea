"""The queued Prefect runs that the keeper corrects around a clock change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from prefect.client.schemas.objects import FlowRun

from daybook.jobs.model import new_job
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


MARCH = datetime(2027, 3, 1, 9, tzinfo=UTC)
"""A due time that Prefect leaves out for most lists of days."""


@pytest.mark.parametrize(
    ("expr", "due"),
    [
        ("0 9 1,15,30 * *", MARCH),
        ("0 9 */10 * *", MARCH),
        ("0 9 31-5 * *", MARCH.replace(day=2)),
        ("0 9 30,L * *", datetime(2027, 2, 28, 9, tzinfo=UTC)),
        ("0 9 31,L * *", datetime(2027, 4, 30, 9, tzinfo=UTC)),
        ("0 9 31,L 1-6 *", datetime(2027, 6, 30, 23, 59, tzinfo=UTC)),
    ],
)
def test_the_days_that_prefect_leaves_out_are_compared(expr: str, due: datetime) -> None:
    def end(now: datetime) -> datetime | None:
        job = new_job(now=NOON, prompt="x", cron=expr, timezone="UTC")
        error = corrections._next_error(cast(Any, SimpleNamespace(job=job)), now)
        return error.end if error else None

    for ahead in (timedelta(days=1), timedelta(hours=1), timedelta(minutes=2)):
        found = end(due - ahead)
        assert found is not None
        assert found > due
    assert end(due - timedelta(days=5)) is None
    assert end(due + timedelta(days=5)) is None


@pytest.mark.parametrize("expr", ["0 9 * * *", "0 9 * * 1", "*/5 * * * *"])
def test_a_schedule_without_a_day_of_month_is_not_compared_in_march(expr: str) -> None:
    job = new_job(now=NOON, prompt="x", cron=expr, timezone="UTC")
    stored = cast(Any, SimpleNamespace(job=job))
    assert corrections._next_error(stored, MARCH - timedelta(hours=1)) is None
