"""Timing: intervals and leases of Daybook's processes, and their consistency."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta

import pytest

from daybook.timing import TIMING, TIMING_VARIABLE
from daybook.tools.connection import OPEN_TIMEOUT_SECONDS
from tests.timings import SHORT

SECOND = timedelta(seconds=1)


def test_without_environment_variables_the_timing_is_the_default() -> None:
    compared = "from daybook.timing import TIMING, Timing; print(Timing() == TIMING)"
    variables = {name: value for name, value in os.environ.items() if name != TIMING_VARIABLE}
    command = [sys.executable, "-c", compared]
    assert subprocess.check_output(command, env=variables, text=True) == "True\n"


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"poll": timedelta()}, "poll must be positive"),
        ({"run_lease_renewal": 30 * SECOND}, "run_lease_renewal is not shorter than half"),
        ({"leader_lease": 10 * SECOND}, "leader_lease_renewal is not shorter than half"),
        ({"subscription_lease": SECOND}, "subscription_lease_renewal is not shorter than half"),
        ({"run_lease_renewal_delay": 40 * SECOND}, "run_lease ends before a renewal"),
        ({"stop_grace": 30 * SECOND}, "stop_grace leaves no time to renew run_lease"),
        ({"worker_record": 30 * SECOND}, "worker_record is not shorter than half of run_lease"),
        ({"worker_signal": 30 * SECOND}, "worker_signal is not shorter than half of run_lease"),
    ],
)
def test_times_that_contradict_each_other_are_refused(
    wrong: dict[str, timedelta], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        replace(TIMING, **wrong)


def test_the_timeout_for_opening_a_tool_server_is_shorter_than_the_run_lease() -> None:
    assert timedelta(seconds=OPEN_TIMEOUT_SECONDS) < TIMING.run_lease


def test_a_process_and_its_children_use_the_timing_of_the_environment() -> None:
    """The child process inherits the environment variables."""
    shown = "from daybook.timing import TIMING; print(TIMING.environment())"
    starts = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {shown!r}])"
    for variables in (SHORT.environment(), TIMING.environment()):
        output = subprocess.check_output([sys.executable, "-c", starts], env=variables, text=True)
        assert output.strip() == str(variables)
