"""The files that a sandbox shows, as options of `bwrap`.

A sandbox begins with nothing. It shows folders of the system, the folders that are named, the work
directory, and private folders in memory: `/tmp`, `/dev/shm` and the user's home. All other folders
do not exist in it, such as the homes of other users, `/run` with the sockets of services, and
`/sys`. A folder deeper in the tree comes after the folders around it, so it counts more than they.

Paths are followed to their real path first, and shown there. Where a link was named, the sandbox
has the same link. A link inside a folder leads to what the sandbox shows at its target.
"""

from __future__ import annotations

import os
import pwd
import stat
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import daybook
from daybook.errors import InvalidInput
from daybook.home import current_home


class SandboxLevel(StrEnum):
    """What a sandboxed program may read: the system, or only what is named.

    Programs and their libraries (`PROGRAMS`) and `STRICT_CONFIGURATION` are visible in both,
    because no program starts without them.
    """

    WORKSPACE = "workspace"
    STRICT = "strict"


PROGRAMS = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/nix/store",
    "/gnu/store",
)
"""Folders with programs and libraries."""
SYSTEM = ("/etc", "/opt", "/nix", "/run/current-system")
"""Further folders that `SandboxLevel.WORKSPACE` shows."""
STRICT_CONFIGURATION = (
    "/etc/alternatives",
    "/etc/ca-certificates",
    "/etc/crypto-policies",
    "/etc/group",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/pki/ca-trust",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/tls/certs",
    "/etc/protocols",
    "/etc/services",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
)
"""Files of `/etc` that `SandboxLevel.STRICT` shows."""
NEVER_IN_A_HOME = (
    ".aws",
    ".azure",
    ".cargo/credentials",
    ".cargo/credentials.toml",
    ".config/gcloud",
    ".config/gh",
    ".docker",
    ".git-credentials",
    ".gnupg",
    ".kube",
    ".local/share/keyrings",
    ".netrc",
    ".npmrc",
    ".password-store",
    ".pgpass",
    ".pypirc",
    ".ssh",
    ".vault-token",
)
"""Credentials in a user's home. No sandbox shows them, even inside a named folder."""
OPEN_IN_DAYBOOKS_HOME = ("caches", "repositories", "worktrees")
"""Folders of Daybook's home inside which a folder may be named."""

_NEVER_NAMED = ("/dev", "/proc", "/run", "/sys", "/var/run")
_TOO_MUCH = ("/", "/tmp", "/var", "/var/tmp")
"""Folders inside which a folder may be named, but that have files and sockets of all users."""
_NEVER_WRITTEN = (*PROGRAMS, "/boot", "/etc", "/nix", "/run/current-system")
_TEMPORARY = ("/tmp", "/dev/shm")
_HIDDEN_IN_PROC = (
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/key-users",
    "/proc/keys",
    "/proc/kmsg",
    "/proc/sched_debug",
    "/proc/timer_list",
)
_ANY_WRITE = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
_OTHERS_READ = {False: stat.S_IROTH, True: stat.S_IROTH | stat.S_IXOTH}


@dataclass
class Mounts:
    """What a sandbox shows; `options` returns it for `bwrap`.

    ``shown`` maps the real path of each folder or file to the option that shows it.
    """

    temporary_bytes: int
    shown: dict[str, str] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)

    def shows(self, path: str) -> bool:
        """Return whether the sandbox shows the real path of a file of this machine."""
        option = next((self.shown[each] for each in _upwards(path) if each in self.shown), "")
        return option in ("--bind", "--ro-bind")

    def shows_program(self, path: str) -> bool:
        """Return whether ``path``, which may be a link, leads to a file in the sandbox too."""
        folder, name = os.path.split(path)
        link = os.path.join(os.path.realpath(folder), name)
        return self.shows(os.path.realpath(path)) and (self.shows(link) or path in self.links)

    def options(self) -> list[str]:
        """Return the options of `bwrap`. The root folder stays writable."""
        result = ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]
        for path in _kernel_files():
            result += ["--ro-bind", path, path]
        for path in filter(os.path.exists, _HIDDEN_IN_PROC):
            result += ["--ro-bind", "/dev/null", path]
        order = sorted(
            [*((path, "", option) for path, option in self.shown.items())]
            + [(path, target, "--symlink") for path, target in self.links.items()],
            key=lambda each: (each[0].count("/"), each[0]),
        )
        for path, target, option in order:
            if option == "--tmpfs":
                result += ["--size", str(self.temporary_bytes), option, path]
            elif option == "--symlink":
                result += [option, target, path]
            elif option == "--dir":
                result += [
                    "--perms",
                    "0000",
                    "--size",
                    "4096",
                    "--tmpfs",
                    path,
                    "--remount-ro",
                    path,
                ]
            elif option == "--file":
                result += ["--ro-bind", "/dev/null", path]
            else:
                result += [option, path, path]
        return result


