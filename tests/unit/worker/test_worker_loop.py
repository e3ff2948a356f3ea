"""The leases of a worker's runs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from daybook.ledger.engine import Ledger
from daybook.worker import worker_loop
from daybook.worker.supervision import SupervisedRun
from daybook.worker.worker_loop import WorkerConfig, WorkerLoop
from tests.timings import change
from tests.world import so

pytestmark = pytest.mark.anyio


class Run:
    """What a worker watches; ``looks`` counts how often somebody asked whose it is."""

    run_id = "r"
    policy = SimpleNamespace(on_lost="rerun")

    def __init__(self) -> None:
        self.looks = 0
        self.stopped = list[object]()

    @property
    def ours(self) -> bool:
        self.looks += 1
        return True

    def stop(self, cause: object) -> None:
        self.stopped.append(cause)


async def test_the_first_run_after_an_idle_hour_is_not_taken_for_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch, worker_loop, lease_check=0.01)
    nobody, run = cast(Any, SimpleNamespace()), Run()
    place = WorkerConfig("here", "pool", None, [], None, 1, 1.0)
    async with Ledger(f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}") as ledger:
        at_work = WorkerLoop(ledger, nobody, nobody, place, sync=nobody, configure=nobody)
        idle_since = at_work._renewed = at_work._renewed - 3600.0
        renewing = asyncio.create_task(at_work._renew())

        async def looked() -> bool:
            return at_work._renewed > idle_since

        async def looked_at_it() -> bool:
            return run.looks >= 2

        try:
            assert await so(looked, 30.0)
            at_work._watched["f"] = cast(SupervisedRun, run)
            assert await so(looked_at_it, 30.0)
        finally:
            renewing.cancel()
            await asyncio.wait({renewing})
    assert run.stopped == []
