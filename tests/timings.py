"""Shorter intervals than a user's, and timeouts that expire when a test says so."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import timedelta
from types import ModuleType

import pytest
from anyio.lowlevel import checkpoint

from daybook.timing import Timing


def _of(**seconds: float) -> dict[str, timedelta]:
    return {name: timedelta(seconds=each) for name, each in seconds.items()}


SHORT = Timing(
    **_of(
        run_lease=6,
        run_lease_renewal=2,
        run_lease_renewal_delay=1,
        leader_lease=6,
        leader_lease_renewal=2,
        leader_check=1,
        worker_signal=0.5,
        worker_check=0.5,
        worker_record=2,
        leftover_check=3,
        stop_grace=2,
        runs_interval=1,
        jobs_interval=2,
        probe_interval=2,
        max_silence=15,
        prefect_answer=20,
    )
)
"""For processes whose leases a test lets expire (`SHORT.environment()`). Long enough for renewals
in time, also if other work keeps both cores busy.
"""


WAIT_SECONDS = 20.0
"""How long `expire_timeout` waits until the timeout runs."""


async def expire_timeout(seconds: float) -> None:
    """Wait until a timeout of ``seconds`` runs, and advance the event loop's clock to its end.

    For a timeout that must expire after something else has happened: give it so many seconds that
    it cannot expire by itself, wait for the event, and let it expire.
    """
    loop = asyncio.get_running_loop()
    now, timers = loop.time, vars(loop)["_scheduled"]
    limit = time.monotonic() + WAIT_SECONDS
    while True:
        assert time.monotonic() < limit, f"no timeout of {seconds:g} s runs"
        left = [each.when() - now() for each in timers if not each.cancelled()]
        if left := [each for each in left if seconds / 2 < each <= seconds]:
            break
        await checkpoint()
    vars(loop)["time"] = lambda: now() + max(left)


def change(monkeypatch: pytest.MonkeyPatch, module: ModuleType, **seconds: float) -> None:
    """Use other intervals for the code of ``module`` in this process, until the end of the test."""
    monkeypatch.setattr(module, "TIMING", replace(vars(module)["TIMING"], **_of(**seconds)))
