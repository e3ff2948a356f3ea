"""Attempts to write outside of the work directory, and to gain the rights of a file."""

from __future__ import annotations

import mmap
import os
import stat
import struct
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.unit.processes.hostile.registry import (
    attempt,
    new_name,
    target,
    written,
)

for _name in ("outside_new", "daybook_home_new", "home_new", "other_home_new", "readable_new"):

    def _visible_on_the_host(name: str = _name) -> object:
        path = Path(target(name))
        return path.with_name("marker").exists() and written(path)

    attempt(f"create {_name}", "any")(_visible_on_the_host)

for _path in (
    "/etc/hostile",
    "/usr/bin/hostile",
    "/usr/lib/hostile",
    "/opt/hostile",
    "/hostile",
    "/run/hostile",
    "/var/hostile",
    "/dev/hostile",
    "/run/daybook/hostile",
):
    attempt(f"create {_path}")(partial(written, _path))

for _name in ("launcher", "interpreter", "bwrap"):

    def _opened(name: str = _name) -> object:
        os.close(os.open(target(name), os.O_WRONLY))
        return True

    attempt(f"write the {_name}")(_opened)


@attempt("replace the launcher")
def _() -> object:
    Path("new_launcher").write_text("")
    os.rename("new_launcher", "/run/daybook/launcher.py")
    return True


@attempt("remove the launcher")
def _() -> object:
    os.unlink("/run/daybook/launcher.py")
    return True


@attempt("move the folder of the launcher")
def _() -> object:
    os.rename("/run/daybook", "/run/other")
    return True


@attempt("write through a link in the work dir", "any")
def _() -> object:
    return written("link_to_outside/by_link")


@attempt("write through a link that is swapped", "any")
def _() -> object:
    swapped = new_name("swapped")
    os.mkdir(swapped)
    os.rmdir(swapped)
    os.symlink(target("outside"), swapped)
    return written(f"{swapped}/by_swap")


@attempt("make a hard link to a file outside", "any")
def _() -> object:
    os.link(target("sibling_file"), "hard_link")
    return Path("hard_link").read_bytes()


@attempt("make a hard link to a readable file", "any")
def _() -> object:
    os.link(target("readable_file"), "hard_link_2")
    return True


@attempt("move the work dir")
def _() -> object:
    os.rename(os.getcwd(), os.getcwd() + ".moved")
    return True


def _mapped(path: str) -> object:
    with open(path, "r+b") as file:
        return mmap.mmap(file.fileno(), 1)


def _reopened(path: str) -> object:
    held = os.open(path, os.O_RDONLY)
    return os.open(f"/proc/self/fd/{held}", os.O_WRONLY)


def _on_readable(action: Callable[[str], object]) -> object:
    action(target("readable_file"))
    return True


_ON_READABLE: dict[str, Callable[[str], object]] = {
    "write": written,
    "truncate": partial(os.truncate, length=1),
    "change the mode of": partial(os.chmod, mode=0o666),
    "touch": os.utime,
    "remove": os.unlink,
    "rename": lambda path: os.rename(path, f"{path}.renamed"),
    "set an attribute of": partial(os.setxattr, attribute="user.hostile", value=b"x"),
    "map for writing": _mapped,
    "reopen for writing": _reopened,
}
for _what, _action in _ON_READABLE.items():
    _control = "any" if _what in ("write", "change the mode of", "touch", "map for writing") else ""
    attempt(f"{_what} a readable file", _control)(partial(_on_readable, _action))


@attempt("make a setuid program", "any")
def _() -> object:
    Path("setuid").write_bytes(b"#!/bin/sh\n")
    os.chmod("setuid", 0o4755)
    return os.stat("setuid").st_mode & stat.S_ISUID


@attempt("create a setuid program with content")
def _() -> object:
    held = os.open("setuid_new", os.O_CREAT | os.O_RDWR, 0o4755)
    os.write(held, b"#!/bin/sh\n")
    found = os.fstat(held)
    return found.st_size and found.st_mode & stat.S_ISUID


@attempt("run a setuid program", "root")
def _() -> object:
    done = subprocess.run([target("setuid_program"), "-u"], capture_output=True, check=True)
    return int(done.stdout) == 65534 != os.getuid()


@attempt("become another user", "root")
def _() -> object:
    os.setuid(65533)
    return True


@attempt("join another group", "root")
def _() -> object:
    os.setgroups([65533])
    return True


@attempt("give a file to another user", "root")
def _() -> object:
    Path("given").write_bytes(b"")
    os.chown("given", 65533, 65533)
    return True


@attempt("give a program a capability", "root")
def _() -> object:
    Path("capable").write_bytes(b"")
    os.setxattr("capable", "security.capability", struct.pack("<5I", 0x2000000, 1 << 21, 0, 0, 0))
    return True
