"""Three hosts in network namespaces, with clocks of their own, and partitions between them.

::

    bridge ─┬─ host-1  .1  worker-1 and a home that has joined the ledger, clock 30 s ahead
            ├─ host-2  .2  worker-2 and a home that has joined the ledger, clock 30 s behind
            ├─ host-3  .3  HAProxy, PostgreSQL and its standby, Redis, Prefect, the keepers
            └─ .254        the test's own process, which no partition cuts off

All hosts have the same file system and the same process ids.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

COUNT = 3
SERVER_NUMBER = 3
"""Number of the host with the database and Prefect."""
PREFECT_PORT = 4200
DATABASE_PORT = 5432
"""Ports of HAProxy for Prefect and for the primary."""
_CLOCKS_SECONDS = {1: 30, 2: -30, 3: 0}
"""How far the clock of each host is ahead."""
_NOWHERE = "02:00:00:00:00:01"
"""Hardware address of no host: packets that are sent to it vanish silently."""


@dataclass(frozen=True)
class Host:
    """A host; without a ``namespace``, this machine itself."""

    name: str
    address: str
    namespace: str = ""
    clock_seconds: int = 0

    def command(self, command: Sequence[str]) -> list[str]:
        """Return a command line that becomes ``command`` on this host, with the same pid."""
        if not self.namespace:
            return list(command)
        inside = ("nsenter", f"--net=/run/netns/{self.namespace}", "unshare", "--uts")
        return [*inside, "sh", "-c", 'hostname "$0" && exec "$@"', self.name, *command]

    def variables(self) -> dict[str, str]:
        """Return the environment variables that give a process the clock of this host."""
        if not self.clock_seconds:
            return {}
        return {
            "LD_PRELOAD": _faketime(),
            "FAKETIME": f"{self.clock_seconds:+}s",
            "DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DISABLE_SHM": "1",
        }


THIS_MACHINE = Host("", "127.0.0.1")


@dataclass
class Network:
    """The hosts of one test, on a bridge of this machine, which has the address ``outside``."""

    name: str
    outside: str
    hosts: dict[int, Host]
    _cuts: Counter[tuple[int, int]] = field(default_factory=Counter)

    @property
    def server(self) -> Host:
        return self.hosts[SERVER_NUMBER]

    def host_of(self, member: str) -> Host:
        """Return the host of a member of the cluster: workers are on the first two in turn."""
        kind, _, number = member.partition("-")
        if kind != "worker":
            return self.server
        return self.hosts[(int(number) - 1) % (SERVER_NUMBER - 1) + 1]

    async def partition(self, which: float, seconds: float) -> str:
        """Drop all packets between two hosts; ``which`` in [0, 1) selects them.

        Return their names.
        """
        pairs = ((1, 3), (2, 3), (1, 2))
        pair = pairs[int(which * len(pairs))]
        self._cuts[pair] += 1
        try:
            self._set_reachable(pair, reachable=False)
            await asyncio.sleep(seconds)
        finally:
            self._cuts[pair] -= 1
            if not self._cuts[pair]:
                self._set_reachable(pair, reachable=True)
        return " and ".join(self.hosts[number].name for number in pair)

    def _set_reachable(self, pair: tuple[int, int], *, reachable: bool) -> None:
        for one, other in (pair, pair[::-1]):
            what = ("neigh", "del") if reachable else ("neigh", "replace")
            to = () if reachable else ("lladdr", _NOWHERE, "nud", "permanent")
            here, there = self.hosts[one], self.hosts[other]
            _ip("-n", here.namespace, *what, there.address, *to, "dev", "eth0")


@contextmanager
def network() -> Iterator[Network]:
    """Create the hosts; remove them at the end."""
    name, subnet = f"c{os.getpid()}", f"10.213.{random.SystemRandom().randrange(256)}"
    hosts = {
        number: Host(f"host-{number}", f"{subnet}.{number}", f"{name}h{number}", clock_seconds)
        for number, clock_seconds in _CLOCKS_SECONDS.items()
    }
    try:
        _ip("link", "add", name, "type", "bridge")
        _ip("addr", "add", f"{subnet}.254/24", "dev", name)
        _ip("link", "set", name, "up")
        for each in hosts.values():
            inside = ("-n", each.namespace)
            _ip("netns", "add", each.namespace)
            peer = ("type", "veth", "peer", "name", "eth0", "netns", each.namespace)
            _ip("link", "add", each.namespace, *peer)
            _ip("link", "set", each.namespace, "master", name, "up")
            _ip(*inside, "addr", "add", f"{each.address}/24", "dev", "eth0")
            for interface in ("eth0", "lo"):
                _ip(*inside, "link", "set", interface, "up")
        yield Network(name, f"{subnet}.254", hosts)
    finally:
        for each in hosts.values():
            subprocess.run(["ip", "netns", "del", each.namespace], check=False)
        subprocess.run(["ip", "link", "del", name], check=False)


def missing() -> str:
    """Return what the hosts need and this machine does not have; "" if nothing."""
    if os.geteuid():
        return "root"
    programs = ("ip", "nsenter", "unshare", "setpriv")
    if absent := next((each for each in programs if not shutil.which(each)), ""):
        return absent
    return "" if _faketime() else "libfaketime"


def _faketime() -> str:
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    return str(found[0]) if found else ""


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)