def plan(
    level: SandboxLevel,
    *,
    folder: str,
    writable: Sequence[str] = (),
    readable: Sequence[str] = (),
    home: str = "",
    with_network: bool = False,
    temporary_bytes: int = 2**30,
) -> Mounts:
    """Return what a sandbox of ``level`` shows.

    The program works in ``folder`` and may write it and the ``writable`` folders; it may read the
    ``readable`` ones. ``home`` is the home in the program's environment, of which it gets an empty
    one in memory. ``with_network`` shows the configuration of the network's names.

    Raise `InvalidInput` for a path that does not exist, or that no sandbox may show.
    """
    mounts = Mounts(temporary_bytes)
    for path in _TEMPORARY:
        mounts.shown[path] = "--tmpfs"
    mounts.links["/var/tmp"] = "/tmp"
    for path in PROGRAMS + (SYSTEM if level is SandboxLevel.WORKSPACE else STRICT_CONFIGURATION):
        _show_system(mounts, path)
    if level is SandboxLevel.WORKSPACE:
        for path, option in private_entries("/etc"):
            mounts.shown[path] = option
    if with_network and os.path.exists("/etc/resolv.conf"):
        mounts.shown[os.path.realpath("/etc/resolv.conf")] = "--ro-bind"
    _show_interpreter(mounts)
    if os.path.isabs(home) and os.path.realpath(home) != "/" and not mounts.shows(home):
        _show(mounts, home, "--tmpfs")
    protected = _protected()
    for path in readable:
        _check(path, protected, "readable")
        _show(mounts, path, "--ro-bind")
    for path in writable:
        _check(path, protected, "writable")
        _show(mounts, path, "--bind")
    _check(folder, protected, "folder")
    _show(mounts, folder, "--bind")
    for path in protected:
        if os.path.exists(path) and mounts.shows(path) and path not in mounts.shown:
            mounts.shown[path] = "--dir" if os.path.isdir(path) else "--file"
    return mounts


def _show(mounts: Mounts, path: str, option: str) -> None:
    named, real = (
        os.path.normpath(os.path.expanduser(path)),
        os.path.realpath(os.path.expanduser(path)),
    )
    mounts.shown[real] = option
    if named != real and not mounts.shows(os.path.realpath(os.path.dirname(named))):
        mounts.links[named] = real


def _show_system(mounts: Mounts, path: str) -> None:
    if os.path.islink(path):
        mounts.links[path] = os.readlink(path)
    elif os.path.exists(path):
        mounts.shown[path] = "--ro-bind"


def interpreter() -> str:
    """Return the real path of this process's interpreter, outside a virtual environment."""
    return os.path.realpath(sys.executable)


def _show_interpreter(mounts: Mounts) -> None:
    """Show the interpreter with its standard library, for the launcher."""
    for path in {os.path.realpath(sys.base_prefix), os.path.realpath(sys.base_exec_prefix)}:
        if not mounts.shows(path):
            mounts.shown[path] = "--ro-bind"


def _protected() -> list[str]:
    """Return the real paths that no sandbox shows: Daybook's home, and credentials of the user."""
    paths = [os.path.join(home, each) for home in _homes() for each in NEVER_IN_A_HOME]
    return list(dict.fromkeys(map(os.path.realpath, [str(current_home().path), *paths])))


