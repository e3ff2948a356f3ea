"""A sandbox for a program: what it may read and write, its network, and its limits.

::

    Sandbox.wrap ──► sh, bwrap ──► launcher ──► the program
                        │              └── limits; socket for the proxy
                        └── namespaces, mounts, filter of system calls

The program runs in namespaces of its own (user, processes, mounts, IPC, host name, and network
unless it has the host's), without capabilities, and cannot gain privileges. When the process that
`wrap` describes ends, the kernel ends all processes of the sandbox, daemons included.

On SIGTERM, only the program itself ends, as without a sandbox. `bwrap` ignores SIGTERM, because
its end would kill the program at once.
"""

from __future__ import annotations

import asyncio
import marshal
import os
import resource
import shlex
import socket
import struct
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from daybook.errors import InvalidInput
from daybook.processes import locations
from daybook.processes.sandboxes import bubblewrap, control_group, launcher, mounts, syscalls, watch
from daybook.processes.sandboxes.bubblewrap import SandboxUnavailable
from daybook.processes.sandboxes.mounts import SandboxLevel

_LAUNCHER = "/run/daybook/launcher.py"
_LAUNCHER_HERE = os.path.realpath(launcher.__file__)
_PRELUDE = 'trap "" TERM; { echo 500 > /proc/self/oom_score_adj; } 2>/dev/null; exec "$@"'
"""Shell script before `bwrap`. A machine without memory ends the sandbox before other programs."""
_PRELUDE_OF_ROOT = f'echo $$ > "$0" || exit 1; {_PRELUDE}'
_ATTACHED_BYTES = socket.CMSG_SPACE(4) + socket.CMSG_SPACE(12)
"""Room for a descriptor and for the pid, user and group of the sender."""
_NO_CORE_DUMP_BYTES = 1
"""Limit of a core dump. With 0, the kernel still starts the program that collects dumps."""


class NetworkProxy(Protocol):
    """Way out of a sandbox without the host's network: `daybook.http.host_proxy.HostProxy`."""

    async def serve(self, listener: socket.socket) -> None:
        """Accept connections of ``listener`` until the call is cancelled."""
        ...


@dataclass(frozen=True)
class SandboxLimits:
    """Limits of a sandboxed program; None is no limit.

    The kernel refuses more than ``memory_bytes`` of data in one process, ``cpu_seconds`` of CPU
    time of one process, ``file_bytes`` in one file, ``processes`` processes and threads of the
    sandbox, and ``temporary_bytes`` in each of the folders in memory: `/tmp`, `/dev/shm` and the
    home.

    `watch` ends a sandbox when all its processes together use more than ``memory_bytes``, or when
    the disk of its work directory has less than ``free_bytes`` of free space.
    """

    memory_bytes: int | None = None
    processes: int = 1024
    cpu_seconds: int | None = None
    file_bytes: int | None = None
    temporary_bytes: int = 2**30
    free_bytes: int | None = 2**28

    def resources(self) -> list[tuple[int, int]]:
        """Return the limits for `resource.setrlimit`."""
        named = {
            resource.RLIMIT_CORE: _NO_CORE_DUMP_BYTES,
            resource.RLIMIT_CPU: self.cpu_seconds,
            resource.RLIMIT_DATA: self.memory_bytes,
            resource.RLIMIT_FSIZE: self.file_bytes,
            resource.RLIMIT_NPROC: self.processes,
        }
        return [(number, value) for number, value in named.items() if value is not None]

    def watched(self) -> watch.WatchedLimits:
        """Return the limits of all processes together."""
        return watch.WatchedLimits(self.memory_bytes, self.free_bytes)


