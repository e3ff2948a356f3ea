"""Shorter intervals than a user's, for tests that would otherwise wait for them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from types import ModuleType

import pytest

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
        leftover_check=3,
        stop_grace=2,
        runs_interval=1,
        jobs_interval=2,
    )
)
"""For processes whose leases a test lets expire (`SHORT.environment()`). Long enough for renewals
in time, also if other work keeps both cores busy.
"""


def change(monkeypatch: pytest.MonkeyPatch, module: ModuleType, **seconds: float) -> None:
    """Use other intervals for the code of ``module`` in this process, until the end of the test."""
    monkeypatch.setattr(module, "TIMING", replace(vars(module)["TIMING"], **_of(**seconds)))