def _homes() -> set[str]:
    """Return the homes of this user, by the environment and by the system."""
    return {os.path.expanduser("~"), pwd.getpwuid(os.getuid()).pw_dir} - {"/"}


def _own_code() -> list[str]:
    """Return the real paths of the code that runs this process, outside of any sandbox."""
    package = os.path.dirname(daybook.__file__)
    return [os.path.realpath(each) for each in (package, sys.prefix, sys.base_prefix)]


def _check(path: str, protected: Sequence[str], which: str) -> None:
    """Raise `InvalidInput` if no sandbox may show ``path`` as ``which``."""
    field = "work_dir" if which == "folder" else f"sandbox_{which}"
    expanded = os.path.expanduser(path)
    if not os.path.isabs(expanded):
        raise InvalidInput(field, f"{path} is relative", "write an absolute path or ~/…")
    real = os.path.realpath(expanded)
    if not os.path.exists(real):
        raise InvalidInput(field, f"{path} does not exist", "create it, or remove it from the list")
    around = list(_upwards(real))
    inside = [each for each in protected if each in around]
    open_folders = [os.path.join(protected[0], each) for each in OPEN_IN_DAYBOOKS_HOME]
    if inside and not (
        inside == protected[:1] and any(each in around[1:] for each in open_folders)
    ):
        what = "Daybook's home" if inside[0] == protected[0] else "a place of credentials"
        hint = "copy the files that the program needs into another folder"
        raise InvalidInput(field, f"{path} is in {what}, {inside[0]}", hint)
    hint = "name the folders that the program needs"
    if any(each in around for each in _NEVER_NAMED):
        raise InvalidInput(field, f"{path} has interfaces of the system and of services", hint)
    if real in _TOO_MUCH or any(real in _upwards(os.path.realpath(each)) for each in _homes()):
        raise InvalidInput(field, f"{path} has files of users, such as credentials", hint)
    if which == "readable":
        return
    if system := [each for each in map(os.path.realpath, _NEVER_WRITTEN) if each in around]:
        hint = "use a folder for data"
        raise InvalidInput(
            field, f"{path} is in {system[0]}, which has the system's programs", hint
        )
    if own := [each for each in _own_code() if real in _upwards(each) or each in around]:
        hint = "use another folder; to change Daybook, install it elsewhere"
        raise InvalidInput(field, f"{path} contains code of Daybook, {own[0]}", hint)
    if within := [each for each in protected if real in _upwards(each)]:
        hint = "use a folder deeper inside, or name it as readable"
        raise InvalidInput(field, f"{path} contains {within[0]}, which no program may write", hint)


def _upwards(path: str) -> Iterator[str]:
    """Yield ``path`` and each folder around it, except the root."""
    while path not in ("", "/"):
        yield path
        path = os.path.dirname(path)


def _kernel_files() -> Iterator[str]:
    """Yield the parts of `/proc` by which root changes the kernel, even without capabilities.

    They are the same for all processes, so that those of this machine can be shown read-only.
    """
    with os.scandir("/proc") as entries:
        for entry in entries:
            if entry.name.isdigit() or entry.is_symlink() or entry.path in _HIDDEN_IN_PROC:
                continue
            if entry.is_dir() or entry.stat().st_mode & _ANY_WRITE:
                yield entry.path


def private_entries(folder: str) -> Iterator[tuple[str, str]]:
    """Yield what not every user of this machine may read, but this user may, with its option.

    For root these are passwords and private keys; they are also files of this user's groups.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink():
                continue
            is_folder = entry.is_dir(follow_symlinks=False)
            needed = _OTHERS_READ[is_folder]
            if entry.stat(follow_symlinks=False).st_mode & needed != needed:
                if os.access(entry.path, os.R_OK):
                    yield entry.path, "--dir" if is_folder else "--file"
            elif is_folder:
                yield from private_entries(entry.path)
