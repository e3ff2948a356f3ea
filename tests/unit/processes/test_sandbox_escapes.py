"""A hostile program in sandboxes achieves only what docs/operations/security.md lists."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

from daybook.processes.sandboxes import mounts
from daybook.processes.sandboxes.mounts import SandboxLevel
from daybook.processes.sandboxes.sandbox import Sandbox, SandboxLimits
from tests.unit.processes import sandboxed
from tests.unit.processes.hostile import program
from tests.unit.processes.hostile.registry import ATTEMPTS
from tests.unit.processes.hostile.targets import Target, prepared

pytestmark = [
    pytest.mark.anyio,
    sandboxed.needs_bubblewrap,
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="calls have the numbers of x86_64"),
]

LIMITS = SandboxLimits(
    memory_bytes=256 * 2**20,
    processes=200,
    cpu_seconds=10,
    file_bytes=64 * 2**20,
    temporary_bytes=64 * 2**20,
    free_bytes=None,
)
START = (
    "import sys; sys.path.insert(0, '.'); "
    "from tests.unit.processes.hostile.program import main; main()"
)
CAP_SYS_ADMIN = 21

IN_NAMED_FOLDERS = {
    "connect to a Unix socket of the host that is in the work dir",
    "connect to a Unix socket of the host in a readable folder",
    "send a datagram to a Unix socket of the host that is in the work dir",
}
"""What a program achieves in a workspace with its own network."""
ON_THE_NETWORK = {
    "ask a name server of the host",
    "connect to a service by IPv6",
    "connect to a service by an IPv4 address in IPv6",
    "connect to a service on 0.0.0.0",
    "connect to a service on 127.0.0.1",
    "connect to a service on localhost",
    "connect to an address of this machine's network card",
    "find a route by IPv6",
    "find a route to a metadata service",
    "find a route to a private network",
    "find a route to a public address",
    "find a route to a public name server",
    "find an abstract Unix socket of the host",
    "see the network cards of the host",
    "send a datagram to the host",
}
"""What a program achieves with the network of this machine."""
MAY_FAIL = {
    "connect to an address of this machine's network card",
    "create a ping socket",
    "find a route by IPv6",
    "find a route to a metadata service",
    "find a route to a private network",
    "find a route to a public address",
    "find a route to a public name server",
    "resolve a name",
    "see the network cards of the host",
}
"""What depends on the network and the settings of the machine."""


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    with tempfile.TemporaryDirectory() as folder:  # short, because the path of a socket must be
        root = Path(folder).resolve()
        monkeypatch.setenv("HOME", str(root / "user"))
        monkeypatch.setenv("DAYBOOK_HOME", str(root / "daybook"))
        monkeypatch.setenv("DAYBOOK_TEST_SECRET", "worker-secret")
        with prepared(root) as target:
            yield target


async def achieved(target: Target, names: set[str], sandbox: Sandbox | None) -> set[str]:
    """Return the attempts that succeeded."""
    here = Path(program.__file__).parent
    copied = target.work / "tests" / "unit" / "processes" / "hostile"
    shutil.copytree(here, copied, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    (target.work / "targets.json").write_text(json.dumps(target.named))
    command = [mounts.interpreter(), "-I", "-S", "-B", "-c", START, "targets.json", *sorted(names)]
    with os.fdopen(os.open(target.named["sibling_file"], os.O_RDONLY)) as open_file:
        os.set_inheritable(open_file.fileno(), True)
        done = await sandboxed.run(sandbox, command, target.work)
    reports: dict[str, str] = json.loads(done.lines[0])
    assert set(reports) == names
    assert target.victim.poll() is None
    return {name for name, report in reports.items() if report.startswith("+")}


def sandbox(target: Target, level: SandboxLevel, network: Literal["none", "all"]) -> Sandbox:
    named = (target.readable, target.home / ".config", target.store)
    return Sandbox(level, readable=tuple(map(str, named)), network=network, limits=LIMITS)


async def test_without_a_sandbox_the_attempts_succeed(target: Target) -> None:
    kinds = {"any", "root"} if is_powerful() else {"any"}
    names = {name for name, (_, control) in ATTEMPTS.items() if control in kinds}
    assert await achieved(target, names, None) == names


async def test_nothing_succeeds_in_a_strict_sandbox(target: Target) -> None:
    assert len(ATTEMPTS) >= 200
    assert (
        await achieved(target, set(ATTEMPTS), sandbox(target, SandboxLevel.STRICT, "none")) == set()
    )
    unchanged(target)


async def test_what_succeeds_in_a_workspace_is_listed(target: Target) -> None:
    found = await achieved(target, set(ATTEMPTS), sandbox(target, SandboxLevel.WORKSPACE, "none"))
    assert found == IN_NAMED_FOLDERS
    unchanged(target)


async def test_what_succeeds_with_the_network_is_listed(target: Target) -> None:
    found = await achieved(target, set(ATTEMPTS), sandbox(target, SandboxLevel.WORKSPACE, "all"))
    assert found - MAY_FAIL == ON_THE_NETWORK - MAY_FAIL
    unchanged(target)


def unchanged(target: Target) -> None:
    """Check on the host that the program has written nothing outside of its folders."""
    for name, path in target.named.items():
        if name.endswith("_new"):
            assert not Path(path).exists(), path
    assert sorted(each.name for each in Path(target.named["outside"]).iterdir()) == [
        "marker",
        "sibling",
    ]
    assert Path(target.named["readable_file"]).read_text() == target.secret


def is_powerful() -> bool:
    """Return whether this process is root with the right to mount."""
    lines = Path("/proc/self/status").read_text().splitlines()
    effective = next(int(each.split()[1], 16) for each in lines if each.startswith("CapEff:"))
    return os.getuid() == 0 and bool(effective >> CAP_SYS_ADMIN & 1)
