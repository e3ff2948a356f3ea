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
import socket
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from daybook.errors import InvalidInput
from daybook.processes.sandboxes import bubblewrap, launcher, mounts, syscalls
from daybook.processes.sandboxes.bubblewrap import SandboxUnavailable
from daybook.processes.sandboxes.mounts import SandboxLevel

_LAUNCHER = "/run/daybook/launcher.py"
_IGNORE_SIGTERM = 'trap "" TERM; exec "$@"'
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

    ``memory_bytes`` (data of one process), ``cpu_seconds`` (of one process) and ``file_bytes`` (size
    of one file) hold for each process. ``processes`` is the number of processes and threads of the
    sandbox; a worker that runs as root cannot limit it. ``temporary_bytes`` is the size of each of
    the folders in memory: `/tmp`, `/dev/shm` and the home.
    """

    memory_bytes: int | None = None
    processes: int | None = 1024
    cpu_seconds: int | None = None
    file_bytes: int | None = None
    temporary_bytes: int = 2**30

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


@dataclass(frozen=True)
class SandboxedProgram:
    """A program in a sandbox, for `daybook.processes.group.ProcessGroup`.

    Start ``arguments`` with exactly ``environment``, in any folder, in a session of its own.
    """

    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    pass_fds: tuple[int, ...]
    _report: _Report

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
            raise InvalidInput("sandbox.network", "the level strict has no network", hint)

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
        inside = dict(environment)
        if "TMPDIR" in inside:
            inside["TMPDIR"] = "/tmp"
        config = {
            "arguments": list(arguments),
            "environment": inside,
            "limits": self.limits.resources(),
            "listens": proxy is not None,
        }
        unix_sockets = self.level is SandboxLevel.WORKSPACE and self.network != "all"
        filtering = syscalls.filter_program(os.uname().machine, unix_sockets=unix_sockets)
        report = _Report()
        descriptors = [report.inner.detach()]
        try:
            for name, content in (("config", marshal.dumps(config)), ("filter", filtering)):
                descriptors.append(_memory_file(name, content))
            options = [*bubblewrap.ISOLATION, "--seccomp", str(descriptors[2])]
            options += [] if self.network == "all" else ["--unshare-net"]
            options += shown.options()
            options += ["--ro-bind", str(Path(launcher.__file__).resolve()), _LAUNCHER]
            options += ["--remount-ro", "/", "--chdir", os.path.realpath(folder)]
            launching = [mounts.interpreter(), "-I", "-S", "-B", _LAUNCHER]
            launching += [str(descriptors[1]), str(descriptors[0])]
            command = ["/bin/sh", "-c", _IGNORE_SIGTERM, "sh", bwrap, *options, "--", *launching]
            program = SandboxedProgram(tuple(command), {}, tuple(descriptors), report)
            async with report.serving(proxy):
                yield program
        finally:
            for each in descriptors:
                os.close(each)
            report.close()


class _Report:
    """Socket on which the launcher reports, and sends the socket for the proxy."""

    def __init__(self) -> None:
        self.outer, self.inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.outer.setblocking(False)
        self._messages: list[bytes] = []
        self._listener: socket.socket | None = None

    def read(self) -> list[bytes]:
        """Return all messages that have arrived."""
        with suppress(BlockingIOError, ConnectionError):
            while True:
                message, descriptors, _, _ = socket.recv_fds(self.outer, 64, 1)
                if not message:
                    break
                self._messages.append(message)
                for each in descriptors:
                    self._listener = socket.socket(fileno=each)
        return self._messages

    @asynccontextmanager
    async def serving(self, proxy: NetworkProxy | None) -> AsyncIterator[None]:
        """Let ``proxy`` serve the sandbox during the block."""
        if proxy is None:
            yield
            return
        task = asyncio.create_task(self._serve(proxy))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _serve(self, proxy: NetworkProxy) -> None:
        loop = asyncio.get_running_loop()
        arrived = asyncio.Event()
        loop.add_reader(self.outer, arrived.set)
        try:
            await arrived.wait()
        finally:
            loop.remove_reader(self.outer)
        self.read()
        if self._listener is not None:
            await proxy.serve(self._listener)

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
            "sandbox.readable",
            f"the program {found[0]} is not visible in the sandbox",
            f"name {_folders(found[0])} as readable",
        )


def _folders(program: str) -> str:
    real = os.path.realpath(program)
    return " and ".join(dict.fromkeys([os.path.dirname(program), os.path.dirname(real)]))
