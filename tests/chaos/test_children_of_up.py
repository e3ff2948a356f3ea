"""The children of `daybook up` that hang or are killed, and a machine that is suspended."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from daybook.processes import proc
from daybook.timing import TIMING
from tests.chaos.jobs_of_up import PATIENCE_SECONDS, CountedUp
from tests.servers import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(600)]

WATCHFUL = replace(TIMING, probe_interval=timedelta(seconds=2), max_silence=timedelta(seconds=15))
CHILDREN = {"server", "web", "worker", "command server"}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CountedUp]:
    variables = WATCHFUL.environment() | {"DAYBOOK_WEB_PORT": str(free_port())}
    home, folder = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("empty")
    running = CountedUp(home, folder, home / "ledger.db", variables)
    try:
        running.begin()
        yield running
    finally:
        running.end()


def pids(up: CountedUp) -> dict[str, int]:
    return {each["name"]: each["pid"] for each in up.facts()["children"]}


def until_replaced(up: CountedUp, old: dict[str, int]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while pids(up).keys() != CHILDREN or set(pids(up).items()) & set(old.items()):
        assert time.monotonic() < end, (old, pids(up))
        up.passes(0.2)


def test_children_that_are_stopped_are_replaced(up: CountedUp) -> None:
    until_replaced(up, {})
    before = pids(up)
    for pid in before.values():
        os.kill(pid, signal.SIGSTOP)
    for name in before:
        up.until_said(f"The {name} did not answer for")
    until_replaced(up, before)
    up.until_a_run_succeeds()
    found = up.problems()
    for name in before:
        assert any(f"the {name} was restarted" in each for each in found), found


def test_children_that_are_killed_in_turn_come_back(up: CountedUp) -> None:
    for name, pid in pids(up).items():
        os.kill(pid, signal.SIGKILL)
        up.until_said(f"The {name} was ended by SIGKILL")
        until_replaced(up, {name: pid})
    up.until_a_run_succeeds()


def test_after_a_suspension_nothing_is_replaced_and_each_due_time_has_one_outcome(
    up: CountedUp,
) -> None:
    before = pids(up)
    head = proc.find(up.process.pid)
    assert head is not None
    everything = proc.process_tree(head)
    proc.send_signal(everything, signal.SIGSTOP)
    up.passes(75.0)  # longer than a silence, and than the time for which a run is on time
    proc.send_signal(everything, signal.SIGCONT)
    up.until_a_run_succeeds()
    assert pids(up) == before
    up.check_outcomes()
