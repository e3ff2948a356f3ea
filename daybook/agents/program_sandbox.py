"""The sandbox of one program of a run: what it may use, and what it was refused."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

from daybook.policies.sandboxes import ALL_HOSTS, HostPattern

if TYPE_CHECKING:
    from daybook.http.guard import Guard
    from daybook.processes.sandboxes.sandbox import SandboxedProgram

MEMORY_SHARE = 0.75
"""Share of the machine's memory that the programs of a sandbox may use together."""


@dataclass(frozen=True)
class ProgramSandbox:
    """What a program may use besides its work directory.

    - ``level``: `workspace` or `strict`, which has no network.
    - ``hosts``: entries of `Policy.sandbox_hosts`; ``guard`` checks their addresses.
    - ``readable``, ``writable``: paths, absolute or with `~`; those that do not exist are left out.
    - ``cache``: folder for the program's caches, which is created; "" for none.
    - ``refused``: the hosts that a program was refused, each `host:port` with the reason.
    """

    level: str
    guard: Guard = field(repr=False)
    hosts: tuple[str, ...] = ()
    readable: tuple[str, ...] = ()
    writable: tuple[str, ...] = ()
    cache: str = ""
    refused: dict[str, str] = field(default_factory=dict, compare=False)

    def with_more(
        self,
        *,
        hosts: Sequence[str] = (),
        readable: Sequence[str] = (),
        writable: Sequence[str] = (),
    ) -> Self:
        """Return a sandbox that shows more. The refused hosts of both are the same."""
        return replace(
            self,
            hosts=(*self.hosts, *hosts),
            readable=(*self.readable, *readable),
            writable=(*self.writable, *writable),
        )

    def anew(self) -> Self:
        """Return an equal sandbox, which has refused no host yet."""
        return replace(self, refused={})

    @asynccontextmanager
    async def wrap(
        self, arguments: Sequence[str], *, folder: str, environment: Mapping[str, str]
    ) -> AsyncIterator[SandboxedProgram]:
        """Yield the program in this sandbox, in which it may write to ``folder``.

        Raise `SandboxUnavailable` if this machine cannot build it, and `InvalidInput` for a path
        that no sandbox may show.
        """
        from daybook.http.host_proxy import HostProxy  # slow to import
        from daybook.processes.sandboxes.mounts import SandboxLevel
        from daybook.processes.sandboxes.sandbox import Sandbox, SandboxLimits

        environment, writable = dict(environment), (folder, *_existing(self.writable))
        if self.cache:
            make_cache(self.cache)
            writable += (self.cache,)
            environment |= cache_variables(self.cache)
        level = SandboxLevel(self.level)
        network: HostProxy | str = "none"
        if level is SandboxLevel.WORKSPACE and ALL_HOSTS in self.hosts:
            network = "all"
        elif level is SandboxLevel.WORKSPACE and self.hosts:
            patterns = tuple(HostPattern.parse(each) for each in self.hosts)
            network = HostProxy(patterns, self.guard.for_program(), refused=self.refused)
        readable = tuple(_existing(self.readable))
        limits = SandboxLimits(memory_bytes=int(_memory_bytes() * MEMORY_SHARE))
        sandbox = Sandbox(level, writable, readable, network, limits)  # type: ignore[arg-type]
        async with sandbox.wrap(arguments, folder=folder, environment=environment) as wrapped:
            yield wrapped

    def warnings(self) -> tuple[str, ...]:
        """Return a line for each refused host."""
        return tuple(
            f"the sandbox refused {place} ({why}); --sandbox-host {place} allows a public host"
            for place, why in self.refused.items()
        )


def to_start(name: str, found: str, sandbox: ProgramSandbox | None) -> str:
    """Return how to start the program ``name``, which is the file ``found`` outside of a sandbox.

    In a sandbox, a name on the PATH may stand for another file, because some folders are hidden.
    """
    return found if sandbox is None or "/" in name else name


def make_cache(folder: str) -> None:
    """Create the folder for caches, unless it exists."""
    os.makedirs(folder, mode=0o700, exist_ok=True)


def cache_variables(folder: str) -> dict[str, str]:
    """Return the variables by which uv, pip, npm and others find their caches."""
    return {"XDG_CACHE_HOME": folder, "npm_config_cache": os.path.join(folder, "npm")}


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _existing(paths: Sequence[str]) -> list[str]:
    return [each for each in dict.fromkeys(paths) if os.path.exists(os.path.expanduser(each))]
