"""The life of a service: installed, each process killed in turn, rebooted, stopped, uninstalled.

A stand-in for systemd (`tests.stand_in_manager`) follows the lines of the units; what a user sees
is printed (`pytest -s`).
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from daybook.clock import SYSTEM_CLOCK
from daybook.home import Home
from daybook.processes import proc
from tests import sentences
from tests.chaos.jobs_of_up import STEP, check_outcomes
from tests.e2e.first_light import environment
from tests.servers import free_port, migrate
from tests.stand_in_manager import Machine

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux's"),
]

PATIENCE_SECONDS = 900.0


def _parent_of_the_runs(worker: int) -> int:
    """Return the pid of the worker's process that starts its runs, 0 if there is none now."""
    head = proc.find(worker)
    for each in proc.process_tree(head) if head is not None else ():
        with suppress(FileNotFoundError):  # it has ended
            if b"daybook.worker.parent" in Path(f"/proc/{each.pid}/cmdline").read_bytes():
                return each.pid
    return 0


class ServiceOfHome:
    """A home on a machine with a stand-in manager, and the commands of its user."""

    def __init__(self, folder: Path) -> None:
        self.home = migrate(Home(folder / "home"))
        self.machine = Machine(folder / "manager", folder / "config")
        self.effects, self.ledger = folder / "effects", self.home.path / "ledger.db"
        self.home.service_environment.write_text(
            f"DAYBOOK_TIMEZONE=UTC\nDAYBOOK_WEB_PORT={free_port()}\n"
        )
        self._variables = environment(self.home.path) | self.machine.variables
        self._folder = folder

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "daybook", *words],
            env=self._variables,
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def shows(self, *words: str, exits: int = 0) -> str:
        """Run a command, print what its user sees, and return it."""
        done = self.run(*words)
        print(f"$ daybook {' '.join(words)}\n{done.stdout}{done.stderr}")
        assert done.returncode == exits, done
        return done.stdout + done.stderr

    def until_a_run_succeeds(self) -> None:
        """Wait until a run of the job `ten` succeeds that is due from now on."""
        now, end = SYSTEM_CLOCK.now(), time.monotonic() + PATIENCE_SECONDS
        query = (
            "SELECT count(*) FROM runs JOIN jobs ON jobs.id = runs.job_id"
            " WHERE jobs.name = 'ten' AND runs.status = 'succeeded' AND due >= ?"
        )
        found = 0
        with closing(sqlite3.connect(f"file:{self.ledger}?mode=ro", uri=True)) as connection:
            while not found:
                assert time.monotonic() < end, self.run("runs", "ten").stdout
                signal.sigtimedwait([], 0.2)
                (found,) = connection.execute(query, [now.isoformat(" ")[:26]]).fetchone()

    def pids(self) -> dict[str, int]:
        """Return the processes of the service that a kill can hit, by name."""
        running = self.home.running() or {}
        found = {each["name"]: int(each["pid"]) for each in running.get("children", [])}
        if "worker" in found:
            found["parent of the runs"] = _parent_of_the_runs(found["worker"])
        for name, unit in (("up", self.name), ("command server", f"{self.name}-commands")):
            found[name] = self.machine.show(unit)["MainPID"]
        return {name: pid for name, pid in found.items() if pid}

    @property
    def name(self) -> str:
        return f"daybook-{self.home.mark}"

    def until_replaced(self, name: str, old: int) -> None:
        end = time.monotonic() + PATIENCE_SECONDS
        while self.pids().get(name, old) == old:
            assert time.monotonic() < end, (name, self.pids())
            signal.sigtimedwait([], 0.1)


@pytest.fixture
def service(pytestconfig: pytest.Config, tmp_path: Path) -> Iterator[ServiceOfHome]:
    # A service refuses a home in a temporary folder, because it has its own ones.
    folder = pytestconfig.cache.mkdir("service-life") / f"{tmp_path.name}-{os.getpid()}"
    folder.mkdir()
    of_home = ServiceOfHome(folder)
    try:
        yield of_home
    finally:
        of_home.machine.cut_power()


KILLED = ["server", "worker", "parent of the runs", "web", "command server", "up"]


def test_the_life_of_a_service(service: ServiceOfHome) -> None:
    assert "Ready" in service.shows("service", "install")
    agent = f"sh -c 'echo x >> {service.effects}'"
    assert service.run("agents", "add", "count", "--command", agent).returncode == 0
    cron = f"*/{STEP.seconds} * * * * *"
    add = ("add", "Go", "--agent", "count", "--name", "ten", "--cron", cron)
    assert service.run(*add).returncode == 0
    service.until_a_run_succeeds()

    for name in KILLED:
        pid, began = service.pids()[name], time.monotonic()
        os.kill(pid, signal.SIGKILL)
        service.until_replaced(name, pid)
        replaced = time.monotonic() - began
        service.until_a_run_succeeds()
        seconds = time.monotonic() - began
        print(f"{name}: another process after {replaced:.1f} s, a run after {seconds:.1f} s")
    shown = service.shows("service", "status")
    assert shown.startswith("running")
    assert "restarts  1" in shown
    problems = json.loads(service.run("status", "--json").stdout)["problems"]
    print("\n".join(sentences.of(problems)))

    service.machine.cut_power()
    began = time.monotonic()
    service.machine.boot()
    service.until_a_run_succeeds()
    print(f"reboot: a run after {time.monotonic() - began:.1f} s")

    everything = service.machine.processes()
    assert len(everything) > len(KILLED)
    service.shows("down")
    left = [each for each in everything if proc.find(each.pid, each.started) is not None]
    assert left == []
    service.shows("service", "status", exits=1)

    assert "Stopped" in service.shows("service", "uninstall")
    service.shows("service", "status", exits=3)
    assert list(service.machine.units.glob("daybook*")) == []
    effects = len(service.effects.read_text().splitlines())
    print(check_outcomes(service.ledger, effects))
