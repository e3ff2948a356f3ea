"""A program that tries to leave its sandbox: one function for each attempt. It imports no Daybook.

`python hostile.py TARGETS NAME…` makes the named attempts, each in a process of its own, and prints
the result of each as JSON: what it has achieved, or "" and why it failed. ``TARGETS`` is a JSON file
with the paths, ports and processes that the test has prepared.

An attempt returns a true value if it succeeds. ``control`` says without which sandbox it must
succeed, so that it shows something: for `any` user, only for `root`, or for none, where it is
harmful or needs hardware.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import mmap
import os
import resource
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

TIMEOUT_SECONDS = 8
MEBIBYTE = 2**20

Attempt = Callable[[], object]
ATTEMPTS: dict[str, tuple[Attempt, str]] = {}
"""Attempts by name, each with its ``control``."""
TARGETS: dict[str, Any] = {}
LIBC = ctypes.CDLL(None, use_errno=True)
INHERITED: list[int] = []
"""Files besides the standard ones that were open at the start."""


def attempt(name: str, control: str = "") -> Callable[[Attempt], Attempt]:
    def add(function: Attempt) -> Attempt:
        assert name not in ATTEMPTS, name
        ATTEMPTS[name] = function, control
        return function

    return add


def checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def call(number: int, *arguments: Any) -> int:
    longs = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return checked(LIBC.syscall(ctypes.c_long(number), *longs))


def new_name(name: str) -> str:
    """Return a name that no other attempt uses."""
    return f"{name}-{os.getpid()}"


def target(name: str) -> Any:
    return TARGETS[name]


# --- reading

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
    attempt(f"read {_name}", _control)(lambda name=_name: Path(target(name)).read_bytes())

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


@attempt("climb out by many ..", "any")
def _() -> object:
    os.chdir("../" * 40)
    return Path(target("sibling_file").lstrip("/")).read_bytes()


@attempt("climb out of a folder that was moved", "any")
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


# --- processes of the host


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
        return b"victim" in content or what == "maps" and content

    attempt(f"read /proc/PID/{_what} of a host process", "any" if _what != "status" else "")(_of_victim)

for _what in ("root", "cwd"):
    attempt(f"go through /proc/PID/{_what} of a host process", "any")(
        lambda what=_what: os.listdir(f"/proc/{target('victim')}/{what}/")
    )


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
    os.setpriority(os.PRIO_PROCESS, target("victim"), os.getpriority(os.PRIO_PROCESS, target("victim")))
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


# --- writing


def _written(path: str | Path) -> bool:
    with open(path, "ab") as file:
        return file.write(b"x") == 1


for _name in ("outside_new", "daybook_home_new", "home_new", "other_home_new", "readable_new"):

    def _visible_on_the_host(name: str = _name) -> object:
        path = Path(target(name))
        return path.with_name("marker").exists() and _written(path)

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
    attempt(f"create {_path}")(lambda path=_path: _written(path))

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
    return _written("link_to_outside/by_link")


@attempt("write through a link that is swapped", "any")
def _() -> object:
    swapped = new_name("swapped")
    os.mkdir(swapped)
    os.rmdir(swapped)
    os.symlink(target("outside"), swapped)
    return _written(f"{swapped}/by_swap")


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


for _what, _action in {
    "write": lambda path: _written(path),
    "truncate": lambda path: os.truncate(path, 1) is None,
    "change the mode of": lambda path: os.chmod(path, 0o666) is None,
    "touch": lambda path: os.utime(path) is None,
    "remove": lambda path: os.unlink(path) is None,
    "rename": lambda path: os.rename(path, path + ".renamed") is None,
    "set an attribute of": lambda path: os.setxattr(path, "user.hostile", b"x") is None,
    "map for writing": lambda path: bool(_mapped(path)),
    "reopen for writing": lambda path: bool(_reopened(path)),
}.items():
    _control = "any" if _what in ("write", "change the mode of", "touch", "map for writing") else ""
    attempt(f"{_what} a readable file", _control)(
        lambda action=_action: action(target("readable_file"))
    )


def _mapped(path: str) -> object:
    with open(path, "r+b") as file:
        return mmap.mmap(file.fileno(), 1)


def _reopened(path: str) -> object:
    held = os.open(path, os.O_RDONLY)
    return os.open(f"/proc/self/fd/{held}", os.O_WRONLY)


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


# --- the kernel


@attempt("write /proc/sys/kernel/core_pattern", "root")
def _() -> object:
    return os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY) > 0


for _path, _control in {
    "/proc/sys/kernel/hostname": "root",
    "/proc/sys/vm/drop_caches": "root",
    "/proc/sys/kernel/modprobe": "",
    "/proc/sysrq-trigger": "",
    "/proc/irq/default_smp_affinity": "",
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

for _what in ("/etc/shadow", "/tmp", "/usr", "/proc/keys"):
    attempt(f"unmount {_what}")(lambda path=_what: checked(LIBC.umount2(path.encode(), 2)) == 0)


@attempt("pivot to another root")
def _() -> object:
    os.makedirs("new_root", exist_ok=True)
    return call(155, b"new_root", b"new_root") == 0


@attempt("use chroot", "root")
def _() -> object:
    os.makedirs("new_root_2", exist_ok=True)
    os.chroot("new_root_2")
    return True


for _what, _flag, _control in (
    ("user", 0x10000000, "any"),
    ("mount", 0x00020000, "root"),
    ("network", 0x40000000, "root"),
    ("process", 0x20000000, "root"),
    ("ipc", 0x08000000, "root"),
    ("cgroup", 0x02000000, "root"),
    ("time", 0x00000080, "root"),
):
    attempt(f"create a {_what} namespace", _control)(
        lambda flag=_flag: checked(LIBC.unshare(flag)) == 0
    )


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


for _path in ("/dev/fuse", "/dev/kvm", "/dev/net/tun", "/dev/loop-control", "/dev/vsock", "/dev/uinput"):
    attempt(f"open {_path}")(lambda path=_path: os.open(path, os.O_RDWR) > 0)

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


# --- network


def _connects(family: int, address: Any, kind: int = socket.SOCK_STREAM) -> bool:
    with socket.socket(family, kind) as client:
        client.settimeout(2)
        client.connect(address)
        return client.recv(5) == b"hello" if kind == socket.SOCK_STREAM else True


@attempt("connect to a service on 127.0.0.1", "any")
def _() -> object:
    return _connects(socket.AF_INET, ("127.0.0.1", target("port")))


@attempt("connect to a service on 0.0.0.0", "any")
def _() -> object:
    return _connects(socket.AF_INET, ("0.0.0.0", target("port")))


@attempt("connect to a service on localhost", "any")
def _() -> object:
    with socket.create_connection(("localhost", target("port")), 2) as client:
        return client.recv(5) == b"hello"


@attempt("connect to a service by IPv6", "any")
def _() -> object:
    return _connects(socket.AF_INET6, ("::1", target("port_6")))


@attempt("connect to a service by an IPv4 address in IPv6", "any")
def _() -> object:
    return _connects(socket.AF_INET6, ("::ffff:127.0.0.1", target("port")))


@attempt("connect to an address of this machine's network card")
def _() -> object:
    return _connects(socket.AF_INET, (target("own_address"), target("port_any")))


@attempt("send a datagram to the host", "any")
def _() -> object:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(2)
        client.sendto(b"hello", ("127.0.0.1", target("udp_port")))
        return client.recv(5)


@attempt("ask a name server of the host", "any")
def _() -> object:
    query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03org\x00\x00\x01\x00\x01"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(2)
        client.sendto(query, ("127.0.0.1", target("udp_port")))
        return client.recv(64)


for _what, _place in {
    "a metadata service": ("169.254.169.254", 80),
    "a private network": ("10.0.0.1", 80),
    "a public address": ("1.1.1.1", 443),
    "a public name server": ("8.8.8.8", 53),
}.items():

    def _leaves(place: Any = _place) -> object:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect(place)  # finds a route; sends nothing
            return client.getsockname()[0] != place[0]

    attempt(f"find a route to {_what}")(_leaves)


@attempt("find a route by IPv6")
def _() -> object:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
        client.connect(("2606:4700:4700::1111", 443))
        return True


@attempt("resolve a name")
def _() -> object:
    return socket.getaddrinfo("example.org", 443)


@attempt("see the network cards of the host")
def _() -> object:
    return [name for _, name in socket.if_nameindex() if name not in ("lo",)]


@attempt("connect to a Unix socket of the host", "any")
def _() -> object:
    return _connects(socket.AF_UNIX, target("unix_socket"))


@attempt("connect to a Unix socket of the host that is in the work dir", "any")
def _() -> object:
    return _connects(socket.AF_UNIX, "service.socket")


@attempt("send a datagram to a Unix socket of the host that is in the work dir", "any")
def _() -> object:
    first, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return first.sendto(b"hello", "datagrams.socket")


@attempt("connect to a Unix socket of the host in a readable folder", "any")
def _() -> object:
    return _connects(socket.AF_UNIX, target("readable_socket"))


@attempt("connect to an abstract Unix socket of the host", "any")
def _() -> object:
    return _connects(socket.AF_UNIX, "\0" + target("abstract_socket"))


@attempt("find an abstract Unix socket of the host", "any")
def _() -> object:
    return target("abstract_socket") in Path("/proc/net/unix").read_text()


for _path in (
    "/run/docker.sock",
    "/var/run/docker.sock",
    "/run/dbus/system_bus_socket",
    "/var/run/postgresql/.s.PGSQL.5432",
    "/run/systemd/private",
    "/run/containerd/containerd.sock",
):
    attempt(f"reach {_path}")(lambda path=_path: os.path.exists(path))

for _what, _family, _kind, _protocol in (
    ("a raw socket", socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP),
    ("a ping socket", socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP),
    ("a packet socket", socket.AF_PACKET, socket.SOCK_RAW, 0),
    ("a vsock", 40, socket.SOCK_STREAM, 0),
    ("a socket of the crypto interface", 38, socket.SOCK_SEQPACKET, 0),
    ("a Bluetooth socket", 31, socket.SOCK_RAW, 1),
):

    def _socket_of(kind: Any = (_family, _kind, _protocol)) -> object:
        return socket.socket(*kind)

    attempt(f"create {_what}", "root" if "packet" in _what or "raw" in _what else "")(_socket_of)


@attempt("change the network of the sandbox")
def _() -> object:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, 0x8914, struct.pack("16sh", b"lo", 0))  # SIOCSIFFLAGS
    return True


# --- using up the machine


@attempt("start 300 processes")
def _() -> object:
    started = []
    try:
        while len(started) < 300:
            pid = os.fork()
            if pid == 0:
                signal.pause()
            started.append(pid)
        return True
    finally:
        for pid in started:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@attempt("start 300 threads")
def _() -> object:
    done = threading.Event()
    threads = [threading.Thread(target=done.wait) for _ in range(300)]
    try:
        for each in threads:
            each.start()
        return True
    finally:
        done.set()


@attempt("use 400 MiB of memory", "any")
def _() -> object:
    return len(bytearray(400 * MEBIBYTE))


@attempt("write a file of 80 MiB", "any")
def _() -> object:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with open("large", "wb") as file:
        file.truncate(80 * MEBIBYTE)
    os.unlink("large")
    return True


for _what in ("/tmp", "/dev/shm", "home"):

    def _fill(where: str = _what) -> object:
        folder = target("home") if where == "home" else where
        block = bytes(MEBIBYTE)
        for part in range(5):
            with open(f"{folder}/fill{part}", "wb", buffering=0) as file:
                for _ in range(20):
                    file.write(block)
        return True

    attempt(f"put 100 MiB into {_what}")(_fill)


@attempt("use much CPU time")
def _() -> object:
    most = resource.getrlimit(resource.RLIMIT_CPU)[1]
    return most == resource.RLIM_INFINITY or most > 10


# --- the program


def _try(name: str) -> str:
    """Make one attempt in a child; return what it reported."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        signal.alarm(TIMEOUT_SECONDS)
        try:
            result = ATTEMPTS[name][0]()
            said = f"+{type(result).__name__}" if result else "-without an error"
        except OSError as error:
            said = f"-{errno.errorcode.get(error.errno or 0, error)}"
        except BaseException as error:
            said = f"-{type(error).__name__}"
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        said = file.read(200).decode()
    _, status = os.waitpid(pid, 0)
    return said or f"-ended by signal {status & 127}"


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def main() -> None:
    given, *names = sys.argv[1:]
    INHERITED[:] = [each for each in range(3, 1024) if _is_open(each)]
    TARGETS.update(json.loads(Path(given).read_text()))
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    print(json.dumps({name: _try(name) for name in names or ATTEMPTS}))


if __name__ == "__main__":
    main()
