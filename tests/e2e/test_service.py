"""The service, as a service manager starts it: its units' lines, its reports, a terminal beside it.

A stand-in follows the lines of the units; the confinement is systemd's own, and is not tried here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from daybook.home import Home
from daybook.operations import service, service_units
from tests.e2e.first_light import environment
from tests.e2e.test_command_server import SERVED
from tests.stand_in import StandIn, unit_values

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(420),
    pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux's"),
]


@pytest.fixture
def units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Yield the units of a service of a home whose name systemd could misread."""
    home = Home(tmp_path / "a home 100%").make()
    monkeypatch.setenv("DAYBOOK_HOME", str(home.path))
    monkeypatch.setattr(service, "TEMPORARY_FOLDERS", ())
    home.service_environment.write_text("DAYBOOK_TIMEZONE=Asia/Tokyo\n")
    yield list(service_units.systemd_units(service.define(system=False)).values())


def test_the_service_reports_and_a_terminal_shows_it(units: list[str], tmp_path: Path) -> None:
    up_unit, commands_unit = units
    home = Home(Path(os.environ["DAYBOOK_HOME"]))
    variables = {**environment(home.path), "DAYBOOK_TIMEZONE": "Asia/Tokyo"}
    daybook = [sys.executable, "-m", "daybook"]

    with StandIn(up_unit, tmp_path, watchdog_seconds=2.0) as started:
        started.until("READY=1", within=180)
        started.until("WATCHDOG=1", within=30)
        running = home.running() or {}
        assert (running["pid"], running["started_by"]) == (started.process.pid, "service")
        assert "command server" not in [each["name"] for each in running["children"]]

        with subprocess.Popen(
            [*daybook, "up", "--json", "--no-browser"],
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as terminal:
            assert terminal.stdout is not None and terminal.stderr is not None
            ready = json.loads(terminal.stdout.readline())["ready"]
            assert (ready["started_by"], ready["api_url"]) == ("service", running["api_url"])
            add = [*daybook, "add", "What is new?", "--name", "shown", "--on-demand", "--json"]
            added = subprocess.run(add, env=variables, check=True, capture_output=True, text=True)
            assert json.loads(added.stdout)["schedule"]["kind"] == "on_demand"
            subprocess.run([*daybook, "run", "shown"], env=variables, check=True)
            shown = ""
            while shown != "shown":
                shown = json.loads(terminal.stdout.readline())["run"]["job"]
            terminal.send_signal(signal.SIGINT)
            assert terminal.wait(30) == 0
            assert "already running as a service" in terminal.stderr.read()
        started.until("WATCHDOG=1", within=30)  # Ctrl-C has ended only the view

        _serves_commands(commands_unit, variables)

        # The reports are read meanwhile, because a full socket drops them.
        with subprocess.Popen([*daybook, "down"], env=variables) as down:
            started.until("STOPPING=1", within=30)
            assert down.wait(60) == 0
        assert started.process.wait(30) == 0
    assert home.running() is None


def _serves_commands(unit: str, variables: dict[str, str]) -> None:
    """Check that the unit's process runs a command of a terminal."""
    values = unit_values(unit)
    own = dict(each.partition("=")[::2] for line in values["Environment"] for each in line)
    server = subprocess.Popen(
        values["ExecStart"][0],
        env={"HOME": os.environ["HOME"], **own},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline().startswith("Ready for commands")
        client = [sys.executable, "-c", SERVED, "list", "--json"]
        done = subprocess.run(client, env=variables, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert "shown" in [each["name"] for each in json.loads(done.stdout)]
    finally:
        server.terminate()
        server.communicate()
