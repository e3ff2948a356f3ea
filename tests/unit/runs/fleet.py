"""Records of workers that do not exist."""

from __future__ import annotations

from typing import Any

from daybook.runs.workers import WorkerRecord
from tests.world import World


def record_of(world: World, name: str, **fields: Any) -> WorkerRecord:
    """Return the record of a worker that was seen just now."""
    values = {
        "host": "here",
        "pid": 1,
        "holder": f"here:1:{name}",
        "version": "1.0",
        "prefect_version": "3.9",
        "limit": None,
        "queues": [],
        "labels": [],
        "memory_bytes": 100_000_000,
        "clock_ahead_seconds": 0.0,
        "started_at": world.clock.now(),
        "seen_at": world.clock.now(),
    }
    return WorkerRecord.model_validate({"name": name, **values, **fields})