@dataclass(frozen=True)
class SandboxedProgram:
    """A program in a sandbox, for `daybook.processes.group.ProcessGroup`.

    Start ``arguments`` with exactly ``environment``, in any folder, in a session of its own.
    """

    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    pass_fds: tuple[int, ...]
    _report: _Report

    @property
    def exceeded(self) -> str:
        """Return the limit of the whole sandbox for which Daybook has ended it; empty if none."""
        return self._report.exceeded

    def check_started(self, errors: bytes) -> None:
        """Check after the end whether the program was started; ``errors`` is its standard error.

        Raise `SandboxUnavailable` if the sandbox could not be built, and OSError if the program
        could not be started in it.
        """
        messages = self._report.read()
        if not messages:
            said = errors.decode(errors="replace").strip().splitlines()
            line = said[0][:500] if said else "it was ended before the program began"
            raise SandboxUnavailable(bubblewrap.explain(bubblewrap.program(), line))
        if len(messages) > 1:
            number = int(messages[1])
            raise OSError(number, os.strerror(number))


@dataclass(frozen=True)
class Sandbox:
    """Description of a sandbox, the same for several programs.

    ``writable`` and ``readable`` are absolute paths, or begin with `~`, and must exist. ``network``
    is `none`, `all` (the network of this machine, its local services included), or the proxy that
    is the only way out. `SandboxLevel.STRICT` allows only `none`.
    """

    level: SandboxLevel
    writable: tuple[str, ...] = ()
    readable: tuple[str, ...] = ()
    network: Literal["none", "all"] | NetworkProxy = "none"
    limits: SandboxLimits = field(default_factory=SandboxLimits)

    def __post_init__(self) -> None:
        if self.level is SandboxLevel.STRICT and self.network != "none":
            hint = "use the level workspace, or no network"
            raise InvalidInput("sandbox_hosts", "the level strict has no network", hint)

    @asynccontextmanager
    async def wrap(
        self, arguments: Sequence[str], *, folder: str, environment: Mapping[str, str]
    ) -> AsyncIterator[SandboxedProgram]:
        """Yield the program ``arguments`` in this sandbox. Leave the block when it has ended.

        It gets exactly ``environment``, apart from `TMPDIR` and the variables of a proxy. Raise
        `SandboxUnavailable`, and `InvalidInput` for a path that no sandbox may show, or if the
        program itself is not visible.
        """
        bwrap = bubblewrap.program()
        folder = locations.real_path(folder)
        shown = mounts.plan(
            self.level,
            folder=folder,
            writable=self.writable,
            readable=self.readable,
            home=environment.get("HOME", ""),
            with_network=self.network == "all",
            temporary_bytes=self.limits.temporary_bytes,
        )
        _check_visible(arguments[0], shown, folder, environment)
        proxy = None if isinstance(self.network, str) else self.network
        report = _Report()
        descriptors = [report.inner.detach()]
        try:
            config = marshal.dumps(self._config(arguments, environment))
            descriptors += [_memory_file("config", config), _memory_file("filter", self._filter())]
            options = [*bubblewrap.ISOLATION, "--seccomp", str(descriptors[2])]
            options += [] if self.network == "all" else ["--unshare-net"]
            options += [*shown.options(), "--ro-bind", _LAUNCHER_HERE, _LAUNCHER]
            options += ["--remount-ro", "/", "--chdir", folder]
            launching = [mounts.interpreter(), "-I", "-S", "-B", _LAUNCHER]
            launching += [str(descriptors[1]), str(descriptors[0])]
            with self._prelude() as prelude:
                command = ("/bin/sh", "-c", *prelude, bwrap, *options, "--", *launching)
                async with report.attending(proxy, folder, self.limits.watched()):
                    yield SandboxedProgram(command, {}, tuple(descriptors), report)
        finally:
            for each in descriptors:
                os.close(each)
            report.close()

    def _config(self, arguments: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
        """Return what the launcher reads."""
        temporary = {"TMPDIR": "/tmp"} if "TMPDIR" in environment else {}
        return {
            "arguments": list(arguments),
            "environment": {**environment, **temporary},
            "limits": self.limits.resources(),
            "listens": not isinstance(self.network, str),
        }

    @contextmanager
    def _prelude(self) -> Iterator[tuple[str, str]]:
        """Yield the script before `bwrap`, and its argument."""
        if os.getuid() != 0:
            yield _PRELUDE, "sh"
            return
        with control_group.limited(self.limits.processes) as members:
            yield _PRELUDE_OF_ROOT, str(members)

    def _filter(self) -> bytes:
        unix_sockets = self.level is SandboxLevel.WORKSPACE and self.network != "all"
        return syscalls.filter_program(os.uname().machine, unix_sockets=unix_sockets)


def why_unavailable() -> str:
    """Return why this machine cannot build a sandbox, and the fix; empty if it can.

    The first call that succeeds takes about 10 ms, and later ones in this process less than one.
    """
    if problem := bubblewrap.why_unavailable():
        return problem
    if os.getuid() == 0:
        try:
            with control_group.limited(1):
                pass
        except SandboxUnavailable as error:
            return error.why
    return ""


class _Report:
    """Socket on which the launcher reports, and sends the socket for the proxy."""

    def __init__(self) -> None:
        self.outer, self.inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.outer.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.outer.setblocking(False)
        self.exceeded = ""
        self._messages: list[bytes] = []
        self._listener: socket.socket | None = None
        self._program = 0

    def read(self) -> list[bytes]:
        """Return all messages that have arrived."""
        with suppress(BlockingIOError, ConnectionError):
            while True:
                message, attached, _, _ = self.outer.recvmsg(64, _ATTACHED_BYTES)
                if not message:
                    break
                self._messages.append(message)
                for _, kind, data in attached:
                    if kind == socket.SCM_RIGHTS:
                        self._listener = socket.socket(fileno=struct.unpack("i", data[:4])[0])
                    elif kind == socket.SCM_CREDENTIALS:
                        self._program = struct.unpack("3i", data)[0]
        return self._messages

    @asynccontextmanager
    async def attending(
        self, proxy: NetworkProxy | None, folder: str, limits: watch.WatchedLimits
    ) -> AsyncIterator[None]:
        """Let ``proxy`` serve the sandbox, and enforce ``limits``, during the block."""
        task = asyncio.create_task(self._attend(proxy, folder, limits))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})
            failed = not task.cancelled() and task.exception() is not None
        if failed:
            task.result()

    async def _attend(
        self, proxy: NetworkProxy | None, folder: str, limits: watch.WatchedLimits
    ) -> None:
        loop = asyncio.get_running_loop()
        arrived = asyncio.Event()
        loop.add_reader(self.outer, arrived.set)
        try:
            await arrived.wait()
        finally:
            loop.remove_reader(self.outer)
        self.read()
        async with asyncio.TaskGroup() as tasks:
            if proxy is not None and self._listener is not None:
                tasks.create_task(proxy.serve(self._listener))
            self.exceeded = await watch.enforce(self._program, folder, limits)

    def close(self) -> None:
        self.outer.close()
        if self._listener is not None:
            self._listener.close()


