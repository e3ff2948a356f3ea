"""A control group that limits the number of processes of a sandbox which root starts.

The kernel counts the processes of a user in each user namespace, and so in each sandbox, but it
does not count those of root. So root needs a control group; other users need none.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from daybook.processes import proc
from daybook.processes.sandboxes.bubblewrap import SandboxUnavailable

_NAME = "daybook-sandbox"
MEMBERSHIP = Path("/proc/self/cgroup")
MOUNT = Path("/sys/fs/cgroup")


@contextmanager
def limited(processes: int) -> Iterator[Path]:
    """Yield the file to which the first process of the sandbox writes its pid.

    Raise `SandboxUnavailable` if this machine lets no program create such a group.
    """
    parent = _parent()
    if parent is None:
        raise SandboxUnavailable(_FIX)
    _remove_abandoned(parent)
    group = parent / f"{_NAME}-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        group.mkdir()
    except OSError as error:
        raise SandboxUnavailable(f"{_FIX} ({error.strerror})") from None
    try:
        (group / "pids.max").write_text(str(processes), encoding="ascii")
        yield group / "cgroup.procs"
    finally:
        with suppress(OSError):  # a process is still ending; a later sandbox removes the group
            group.rmdir()


_FIX = (
    "root cannot limit the processes of a sandbox here, because no control group `pids` is "
    "writable; run Daybook as another user"
)


def _parent() -> Path | None:
    """Return the group in which this process can create a group with a limit; None if none."""
    for line in MEMBERSHIP.read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        own = path.lstrip("/")
        if "pids" in controllers.split(","):  # version 1
            return MOUNT / "pids" / own
        if not controllers:  # version 2: the nearest group around this one that limits its children
            for folder in (MOUNT / own, *(MOUNT / own).parents):
                with suppress(OSError):
                    text = (folder / "cgroup.subtree_control").read_text(encoding="ascii")
                    if "pids" in text.split():
                        return folder
    return None


def _remove_abandoned(parent: Path) -> None:
    """Remove the groups of processes that were killed."""
    for each in parent.glob(f"{_NAME}-*"):
        pid = each.name.removeprefix(f"{_NAME}-").partition("-")[0]
        if not pid.isdigit() or proc.find(int(pid)) is None:
            with suppress(OSError):
                each.rmdir()
