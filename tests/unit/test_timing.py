"""The times by which the processes of Daybook wait for each other fit together."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import timedelta

import pytest

from daybook.timing import TIMING, Timing
from tests.timings import SHORT

SECOND = timedelta(seconds=1)


def test_of_a_user_are_the_defaults() -> None:
    assert Timing() == TIMING


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"poll": timedelta()}, "poll must be positive"),
        ({"run_lease_renewal": 30 * SECOND}, "run_lease_renewal is not shorter than half"),
        ({"leader_lease": 20 * SECOND}, "leader_lease_renewal is not shorter than half"),
        ({"subscription_lease": SECOND}, "subscription_lease_renewal is not shorter than half"),
        ({"run_lease_renewal_delay": 40 * SECOND}, "run_lease ends before a renewal"),
        ({"stop_grace": 30 * SECOND}, "stop_grace leaves no time to renew run_lease"),
        ({"worker_signal": 30 * SECOND}, "worker_signal is not shorter than half of run_lease"),
    ],
)
def test_times_that_contradict_each_other_are_refused(
    wrong: dict[str, timedelta], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        replace(TIMING, **wrong)


def test_a_process_and_what_it_starts_have_the_timing_of_its_environment() -> None:
    """The second one inherits it."""
    shown = "from daybook.timing import TIMING; print(TIMING.environment())"
    starts = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {shown!r}])"
    for variables in (SHORT.environment(), TIMING.environment()):
        told = subprocess.check_output([sys.executable, "-c", starts], env=variables, text=True)
        assert told.strip() == str(variables)
