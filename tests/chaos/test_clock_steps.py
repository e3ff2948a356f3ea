"""The clock of all processes of `up` is set forward and back by hours, and a laptop sleeps."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from benchmarks import shifted_clock
from daybook.processes import proc
from tests.chaos.jobs_of_up import PATIENCE_SECONDS, CountedUp, check_outcomes
from tests.servers import free_port

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(not shifted_clock.compiler(), reason="service absent: cc"),
]

HOUR = timedelta(hours=1)
TEN_MINUTES = timedelta(minutes=10)
POLICIES = ("none", "latest", "all")


class ShiftedUp(CountedUp):
    """`up` on a clock of its own, with a job for each catch-up policy, due every ten minutes."""

    def __init__(self, root: Path) -> None:
        home, folder = root / "home", root / "folder"
        folder.mkdir()
        self._clock = shifted_clock.ShiftedClock(root)
        variables = self._clock.variables | {"DAYBOOK_WEB_PORT": str(free_port())}
        super().__init__(home, folder, home / "ledger.db", variables)

    def begin(self) -> None:
        super().begin()
        count = f"sh -c 'echo x >> {self.folder}/{{job}}'"
        self.daybook_json("agents", "add", "by-job", "--command", count)
        for each in POLICIES:
            words = ("--catch-up", each, "--name", each, "--agent", "by-job")
            self.daybook_json("add", "--cron", "*/10 * * * *", "Go", *words)
        self.daybook_json("add", "Go", "--agent", "by-job", "--name", "asked", "--on-demand")

    def step(self, by: timedelta) -> None:
        """Set the clock of its processes forward or back."""
        self._clock.step(by)
        self.shift = self._clock.shift

    def until_asked_succeeds(self) -> None:
        assert self.daybook_json("run", "asked", "--wait")["status"] == "succeeded"

    def effects_of(self, job: str) -> int:
        file = self.folder / job
        return len(file.read_text().splitlines()) if file.exists() else 0

    def until_all_are_caught_up(self, count: int) -> None:
        """Wait until ``count`` runs of `all` have succeeded."""
        end = time.monotonic() + PATIENCE_SECONDS
        while len(self.daybook_json("runs", "all", "--status", "succeeded", "-n", "200")) < count:
            assert time.monotonic() < end, self.daybook_json("runs", "all")
            self.passes(0.5)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[ShiftedUp]:
    running = ShiftedUp(tmp_path)
    try:
        running.begin()
        yield running
    finally:
        running.end()


def test_each_due_time_has_one_outcome_whatever_the_clock_does(up: ShiftedUp) -> None:
    up.until_a_run_succeeds()

    up.step(HOUR)
    up.until_a_run_succeeds()
    up.until_all_are_caught_up(6)

    up.step(-HOUR)  # an hour whose due times all have their outcome begins again
    up.until_asked_succeeds()
    before = up.effects(), up.effects_of("all"), up.effects_of("latest")
    up.passes(25.0)
    up.until_asked_succeeds()
    up.step(timedelta(minutes=40))
    up.passes(25.0)
    up.until_asked_succeeds()
    assert (up.effects(), up.effects_of("all"), up.effects_of("latest")) == before

    up.step(timedelta(minutes=20))
    up.until_a_run_succeeds()

    head = proc.find(up.process.pid)
    assert head is not None
    everything = proc.process_tree(head)
    children = [each["pid"] for each in up.facts()["children"]]
    proc.send_signal(everything, signal.SIGSTOP)
    up.step(8 * HOUR)  # the lid is closed
    up.passes(5.0)
    proc.send_signal(everything, signal.SIGCONT)
    up.until_a_run_succeeds()
    up.until_all_are_caught_up(9 * 6)
    assert [each["pid"] for each in up.facts()["children"]] == children

    ledger = up.home / "ledger.db"
    up.check_outcomes()
    counts = {
        each: check_outcomes(ledger, up.effects_of(each), each, TEN_MINUTES) for each in POLICIES
    }
    print(counts)
    assert counts["all"]["succeeded"] >= 9 * 6
    assert counts["all"].keys() <= {"succeeded", "waiting", "claimed", "running"}
    assert counts["none"]["missed"] >= 9 * 6 - 2
    assert counts["latest"]["missed"] >= 9 * 6 - 4