def _memory_file(name: str, content: bytes) -> int:
    """Return the descriptor of a file in memory, to be read from its beginning."""
    if sys.platform != "linux":
        raise SandboxUnavailable("it needs Linux")
    descriptor = os.memfd_create(f"daybook-{name}")
    with os.fdopen(os.dup(descriptor), "wb") as file:
        file.write(content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _check_visible(
    name: str, shown: mounts.Mounts, folder: str, environment: Mapping[str, str]
) -> None:
    """Raise `InvalidInput` if the program exists on this machine, but not in the sandbox."""
    if "/" in name:
        paths = [os.path.join(folder, os.path.expanduser(name))]
    else:
        places = environment.get("PATH", os.defpath).split(os.pathsep)
        paths = [os.path.join(folder, each, name) for each in places if each]
    found = [each for each in paths if os.path.isfile(each) and os.access(each, os.X_OK)]
    if found and not any(map(shown.shows_program, found)):
        raise InvalidInput(
            "sandbox_readable",
            f"the program {found[0]} is not visible in the sandbox",
            f"add {_options(found[0])} to its agent, or install it in /usr/local/bin",
        )


def _options(program: str) -> str:
    """Return the options that show the folders of a program, which may be a link."""
    folders = dict.fromkeys(map(os.path.dirname, (program, os.path.realpath(program))))
    return " ".join(f"--sandbox-readable {shlex.quote(each)}" for each in folders)
