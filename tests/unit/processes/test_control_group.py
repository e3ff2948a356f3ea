"""The control group of a sandbox that root starts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from daybook.processes.sandboxes import control_group
from daybook.processes.sandboxes.bubblewrap import SandboxUnavailable


@pytest.fixture
def mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder in the place of the system's control groups."""
    monkeypatch.setattr(control_group, "MOUNT", tmp_path / "cgroup")
    monkeypatch.setattr(control_group, "MEMBERSHIP", tmp_path / "membership")
    (tmp_path / "cgroup").mkdir()
    return tmp_path / "cgroup"


def join(mount: Path, *lines: str) -> None:
    (mount.parent / "membership").write_text("".join(f"{each}\n" for each in lines))


def test_version_1_has_the_group_inside_the_own_one(mount: Path) -> None:
    join(mount, "8:pids:/service", "0::/")
    (mount / "pids" / "service").mkdir(parents=True)
    with control_group.limited(7) as members:
        assert members.parent.parent == mount / "pids" / "service"
        assert (members.parent / "pids.max").read_text() == "7"


def test_version_2_has_it_in_the_nearest_group_that_limits_its_children(mount: Path) -> None:
    join(mount, "0::/system.slice/daybook.service")
    (mount / "system.slice" / "daybook.service").mkdir(parents=True)
    for folder in (mount, mount / "system.slice"):
        (folder / "cgroup.subtree_control").write_text("cpu memory pids\n")
    (mount / "system.slice/daybook.service/cgroup.subtree_control").write_text("")
    with control_group.limited(7) as members:
        assert members.parent.parent == mount / "system.slice"


def test_without_one_there_is_no_sandbox_for_root(mount: Path) -> None:
    for line in ("0::/", "1:cpu:/", "8:pids:/missing"):
        join(mount, line)
        with (
            pytest.raises(SandboxUnavailable, match="run Daybook as another user"),
            control_group.limited(7),
        ):
            pass


def test_the_group_of_a_killed_process_is_removed(mount: Path) -> None:
    join(mount, "8:pids:/")
    abandoned = mount / "pids" / "daybook-sandbox-999999999-aa"
    living = mount / "pids" / f"daybook-sandbox-{os.getpid()}-bb"
    for folder in (abandoned, living):
        folder.mkdir(parents=True)
    with control_group.limited(7):
        assert not abandoned.exists()
        assert living.exists()
