"""Attempts to reach processes outside of the sandbox."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import struct
from functools import partial
from pathlib import Path

from tests.unit.processes.hostile.registry import (
    INHERITED,
    LIBC,
    attempt,
    call,
    checked,
    target,
)


@attempt("see a process of the host", "any")
def _() -> object:
    for each in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            if target("victim_mark").encode() in Path(f"/proc/{each}/cmdline").read_bytes():
                return True
    return False


for _what in ("environ", "cmdline", "maps", "status"):

    def _of_victim(what: str = _what) -> object:
        content = Path(f"/proc/{target('victim')}/{what}").read_bytes()
        return b"victim" in content or (what == "maps" and content)

    attempt(f"read /proc/PID/{_what} of a host process", "any" if _what != "status" else "")(
        _of_victim
    )


def _listed(what: str) -> object:
    return os.listdir(f"/proc/{target('victim')}/{what}/")


for _what in ("root", "cwd"):
    attempt(f"go through /proc/PID/{_what} of a host process", "any")(partial(_listed, _what))


@attempt("read the memory of a host process", "root")
def _() -> object:
    maps = Path(f"/proc/{target('victim')}/maps").read_text().split("-")[0]
    with open(f"/proc/{target('victim')}/mem", "rb") as memory:
        memory.seek(int(maps, 16))
        return memory.read(4) == b"\x7fELF"


@attempt("trace a host process", "root")
def _() -> object:
    checked(LIBC.ptrace(0x4206, target("victim"), 0, 0))  # PTRACE_SEIZE
    return True


@attempt("read the memory of a host process by process_vm_readv", "root")
def _() -> object:
    start = int(Path(f"/proc/{target('victim')}/maps").read_text().split("-")[0], 16)
    buffer = ctypes.create_string_buffer(4)
    local = struct.pack("PN", ctypes.addressof(buffer), 4)
    remote = struct.pack("PN", start, 4)
    call(310, target("victim"), local, 1, remote, 1, 0)
    return buffer.raw == b"\x7fELF"


@attempt("signal a host process", "any")
def _() -> object:
    os.kill(target("victim"), 0)
    return True


@attempt("signal the group of a host process", "any")
def _() -> object:
    os.killpg(target("victim_group"), 0)
    return True


@attempt("signal all processes", "")
def _() -> object:
    os.kill(-1, signal.SIGUSR2)  # the test checks that its victim lives
    return False


@attempt("hold a host process by a pidfd", "any")
def _() -> object:
    return os.pidfd_open(target("victim")) > 0


@attempt("take a file of a host process by pidfd_getfd", "root")
def _() -> object:
    return call(438, os.pidfd_open(target("victim")), 0, 0) >= 0


@attempt("change the limits of a host process", "any")
def _() -> object:
    return resource.prlimit(target("victim"), resource.RLIMIT_NOFILE)


@attempt("change the priority of a host process", "any")
def _() -> object:
    os.setpriority(
        os.PRIO_PROCESS, target("victim"), os.getpriority(os.PRIO_PROCESS, target("victim"))
    )
    return True


@attempt("read the environment of the worker", "any")
def _() -> object:
    found = [Path(f"/proc/{each}/environ") for each in os.listdir("/proc") if each.isdigit()]
    for each in found:
        with contextlib.suppress(OSError):
            if b"worker-secret" in each.read_bytes():
                return True
    return False


@attempt("find a variable of the worker", "")
def _() -> object:
    return "DAYBOOK_TEST_SECRET" in os.environ


@attempt("use an open file of the worker", "")
def _() -> object:
    return INHERITED


@attempt("join a namespace of a host process", "root")
def _() -> object:
    return call(308, os.open(f"/proc/{target('victim')}/ns/net", os.O_RDONLY), 0) == 0


@attempt("compare with a host process by kcmp", "any")
def _() -> object:
    return call(312, os.getpid(), target("victim"), 2, 0, 0) >= 0


@attempt("kill process 1 of the sandbox from inside", "")
def _() -> object:
    os.kill(1, signal.SIGKILL)  # the kernel drops it, or everything ends
    return False


@attempt("find a process of the sandbox with more rights", "")
def _() -> object:
    own = _rights("self")
    return [each for each in os.listdir("/proc") if each.isdigit() and _rights(each) != own]


def _rights(process: str) -> list[str]:
    names = ("Uid:", "CapEff:", "CapPrm:", "CapBnd:", "NoNewPrivs:", "Seccomp:")
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return [each for each in lines if each.startswith(names)]


@attempt("take a file of the launcher from process 1", "")
def _() -> object:
    held = [os.readlink(f"/proc/1/fd/{each}") for each in os.listdir("/proc/1/fd")]
    return [each for each in held if not each.startswith(("pipe:", "/dev/null", "anon_inode:"))]


@attempt("read another root through process 1", "")
def _() -> object:
    return os.stat("/proc/1/root/").st_ino != os.stat("/").st_ino
