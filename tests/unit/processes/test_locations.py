"""Folders that hold secrets: gone after use, and swept where their maker was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from daybook.processes import locations

MAKER = """
import signal, sys
from daybook.processes import locations
with locations.temporary_folder("daybook-mcp-") as there:
    open(there + "/mcp.json", "w").write("a secret")
    print(there, flush=True)
    signal.pause()
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where folders are made, by this process and its children."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def maker(here: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds such a folder and says where it is."""
    with subprocess.Popen([sys.executable, "-c", MAKER], stdout=subprocess.PIPE, text=True) as made:
        yield made
        made.kill()


def test_a_folder_is_swept_once_its_maker_was_killed_and_not_before(
    here: Path, maker: subprocess.Popen[str]
) -> None:
    assert maker.stdout is not None
    there = Path(maker.stdout.readline().strip())
    assert there.parent == here
    assert there.stat().st_mode & 0o777 == 0o700
    assert locations.remove_abandoned() == 0
    assert (there / "mcp.json").exists()
    maker.send_signal(signal.SIGKILL)
    maker.wait()
    assert locations.remove_abandoned() == 1
    assert list(here.iterdir()) == []


def test_a_sweep_leaves_what_this_process_holds_and_what_is_not_ours(here: Path) -> None:
    (here / "daybook-tool-kept").mkdir()
    (here / "other.held").mkdir()
    (here / "elsewhere").mkdir()
    (here / "daybook-link.held").symlink_to(here / "elsewhere")
    with locations.run_folder("", "daybook-agent-") as there:
        assert locations.remove_abandoned() == 0
        assert os.path.basename(there).startswith("daybook-agent-")
    left = {"daybook-tool-kept", "other.held", "elsewhere", "daybook-link.held"}
    assert {each.name for each in here.iterdir()} == left


def test_a_folder_of_another_user_is_left(here: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can make one")
    (here / "daybook-agent-x.held").mkdir()
    os.chown(here / "daybook-agent-x.held", 65_534, 65_534)
    assert locations.remove_abandoned() == 0
    assert (here / "daybook-agent-x.held").exists()


def test_a_folder_goes_also_where_a_program_closed_a_part_of_it(here: Path) -> None:
    with locations.temporary_folder("daybook-agent-") as there:
        (Path(there) / "closed").mkdir()
        (Path(there) / "closed" / "file").touch()
        (Path(there) / "closed").chmod(0o500)
    assert list(here.iterdir()) == []


def _script(place: Path) -> str:
    place.parent.mkdir(exist_ok=True)
    place.write_text("#!/bin/sh\n")
    place.chmod(0o700)
    return str(place)


def test_a_program_is_kept_with_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = _script(tmp_path / "bin" / "agent")
    _script(tmp_path / "work" / "here")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "bin")
    beside = os.path.join(os.path.dirname(sys.executable), "python")
    for command, work_dir, expected in (
        (["agent", "-x"], "", [script, "-x"]),
        (["python"], "", [beside]),
        (["./agent"], "", [script]),
        (["~/bin/agent"], "", ["~/bin/agent"]),
        ([script], "", [script]),
        (["./here"], "~/work", ["./here"]),
    ):
        assert locations.resolve_command(command, work_dir) == (expected, "")


@pytest.mark.parametrize(
    ("name", "work_dir"), [("no-such-agent", ""), ("./agent", ""), ("/x/y", ""), ("./a", "/tmp")]
)
def test_a_program_that_is_not_there_is_kept_as_it_is_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, work_dir: str
) -> None:
    monkeypatch.chdir(tmp_path)
    command, warning = locations.resolve_command([name, "-x"], work_dir)
    assert command == [name, "-x"]
    assert warning.startswith("there is no program ")
