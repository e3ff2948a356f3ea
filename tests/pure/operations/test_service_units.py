"""The texts of a service: systemd's units and launchd's property list, and what is read back."""

from __future__ import annotations

import os
import plistlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from daybook.operations import service_units
from daybook.operations.service_units import SYSTEM_HOME, ServiceDefinition
from tests.stand_in import unit_values

HARD = 'a b%n 100% "x" \\y $HOME ü\\'
"""A folder's name with everything that means something to systemd, as a backslash at the end."""


def service(
    home: str = "/home/ann/.daybook", python: str = "/opt/d b/$x%n/python", **more: object
) -> ServiceDefinition:
    fields = {"variables": {"PATH": f"/opt/{HARD}:/usr/bin"}, "writable": (f"/home/ann/{HARD}",)}
    return ServiceDefinition(Path(home), python, **(fields | more))  # type: ignore[arg-type]


@pytest.mark.parametrize("user", ["", "daybook"])
@pytest.mark.parametrize("home", ["/home/ann/.daybook", f"/data/{HARD}", str(SYSTEM_HOME)])
def test_a_definition_is_read_back_from_its_texts(home: str, user: str) -> None:
    written = service(home, user=user, command_server=not user)
    units = service_units.systemd_units(written)
    assert service_units.parse(units[f"{written.name}.service"], is_system=bool(user)) == written
    (job,) = service_units.launchd_job(written).values()
    read = service_units.parse(job, is_system=bool(user))
    assert read is not None
    assert (read.home, read.python, read.environment, read.user) == (
        written.home,
        written.python,
        written.environment,
        user,
    )


def test_systemd_reads_the_paths_as_they_are() -> None:
    """Read them by systemd's rules, as the documentation of systemd.syntax states them."""
    unit = service_units.systemd_units(service(f"/data/{HARD}"))
    for text in unit.values():
        # Such a line would continue in the next one.
        assert not [line for line in text.splitlines() if line.endswith("\\")]
        values = unit_values(text)
        assert values["ExecStart"][0][:2] == ["/opt/d b/$x%n/python", "-P"]
        environment = [each for line in values["Environment"] for each in line]
        assert environment[0] == f"PATH=/opt/{HARD}:/usr/bin"
        assert f"DAYBOOK_HOME=/data/{HARD}" in environment
    (up, _) = unit.values()
    assert unit_values(up)["ReadWritePaths"] == [[f"-/home/ann/{HARD}"], [f"/data/{HARD}"]]


def test_only_up_and_the_agents_are_confined() -> None:
    up, commands = service_units.systemd_units(service()).values()
    for line in (
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "PrivateTmp=yes",
        "Restart=on-failure",
        "Type=notify",
        "WatchdogSec=120",
        "WantedBy=default.target",
    ):
        assert line in up.splitlines()
    assert not re.search("Private|Protect|NoNew|Restrict|SystemCall|ReadWrite|Capab", commands)
    assert "BindsTo=daybook" in commands


def test_the_service_of_the_system_has_a_state_directory_and_a_user() -> None:
    own = service(str(SYSTEM_HOME), user="daybook")
    up, commands = (each.splitlines() for each in service_units.systemd_units(own).values())
    assert own.name == "daybook"
    assert {"StateDirectory=daybook", "CapabilityBoundingSet=", "User=daybook"} <= set(up)
    assert "WantedBy=multi-user.target" in up
    assert not any(str(SYSTEM_HOME) in each for each in up if each.startswith("ReadWrite"))
    assert "User=daybook" in commands
    other = service("/data/d", user="daybook")
    up = next(iter(service_units.systemd_units(other).values())).splitlines()
    assert 'ReadWritePaths="/data/d"' in up
    assert "StateDirectory=daybook" not in up


def test_an_old_systemd_gets_no_growing_delay() -> None:
    (old, _) = service_units.systemd_units(service(), 252).values()
    (new, _) = service_units.systemd_units(service(), 254).values()
    assert "RestartSteps" not in old
    assert "RestartSec=30" in old
    assert {"RestartSteps=6", "RestartMaxDelaySec=60"} <= set(new.splitlines())


def test_each_home_has_a_name_of_its_own() -> None:
    default = Path("~/.daybook").expanduser()
    assert service(str(default)).name == "daybook"
    names = {service(home).name for home in (str(default), "/a", "/b")}
    assert len(names) == 3


def test_a_text_that_is_not_ours_is_no_service() -> None:
    for text in (
        "",
        "[Service]\nExecStart=/usr/bin/python -P -m daybook worker\n",
        '[Service]\nExecStart="/opt/python" -P -m daybook up --started-by service\n',
        '[Service]\nExecStart="open quote\n',
        "<?xml nothing",
        plistlib.dumps({"Label": "x"}).decode(),
    ):
        assert service_units.parse(text, is_system=False) is None


@pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux's")
@pytest.mark.parametrize(("user", "exposure"), [("", 80), ("root", 40)])
def test_systemd_accepts_the_units(tmp_path: Path, user: str, exposure: int) -> None:
    """`systemd-analyze` reads the units as the manager does, and starts nothing.

    ``exposure`` is the largest exposure that it may find in the unit of `up`, from 0 to 100.
    """
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    home, program = tmp_path / "h %n 'x' $y\\", tmp_path / "b %n $y" / "python"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    written = service(str(home), str(program), user=user)
    files = []
    for name, text in service_units.systemd_units(written, 252).items():
        files.append(tmp_path / name)
        files[-1].write_text(text)
    scope = [] if user else ["--user"]

    def analyze(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["systemd-analyze", *words],
            env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )

    done = analyze(*scope, "verify", *map(str, files))
    ours = [line for line in done.stderr.splitlines() if written.name in line]
    assert (done.returncode, ours) == (0, [])
    judged = analyze("security", "--offline=true", f"--threshold={exposure}", str(files[0]))
    assert judged.returncode == 0, judged.stdout[-300:]
