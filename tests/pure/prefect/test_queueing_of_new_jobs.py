"""When Prefect is asked at once to queue the runs of a new deployment."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any, cast
from weakref import WeakKeyDictionary

import pytest

from daybook.prefect import deployment, projection
from daybook.testing import ManualClock
from tests.pure.prefect.test_projection import NOW, stored

pytestmark = pytest.mark.anyio


class RecordingClient:
    """Client of a Prefect that accepts everything; ``paths`` are the requests."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    async def create_flow_from_name(self, name: str) -> str:
        return f"flow {name}"

    async def request(self, method: str, path: str, **_: Any) -> Any:
        self.paths.append(f"{method} {path}")
        return SimpleNamespace(json=lambda: {"id": "d"})


@pytest.mark.parametrize(
    ("fields", "is_new", "seconds", "expected"),
    [
        ({"cron": "30 13 * * *"}, True, 0, False),
        ({"cron": "30 13 * * *"}, False, 0, True),  # a single job is queued at once
        ({"cron": "30 10 * * *"}, True, 0, False),  # in Berlin it is half past ten now
        ({"cron": "31 10 * * *"}, True, 0, True),
        ({"cron": "31 10 * * *"}, True, 60, True),  # was due since the change, and is on time
        ({"cron": "31 10 * * *"}, True, 120, False),  # the audit decides about that due time
        ({"every": "1h"}, True, 0, True),
        ({"every": "2h"}, True, 0, False),
        ({"at": (NOW.replace(microsecond=0) + timedelta(minutes=30)).isoformat()}, True, 0, True),
        ({"at": (NOW.replace(microsecond=0) + timedelta(days=2)).isoformat()}, True, 0, False),
        (
            {"at": (NOW.replace(microsecond=0) + timedelta(minutes=1)).isoformat()},
            True,
            7200,
            True,
        ),  # the claim decides
        ({"every": "5m", "enabled": False}, True, 0, False),
        ({"on_demand": True}, True, 0, False),
    ],
)
async def test_a_new_job_among_many_is_queued_at_once_only_if_it_is_due_soon(
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, Any],
    is_new: bool,
    seconds: int,
    expected: bool,
) -> None:
    clock = ManualClock(NOW + timedelta(seconds=seconds))
    monkeypatch.setattr(deployment, "SYSTEM_CLOCK", clock)
    monkeypatch.setattr(deployment, "_flow_ids", WeakKeyDictionary())
    job, client = stored(**fields), RecordingClient()
    wanted = projection.of_job(job, "l")
    await deployment.write(cast(Any, client), job, wanted, None, is_new=is_new)
    queued = ["POST /deployments/{id}/schedule"] if expected else []
    assert client.paths == ["POST /deployments/", *queued]
