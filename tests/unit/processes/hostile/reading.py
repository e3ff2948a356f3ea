"""Attempts to read what the sandbox does not show."""

from __future__ import annotations

import ctypes
import os
import struct
from functools import partial
from pathlib import Path

from tests.unit.processes.hostile.registry import (
    attempt,
    call,
    new_name,
    target,
)


def _read_target(name: str) -> object:
    return Path(target(name)).read_bytes()


for _name, _control in {
    "daybook_home_secret": "any",
    "ssh_key": "any",
    "credentials": "any",
    "other_home_file": "any",
    "sibling_file": "any",
    "host_temporary_file": "any",
    "host_shared_memory_file": "any",
    "named_but_protected": "any",
    "store_outside_objects": "any",
}.items():
    attempt(f"read {_name}", _control)(partial(_read_target, _name))

for _path, _control in {
    "/etc/shadow": "root",
    "/etc/gshadow": "root",
    "/etc/security/opasswd": "",
    "/proc/kcore": "",
    "/proc/kmsg": "",
    "/proc/keys": "any",
    "/proc/timer_list": "root",
    "/proc/1/root/etc/shadow": "",
    "/dev/mem": "",
    "/dev/kmsg": "",
    "/dev/vda": "",
    "/dev/sda": "",
    "/sys/kernel/notes": "any",
    "/sys/fs/cgroup/cgroup.procs": "",
    "/sys/kernel/debug/sched/debug": "",
    "/var/log/dpkg.log": "any",
    "/var/lib/dpkg/status": "any",
}.items():

    def _read(path: str = _path) -> object:
        with open(path, "rb") as file:
            return file.read(1) or path.endswith("opasswd")

    attempt(f"read {_path}", _control)(_read)


@attempt("see symbols of the kernel", "root")
def _() -> object:
    lines = Path("/proc/kallsyms").read_text().splitlines()[:200]
    return any(int(line.split()[0], 16) for line in lines)


@attempt("read a secret through a link in the work dir", "any")
def _() -> object:
    return Path("link_to_secret").read_bytes()


@attempt("list a folder through a link in the work dir", "any")
def _() -> object:
    return [each for each in os.listdir("link_to_outside") if each == "sibling"]


@attempt("see the folders beside the work dir", "any")
def _() -> object:
    return [each for each in os.listdir("..") if each == "outside"]


@attempt("see the homes of users", "any")
def _() -> object:
    return "other" in os.listdir(Path(target("other_home_file")).parent.parent)


@attempt("leave by many ..", "any")
def _() -> object:
    os.chdir("../" * 40)
    return Path(target("sibling_file").lstrip("/")).read_bytes()


@attempt("leave from a folder that was moved", "any")
def _() -> object:
    os.makedirs(f"{new_name('a')}/b/c")
    os.chdir(f"{new_name('a')}/b/c")
    os.rename("../../b", f"../../../{new_name('moved')}")
    os.chdir("../" * 40)
    return Path(target("sibling_file").lstrip("/")).read_bytes()


@attempt("open a file by its handle", "root")
def _() -> object:
    folder = os.open("/", os.O_RDONLY)
    buffer = struct.pack("Ii", 128, 0) + bytes(128)
    handle = ctypes.create_string_buffer(buffer)
    mount = ctypes.c_int()
    call(303, folder, b"usr", handle, ctypes.byref(mount), 0)
    return call(304, folder, handle, os.O_RDONLY) > 0
