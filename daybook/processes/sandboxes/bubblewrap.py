"""The program `bwrap` of this machine, and whether it can build a sandbox here."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from collections.abc import Sequence

from daybook.errors import DaybookError, NonRetryable
from daybook.processes.sandboxes import syscalls

PLACES = (
    "/usr/bin/bwrap",
    "/bin/bwrap",
    "/usr/local/bin/bwrap",
    "/run/current-system/sw/bin/bwrap",
)
"""Paths at which `bwrap` may be; never one from PATH, where an agent may write a program."""
OLDEST_VERSION = (0, 8)
"""Oldest version with all options that a sandbox uses."""

ISOLATION = (
    "--unshare-user",
    "--disable-userns",
    "--unshare-pid",
    "--unshare-ipc",
    "--unshare-uts",
    "--unshare-cgroup-try",
    "--die-with-parent",
    "--cap-drop",
    "ALL",
)
"""Options of every sandbox. The caller starts it in a session of its own, without a terminal."""

INSTALLATION = (
    "install bubblewrap 0.8 or newer (`apt-get install bubblewrap`, `dnf install bubblewrap`, "
    "`apk add bubblewrap`)"
)
APPARMOR_SWITCH = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
_APPARMOR_FIX = (
    "AppArmor refuses user namespaces on this machine, as on Ubuntu since 23.10; allow them for "
    "bwrap with `apt-get install apparmor-profiles`, `ln -s "
    "/usr/share/apparmor/extra-profiles/bwrap-userns-restrict /etc/apparmor.d/` and "
    "`apparmor_parser -r /etc/apparmor.d/bwrap-userns-restrict`"
)
_NAMESPACES_FIX = (
    "allow user namespaces with `sysctl -w user.max_user_namespaces=15000`, and on older Debian "
    "systems `sysctl -w kernel.unprivileged_userns_clone=1`; in a container, start it with a "
    "security profile that allows user namespaces"
)
_PROBE_TIMEOUT_SECONDS = 10.0
_VERSION = re.compile(r"(\d{1,9})\.(\d{1,9})")
_working: set[str] = set()
"""Path of the `bwrap` that has built a sandbox in this process."""


class SandboxUnavailable(NonRetryable, DaybookError):
    """A sandbox cannot be built on this machine, so the program was not started."""

    code = "sandbox_unavailable"

    def __init__(self, why: str) -> None:
        self.why = why
        super().__init__(f"the sandbox cannot be built: {why}")


def program() -> str:
    """Return the path of `bwrap`. Raise `SandboxUnavailable` if it is missing or unsafe."""
    if sys.platform != "linux":
        raise SandboxUnavailable(
            "only Linux has one; choose the sandbox off, or run Daybook on Linux"
        )
    machine = os.uname().machine
    if machine not in syscalls.MACHINES:
        known = " and ".join(syscalls.MACHINES)
        raise SandboxUnavailable(f"there is no filter of system calls for {machine}, only {known}")
    for place in PLACES:
        try:
            found = os.stat(place)
        except OSError:
            continue
        if found.st_mode & (stat.S_ISUID | stat.S_ISGID):
            raise SandboxUnavailable(
                f"{place} is a setuid program, which cannot build this sandbox; run `chmod u-s,g-s "
                f"{place}`"
            )
        if found.st_uid != 0 or found.st_mode & 0o022:
            raise SandboxUnavailable(
                f"{place} can be changed by other users; reinstall bubblewrap, so that root owns it"
            )
        return place
    raise SandboxUnavailable(f"bubblewrap is not installed; {INSTALLATION}")


def why_unavailable() -> str:
    """Return why this machine cannot build a sandbox, and the fix; empty if it can.

    The first call that succeeds builds an empty sandbox, in about 10 ms. Later calls in this
    process return at once.
    """
    try:
        path = program()
    except SandboxUnavailable as error:
        return error.why
    if path in _working:
        return ""
    command = [path, *ISOLATION, "--unshare-net", "--ro-bind", "/", "/", "--proc", "/proc"]
    command += ["--dev", "/dev", "--size", "4096", "--tmpfs", "/tmp", "--", "/bin/sh", "-c", ":"]
    problem = _first_error(command)
    if not problem:
        _working.add(path)
    return problem and explain(path, problem)


def explain(path: str, problem: str) -> str:
    """Return what an error message ``problem`` of the `bwrap` at ``path`` means, and the fix."""
    said = problem.removeprefix("bwrap: ")
    lowered = said.lower()
    if "unknown option" in lowered:
        version = _version(path)
        if version < OLDEST_VERSION:
            found = ".".join(map(str, version))
            return f"{path} has version {found}, which is too old; {INSTALLATION}"
    namespaces = ("namespace", "uid map", "rtm_newaddr", "rtm_newlink", "max_user_namespaces")
    if any(each in lowered for each in namespaces):
        fix = _APPARMOR_FIX if _apparmor_restricts() else _NAMESPACES_FIX
        return f"bwrap reports: {said}; {fix}"
    if "mount proc" in lowered:
        return (
            f"bwrap reports: {said}; the container around Daybook masks /proc, so it cannot "
            "contain a sandbox; start it with `--security-opt systempaths=unconfined`"
        )
    return f"bwrap reports: {said}"


def _first_error(command: Sequence[str]) -> str:
    """Return the first line that a failed command printed, or why it could not be started."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={},
            timeout=_PROBE_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return lines[0][:500] if lines else f"it exited with code {done.returncode}"


def _version(path: str) -> tuple[int, int]:
    try:
        done = subprocess.run(
            [path, "--version"],
            capture_output=True,
            env={},
            timeout=_PROBE_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0, 0
    found = _VERSION.search(done.stdout.decode(errors="replace"))
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _apparmor_restricts() -> bool:
    try:
        with open(APPARMOR_SWITCH, encoding="ascii") as switch:
            return switch.read().strip() == "1"
    except OSError:
        return False
