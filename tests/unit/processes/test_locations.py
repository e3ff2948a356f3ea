"""Temporary folders with secrets and their removal, and the stored paths of programs."""

from __future__ import annotations

import os
import re
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
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set the folder for temporary folders of this process and its children."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


@pytest.fixture
def maker(base: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a process that keeps such a folder and prints its path."""
    with subprocess.Popen([sys.executable, "-c", MAKER], stdout=subprocess.PIPE, text=True) as made:
        yield made
        made.kill()


def test_a_folder_is_removed_only_after_its_process_was_killed(
    base: Path, maker: subprocess.Popen[str]
) -> None:
    assert maker.stdout is not None
    there = Path(maker.stdout.readline().strip())
    assert there.parent == base
    assert there.stat().st_mode & 0o777 == 0o700
    assert locations.remove_abandoned() == 0
    assert (there / "mcp.json").exists()
    maker.send_signal(signal.SIGKILL)
    maker.wait()
    assert locations.remove_abandoned() == 1
    assert list(base.iterdir()) == []


def test_the_removal_keeps_folders_in_use_and_those_of_other_programs(base: Path) -> None:
    (base / "daybook-tool-kept").mkdir()
    (base / "other.held").mkdir()
    (base / "elsewhere").mkdir()
    (base / "daybook-link.held").symlink_to(base / "elsewhere")
    with locations.run_folder("", "daybook-agent-") as there:
        assert locations.remove_abandoned() == 0
        assert os.path.basename(there).startswith("daybook-agent-")
    left = {"daybook-tool-kept", "other.held", "elsewhere", "daybook-link.held"}
    assert {each.name for each in base.iterdir()} == left


def test_a_folder_of_another_user_is_not_removed(base: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can make one")
    (base / "daybook-agent-x.held").mkdir()
    os.chown(base / "daybook-agent-x.held", 65_534, 65_534)
    assert locations.remove_abandoned() == 0
    assert (base / "daybook-agent-x.held").exists()


def test_a_folder_with_a_write_protected_part_is_removed(base: Path) -> None:
    with locations.temporary_folder("daybook-agent-") as there:
        (Path(there) / "closed").mkdir()
        (Path(there) / "closed" / "file").touch()
        (Path(there) / "closed").chmod(0o500)
    assert list(base.iterdir()) == []


def test_a_folder_that_cannot_be_made_accessible_is_left(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise PermissionError

    with locations.temporary_folder("daybook-agent-") as there:
        (Path(there) / "of a container").mkdir()
        monkeypatch.setattr(os, "chmod", refuse)
        monkeypatch.setattr(os, "rmdir", refuse)
    assert Path(there).exists()


def _script(place: Path) -> str:
    place.parent.mkdir(exist_ok=True)
    place.write_text("#!/bin/sh\n")
    place.chmod(0o700)
    return str(place)


def test_a_program_is_stored_with_its_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
def test_a_missing_program_is_stored_unchanged_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, work_dir: str
) -> None:
    monkeypatch.chdir(tmp_path)
    command, warning = locations.resolve_command([name, "-x"], work_dir)
    assert command == [name, "-x"]
    assert warning.startswith("there is no program ")


@pytest.mark.parametrize(("work_dir", "stored"), [("", "{}/agent.sh"), ("{}", "./agent.sh")])
def test_a_script_that_is_not_executable_is_stored_with_the_command_that_fixes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work_dir: str, stored: str
) -> None:
    (tmp_path / "agent.sh").write_text("#!/bin/sh\n")
    monkeypatch.chdir(tmp_path)
    command, warning = locations.resolve_command(["./agent.sh"], work_dir.format(tmp_path))
    assert command == [stored.format(tmp_path)]
    assert warning.endswith(
        f"agent.sh is not an executable file; run chmod +x {warning.split()[0]}"
    )


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"#!/bin/sh\necho hi\n", ""),
        (b"#! /usr/bin/env python3\n", ""),
        (b"#!/bin/sh", ""),
        (b"\x7fELF\x02\x00", ""),
        (b"#!/bin/sh\r\necho hi\r\n", "has Windows line endings"),
        (b"#!/usr/bin/env python3\r\n", "has Windows line endings"),
        (b"echo hi\n", "has no first line such as #!/bin/sh"),
        (b"", "has no first line such as #!/bin/sh"),
        (b"\n#!/bin/sh\n", "has no first line such as #!/bin/sh"),
        (b"\xef\xbb\xbf#!/bin/sh\n", "begins with a byte-order mark"),
        (b"#!/no/such/shell -e\n", "needs /no/such/shell (in its first line), which does not"),
    ],
)
def test_a_script_that_the_system_cannot_start_is_refused_with_the_reason(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    script = tmp_path / "agent.sh"
    script.write_bytes(content)
    script.chmod(0o700)
    _, warning = locations.resolve_command([str(script)], "")
    if not problem:
        assert locations.find_program(str(script), "", {}) == str(script)
        assert warning == ""
        return
    with pytest.raises(ValueError, match=re.escape(f"{script} {problem}")):
        locations.find_program(str(script), "", {})
    assert warning.startswith(f"{script} {problem}")


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("uvx", "on its PATH; install uv, which contains it (`pip install uv`)"),
        ("npx", "on its PATH; install Node.js, which contains it"),
        ("my-server", "on its PATH"),
    ],
)
def test_the_error_for_a_missing_program_says_how_to_install_a_starter_of_servers(
    program: str, expected: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="there is no program") as missing:
        locations.find_program(program, str(tmp_path), {"PATH": str(tmp_path)})
    assert str(missing.value).endswith(expected)
