"""Descriptions of sandboxes: shown files, refused paths, the filter of system calls, and errors."""

from __future__ import annotations

import errno
import os
import struct
import sys
from pathlib import Path

import pytest

from daybook.errors import InvalidInput
from daybook.processes.sandboxes import bubblewrap, mounts, syscalls
from daybook.processes.sandboxes.bubblewrap import SandboxUnavailable
from daybook.processes.sandboxes.mounts import SandboxLevel
from daybook.processes.sandboxes.sandbox import Sandbox
from tests import rows

ALLOWED, KILLED = 0x7FFF0000, 0x80000000
EPERM, EAFNOSUPPORT = (0x50000 | each for each in (errno.EPERM, errno.EAFNOSUPPORT))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the user's home, with credentials, projects and Daybook's home."""
    home = tmp_path / "user"
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("DAYBOOK_HOME", str(home / ".daybook"))
    for folder in (".ssh", ".config/gh", ".config/tool", "project/sub", "bin"):
        (home / folder).mkdir(parents=True)
    for folder in ("worktrees/run/work", "repositories/name/objects", "caches/job", "prefect"):
        (home / ".daybook" / folder).mkdir(parents=True)
    (home / ".netrc").write_text("machine secret")
    return home


def plan(
    folder: Path,
    *,
    readable: tuple[Path | str, ...] = (),
    writable: tuple[Path | str, ...] = (),
    level: SandboxLevel = SandboxLevel.STRICT,
) -> mounts.Mounts:
    return mounts.plan(
        level,
        folder=str(folder),
        readable=tuple(map(str, readable)),
        writable=tuple(map(str, writable)),
        home=os.environ["HOME"],
    )


def test_a_home_is_empty_but_for_named_folders(home: Path) -> None:
    shown = plan(
        home / "project", readable=(home / ".config",), writable=("~/.daybook/caches/job",)
    )
    assert shown.shows(str(home / "project" / "sub"))
    assert shown.shows(str(home / ".config" / "tool"))
    assert shown.shows(str(home / ".daybook" / "caches" / "job"))
    for hidden, trying in rows.each((".ssh", ".netrc", "bin", ".daybook", ".config/gh", "")):
        with trying:
            assert not shown.shows(str(home / hidden))
    options = shown.options()
    order = [options.index(str(home / each)) for each in ("", ".config", ".config/gh")]
    assert order == sorted(order)


def test_a_workspace_shows_more_of_the_system(home: Path) -> None:
    for level in SandboxLevel:
        shown = plan(home / "project", level=level)
        assert shown.shows("/usr/bin/env") and shown.shows("/etc/passwd")
        assert shown.shows(mounts.interpreter())
        assert shown.shows("/etc/fstab") == (level is SandboxLevel.WORKSPACE)
        for hidden, trying in rows.each(
            ("/root", "/home", "/var", "/sys", "/run", "/srv", "/boot")
        ):
            with trying:
                assert not shown.shows(hidden)


def test_private_files_of_the_system_are_hidden(tmp_path: Path) -> None:
    for name, mode in {"public": 0o644, "key": 0o600, "group": 0o640}.items():
        (tmp_path / name).touch(mode)
        (tmp_path / name).chmod(mode)
    (tmp_path / "folder").mkdir(mode=0o755)
    (tmp_path / "folder" / "key").touch(0o600)
    (tmp_path / "private").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("key")
    assert set(mounts.private_entries(str(tmp_path))) == {
        (f"{tmp_path}/key", "--file"),
        (f"{tmp_path}/group", "--file"),
        (f"{tmp_path}/folder/key", "--file"),
        (f"{tmp_path}/private", "--dir"),
    }


REFUSED = (
    ("readable", "~/.ssh", "a place of credentials"),
    ("readable", "~/.config/gh", "a place of credentials"),
    ("readable", "~/link", "a place of credentials"),
    ("readable", "~/.daybook", "Daybook's home"),
    ("readable", "~/.daybook/prefect", "Daybook's home"),
    ("readable", "~/.daybook/worktrees", "Daybook's home"),
    ("readable", "/", "files of users"),
    ("readable", "/tmp", "files of users"),
    ("readable", "~", "files of users"),
    ("readable", "~/..", "files of users"),
    ("readable", "/proc/self", "interfaces of the system"),
    ("readable", "/sys", "interfaces of the system"),
    ("readable", "/dev", "interfaces of the system"),
    ("readable", "/run", "interfaces of the system"),
    ("readable", "relative", "is relative"),
    ("readable", "~/missing", "does not exist"),
    ("writable", "~", "files of users"),
    ("writable", "~/.config", "which no program may write"),
    ("writable", "/etc", "which has the system's programs"),
    ("writable", "/usr/share", "which has the system's programs"),
    ("writable", "/bin", "which has the system's programs"),
    ("folder", "~", "files of users"),
    ("folder", "/usr", "which has the system's programs"),
    ("folder", "~/.daybook/prefect", "Daybook's home"),
)


def test_a_path_that_no_sandbox_shows_is_refused(home: Path) -> None:
    (home / "link").symlink_to(home / ".ssh")
    for (which, path, problem), trying in rows.each(REFUSED):
        with trying, pytest.raises(InvalidInput, match=problem) as refused:
            if which == "folder":
                plan(Path(os.path.expanduser(path)))
            elif which == "readable":
                plan(home / "project", readable=(path,))
            else:
                plan(home / "project", writable=(path,))
            field = "work_dir" if which == "folder" else f"sandbox_{which}"
            assert refused.value.field == field
            assert refused.value.hint


def test_no_program_writes_the_code_of_daybook(home: Path) -> None:
    package = Path(mounts.__file__).parents[2]
    for path, trying in rows.each((package, package.parent, package / "api", Path(sys.prefix))):
        with trying:
            assert plan(home / "project", readable=(path,)).shows(str(path))
            with pytest.raises(InvalidInput, match=r"contains code of Daybook|system's programs"):
                plan(path)


def test_strict_has_no_network() -> None:
    with pytest.raises(InvalidInput, match="has no network"):
        Sandbox(SandboxLevel.STRICT, network="all")


# --- the filter of system calls


def result(program: bytes, machine: int, number: int, *arguments: int) -> int:
    """Return what the kernel does with a system call: run the filter."""
    data = struct.pack("=IIQ6Q", number, machine, 0, *arguments, *(0,) * (6 - len(arguments)))
    code = list(struct.iter_unpack("=HBBI", program))
    at = accumulator = 0
    while True:
        operation, then, otherwise, value = code[at]
        at += 1
        match operation:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", data, value)
            case 0x54:
                accumulator &= value
            case 0x15:
                at += then if accumulator == value else otherwise
            case 0x35:
                at += then if accumulator >= value else otherwise
            case 0x06:
                return int(value)


X86, ARM, I386 = 0xC000003E, 0xC00000B7, 0x40000003
UNIX, INET, VSOCK, STREAM, DATAGRAM, CLOEXEC = 1, 2, 40, 1, 2, 0o2000000


@pytest.mark.parametrize("unix", [False, True])
def test_the_filter_refuses_what_namespaces_do_not(unix: bool) -> None:
    x86 = syscalls.filter_program("x86_64", unix_sockets=unix)
    arm = syscalls.filter_program("aarch64", unix_sockets=unix)
    of_unix = ALLOWED if unix else EAFNOSUPPORT
    table = [
        (x86, X86, (0,), ALLOWED),  # read
        (x86, X86, (59,), ALLOWED),  # execve
        (x86, X86, (250,), EPERM),  # keyctl
        (x86, X86, (425,), EPERM),  # io_uring_setup
        (x86, X86, (0x40000000,), KILLED),  # read of x32
        (x86, I386, (3,), KILLED),  # read of i386
        (x86, X86, (16, 0, 0x5401), ALLOWED),  # ioctl TCGETS
        (x86, X86, (16, 0, 0x5412), EPERM),  # ioctl TIOCSTI
        (x86, X86, (16, 0, 0xFFFFFFFF00005412), EPERM),  # the kernel drops the high word
        (x86, X86, (41, INET, STREAM), ALLOWED),
        (x86, X86, (41, VSOCK, STREAM), EAFNOSUPPORT),
        (x86, X86, (41, UNIX, STREAM), of_unix),
        (x86, X86, (53, UNIX, STREAM | CLOEXEC), ALLOWED),
        (x86, X86, (53, UNIX, DATAGRAM | CLOEXEC), ALLOWED if unix else EPERM),
        (x86, X86, (90, 0, 0o755), ALLOWED),  # chmod
        (x86, X86, (90, 0, 0o4755), EPERM),
        (x86, X86, (268, 0, 0, 0o4755), EPERM),  # fchmodat
        (arm, ARM, (63,), ALLOWED),  # read
        (arm, ARM, (219,), EPERM),  # keyctl
        (arm, ARM, (29, 0, 0x5412), EPERM),
        (arm, ARM, (198, UNIX, STREAM), of_unix),
        (arm, ARM, (53, 0, 0, 0o4755), EPERM),  # fchmodat
        (arm, X86, (0,), KILLED),
    ]
    for (program, machine, call, expected), trying in rows.each(table):
        with trying:
            assert result(program, machine, *call) == expected


# --- a sandbox that cannot be built


def test_a_missing_or_unsafe_bwrap_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bwrap = tmp_path / "bwrap"
    monkeypatch.setattr(bubblewrap, "PLACES", (str(bwrap),))
    assert "apt-get install bubblewrap" in bubblewrap.why_unavailable()
    bwrap.touch()
    bwrap.chmod(0o777)
    assert "can be changed by other users" in bubblewrap.why_unavailable()
    bwrap.chmod(0o4755)
    assert f"chmod u-s,g-s {bwrap}" in bubblewrap.why_unavailable()
    with pytest.raises(SandboxUnavailable, match=r"the sandbox cannot be built: .* is a setuid"):
        bubblewrap.program()


def test_another_system_or_machine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syscalls, "MACHINES", ("vax",))
    assert bubblewrap.why_unavailable().endswith("only vax")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert bubblewrap.why_unavailable().startswith("only Linux has one")


MESSAGES = {
    "bwrap: setting up uid map: Permission denied": "bwrap-userns-restrict",
    "bwrap: loopback: Failed RTM_NEWADDR: Operation not permitted": "bwrap-userns-restrict",
    "bwrap: Can't mount proc on /newroot/proc: Operation not permitted": "systempaths=unconfined",
    "bwrap: Unknown option --disable-userns": "version 0.4, which is too old",
    "bwrap: execvp /bin/x: No such file or directory": "execvp /bin/x: No such file or directory",
}


def test_a_message_of_bwrap_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    switch, bwrap = tmp_path / "switch", tmp_path / "bwrap"
    monkeypatch.setattr(bubblewrap, "APPARMOR_SWITCH", str(switch))
    bwrap.write_text("#!/bin/sh\necho bubblewrap 0.4.1\n")
    bwrap.chmod(0o755)
    switch.write_text("1\n")
    for (message, fix), trying in rows.each(MESSAGES.items()):
        with trying:
            assert fix in bubblewrap.explain(str(bwrap), message)
    switch.write_text("0\n")
    assert "user.max_user_namespaces" in bubblewrap.explain(str(bwrap), next(iter(MESSAGES)))
