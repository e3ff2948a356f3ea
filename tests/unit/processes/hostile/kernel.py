"""Attempts to change the kernel, or to gain rights by it."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import resource
import signal
import stat
import struct
from functools import partial
from pathlib import Path
from typing import Any

from tests.unit.processes.hostile.registry import (
    LIBC,
    attempt,
    call,
    checked,
    new_name,
    target,
)


@attempt("write /proc/sys/kernel/core_pattern", "root")
def _() -> object:
    return os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY) > 0


for _path, _control in {
    "/proc/sys/kernel/hostname": "root",
    "/proc/sys/vm/drop_caches": "root",
    "/proc/sys/kernel/modprobe": "",
    "/proc/sysrq-trigger": "",
    "/proc/irq/default_smp_affinity": "",
    "/proc/scsi/scsi": "",
    "/proc/acpi/wakeup": "",
    "/proc/mtrr": "",
    "/proc/dynamic_debug/control": "",
    "/proc/sys/kernel/yama/ptrace_scope": "",
    "/proc/sys/net/ipv4/ip_forward": "root",
    "/proc/sys/user/max_user_namespaces": "",
    "/sys/power/state": "",
    "/sys/kernel/uevent_helper": "",
    "/sys/fs/cgroup/release_agent": "",
    "/sys/fs/cgroup/memory/release_agent": "",
    "/sys/module/kernel/parameters/panic": "",
}.items():

    def _open_to_write(path: str = _path) -> object:
        return os.open(path, os.O_WRONLY) > 0

    attempt(f"open {_path} for writing", _control)(_open_to_write)


@attempt("write new ids into uid_map")
def _() -> object:
    return Path("/proc/self/uid_map").write_text("0 0 1")


@attempt("mount a folder in memory", "root")
def _() -> object:
    os.makedirs("mount_point", exist_ok=True)
    checked(LIBC.mount(b"none", b"mount_point", b"tmpfs", 0, b""))
    checked(LIBC.umount2(b"mount_point", 2))
    return True


for _what, _source, _where, _kind, _flags in (
    ("mount a second /proc", b"none", b"/proc", b"proc", 0),
    ("mount the control groups", b"none", b"/tmp", b"cgroup2", 0),
    ("mount a disk", b"/dev/vda", b"/tmp", b"ext4", 0),
    ("bind a folder", b"/", b"/tmp", b"", 4096),
    ("make a read-only folder writable", b"", b"/usr", b"", 32 | 4096),
    ("share mounts with the host", b"", b"/", b"", 1 << 20),
):

    def _mount(of: Any = (_source, _where, _kind, _flags)) -> object:
        checked(LIBC.mount(*of, b""))
        return True

    attempt(_what)(_mount)


def _unmounted(path: str) -> object:
    return checked(LIBC.umount2(path.encode(), 2)) == 0


for _what in ("/etc/shadow", "/tmp", "/usr", "/proc/keys"):
    attempt(f"unmount {_what}")(partial(_unmounted, _what))


@attempt("pivot to another root")
def _() -> object:
    os.makedirs("new_root", exist_ok=True)
    return call(155, b"new_root", b"new_root") == 0


@attempt("use chroot", "root")
def _() -> object:
    os.makedirs("new_root_2", exist_ok=True)
    os.chroot("new_root_2")
    return True


def _unshared(flag: int) -> object:
    return checked(LIBC.unshare(flag)) == 0


for _what, _flag, _control in (
    ("user", 0x10000000, "any"),
    ("mount", 0x00020000, "root"),
    ("network", 0x40000000, "root"),
    ("process", 0x20000000, "root"),
    ("ipc", 0x08000000, "root"),
    ("cgroup", 0x02000000, "root"),
    ("time", 0x00000080, "root"),
):
    attempt(f"create a {_what} namespace", _control)(partial(_unshared, _flag))


@attempt("create a user namespace by clone", "any")
def _() -> object:
    pid = call(56, 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    return os.waitpid(pid, 0)


@attempt("create a user namespace by clone3", "any")
def _() -> object:
    pid = call(435, struct.pack("8Q", 0x10000000, 0, 0, 0, signal.SIGCHLD, 0, 0, 0), 64)
    if pid == 0:
        os._exit(0)
    return os.waitpid(pid, 0)


@attempt("create a device", "root")
def _() -> object:
    os.mknod(new_name("device"), stat.S_IFBLK | 0o600, os.makedev(254, 0))
    return True


@attempt("create a character device", "root")
def _() -> object:
    os.mknod(new_name("memory"), stat.S_IFCHR | 0o600, os.makedev(1, 1))
    return True


def _opened_both_ways(path: str) -> object:
    return os.open(path, os.O_RDWR) > 0


for _path in (
    "/dev/fuse",
    "/dev/kvm",
    "/dev/net/tun",
    "/dev/loop-control",
    "/dev/vsock",
    "/dev/uinput",
):
    attempt(f"open {_path}")(partial(_opened_both_ways, _path))

for _what, _number, _arguments, _control in (
    ("keyctl", 250, (0, -3, 1), "any"),
    ("add_key", 248, (b"user", b"daybook-hostile", b"x", 1, -1), "any"),
    ("bpf", 321, (0, struct.pack("=IIII", 2, 4, 4, 1) + bytes(112), 128), "root"),
    ("io_uring_setup", 425, (4, ctypes.create_string_buffer(120)), "any"),
    ("userfaultfd", 323, (1,), "any"),
    ("kexec_load", 246, (0, 0, None, 0), ""),
    ("kexec_file_load", 320, (-1, -1, 0, None, 0), ""),
    ("init_module", 175, (b"", 0, b""), ""),
    ("finit_module", 313, (-1, b"", 0), ""),
    ("delete_module", 176, (b"hostile", 2048), ""),
    ("open_tree", 428, (-100, b"/", 1), "root"),
    ("fsopen", 430, (b"tmpfs", 0), "root"),
    ("mount_setattr", 442, (-100, b"/usr", 0, bytes(32), 32), ""),
    ("swapon", 167, (b"swap", 0), ""),
    ("syslog", 103, (10, None, 0), "root"),
    ("acct", 163, (None,), ""),
    ("reboot with a harmless code", 169, (0xFEE1DEAD, 672274793, 0, None), ""),
    ("settimeofday", 164, (None, struct.pack("ii", 0, 0)), ""),
    ("sethostname", 170, (b"hostile", 7), ""),
    ("iopl", 172, (0,), ""),
    ("vhangup", 153, (), ""),
    ("lookup_dcookie", 212, (0, None, 0), ""),
    ("fanotify_init for the whole disk", 300, (4, 0), "root"),
    ("quotactl", 179, (0x800003 << 8, None, 0, None), ""),
):

    def _syscall(number: int = _number, arguments: Any = _arguments) -> object:
        return call(number, *arguments) >= 0

    attempt(f"call {_what}", _control)(_syscall)


@attempt("call perf_event_open", "root")
def _() -> object:
    attributes = struct.pack("=IIQ", 1, 112, 0) + bytes(96)
    return call(298, attributes, 0, -1, -1, 0) > 0


@attempt("read a key of the host's keyring", "any")
def _() -> object:
    key = call(249, b"user", target("key_name").encode(), None, 0)
    buffer = ctypes.create_string_buffer(64)
    return call(250, 11, key, buffer, 64) > 0


@attempt("make a system call of another architecture", "any")
def _() -> object:
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # getpid by int 0x80
    address = ctypes.addressof(ctypes.c_char.from_buffer(code))
    return ctypes.CFUNCTYPE(ctypes.c_int)(address)() > 0


@attempt("make an x32 system call")
def _() -> object:
    return call(0x40000000 | 39) > 0


@attempt("run in real time", "root")
def _() -> object:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    return True


@attempt("raise the own priority", "root")
def _() -> object:
    os.nice(-1)
    return True


for _what in ("CPU", "DATA", "FSIZE", "NPROC"):

    def _raise_limit(number: int = getattr(resource, f"RLIMIT_{_what}")) -> object:
        most = resource.getrlimit(number)[1] + 1
        resource.setrlimit(number, (most, most))
        return True

    attempt(f"raise the limit {_what}")(_raise_limit)


@attempt("lower the own chance to be killed")
def _() -> object:
    return Path("/proc/self/oom_score_adj").write_text("-900")


@attempt("type into a terminal", "root")
def _() -> object:
    os.setsid()
    leader, follower = os.openpty()
    fcntl.ioctl(follower, 0x540E, 0)  # TIOCSCTTY
    fcntl.ioctl(follower, 0x5412, b"x")  # TIOCSTI
    return leader


@attempt("get a core dump")
def _() -> object:
    resource.setrlimit(resource.RLIMIT_CORE, (4096, 4096))
    return True


@attempt("use shared memory of the host (System V)", "any")
def _() -> object:
    return checked(LIBC.shmget(target("shared_memory_key"), 1, 0)) >= 0


@attempt("use a message queue of the host")
def _() -> object:
    return checked(LIBC.mq_open(target("queue").encode(), 0)) >= 0
