from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from daybook.diagnosis import status
from daybook.diagnosis.checks import home as machine
from daybook.finding import passed
from daybook.home import Home
from daybook.ledger.engine import Ledger
from daybook.operations.home_lock import ChildEntry
from daybook.processes import proc


def test_a_correct_home_has_no_problems(daybook_home: Home) -> None:
    assert machine.settings() == machine.modes() == machine.leftovers() == []
    assert machine.home() == [passed("home", str(daybook_home.path))]


def test_the_fix_of_a_wrong_setting_unsets_the_variable_or_edits_the_file(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_TIMEZONE", "Mars/Olympus")
    (problem,) = machine.settings()
    assert "Mars/Olympus" in problem.message
    assert problem.fix == "unset DAYBOOK_TIMEZONE"
    monkeypatch.delenv("DAYBOOK_TIMEZONE")
    file = daybook_home.path / "config.toml"
    wrong = ('timezone = "Mars/Olympus"\n', "timezone = \n", "[limits.for.scout]\njobs = -1\n")
    for content in wrong:
        file.write_text(content)
        (problem,) = machine.settings()
        assert problem.fix == f"edit {file}"
    assert "limits.for.scout.jobs: -1 is not valid (use 0 or more)" in problem.message
    monkeypatch.setenv("DAYBOOK_LIMITS", "{jobs: 3")
    (problem,) = machine.settings()
    assert (problem.message, problem.fix) == (
        "DAYBOOK_LIMITS: is not valid JSON",
        "unset DAYBOOK_LIMITS",
    )


def test_a_home_that_is_a_file_or_below_one_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a file"
    file.write_text("")
    for home in (file, file / "deeper"):
        monkeypatch.setenv("DAYBOOK_HOME", str(home))
        (problem,) = machine.home()
        assert problem.message == f"{file} is not a folder"
        assert problem.fix.startswith(f"mv '{file}' '{file}.old'")


def test_a_home_that_does_not_exist_yet_has_no_problems_and_is_not_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path / "not" / "yet"))
    assert machine.modes() == machine.leftovers() == []
    (found,) = machine.home()
    assert (found.severity, "not created yet" in found.message) == ("ok", True)
    assert not (tmp_path / "not").exists()


@pytest.mark.skipif(os.getuid() == 0, reason="nothing is closed to root")
def test_a_home_without_permission_is_a_problem(daybook_home: Home) -> None:
    daybook_home.path.chmod(0o500)
    try:
        (problem,) = machine.home()
    finally:
        daybook_home.path.chmod(0o700)
    assert "is not writable" in problem.message
    assert "chown" in problem.fix


def test_the_fix_of_open_modes_restricts_them(daybook_home: Home) -> None:
    async def make() -> None:
        async with Ledger(f"sqlite+aiosqlite:///{daybook_home.path / 'ledger.db'}"):
            pass

    asyncio.run(make())
    log = daybook_home.logs / "server.log"
    log.write_text("")
    log.chmod(0o600)
    assert machine.modes() == []
    daybook_home.path.chmod(0o755)
    (daybook_home.path / "ledger.db").chmod(0o640)
    log.chmod(0o604)
    folders, files = machine.modes()
    assert str(daybook_home.path) in folders.message
    assert "ledger.db" in files.message
    assert "server.log" in files.message
    for problem in (folders, files):
        subprocess.run(problem.fix, shell=True, check=True)
    assert machine.modes() == []


def test_children_left_by_a_killed_up_are_reported(daybook_home: Home) -> None:
    child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    try:
        found = proc.find(child.pid)
        assert found is not None
        entries = [
            ChildEntry("worker", child.pid, found.started),
            ChildEntry("server", child.pid, "long ago"),
        ]
        content = {"pid": 1, "children": [vars(entry) for entry in entries]}
        daybook_home.up_file.write_text(json.dumps(content))
        daybook_home.up_file.chmod(0o600)
        (problem,) = machine.leftovers()
        assert problem.message.endswith(f"still running: worker (pid {child.pid})")
        assert problem in asyncio.run(status.status()).problems
    finally:
        child.kill()
        child.wait()
    assert machine.leftovers() == []


def test_kinds_that_are_not_executed_are_a_warning(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_EXECUTION_OFF", "webhook")
    (found,) = machine.settings()
    assert (found.severity, found.message) == ("warning", "execution is switched off for webhook")
