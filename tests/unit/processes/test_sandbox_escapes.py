"""A hostile program in sandboxes: what it achieves is exactly what docs/operations/security.md lists."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from daybook.agents import process
from daybook.processes.sandboxes import bubblewrap, mounts
from daybook.processes.sandboxes.mounts import SandboxLevel
from daybook.processes.sandboxes.sandbox import Sandbox, SandboxLimits
from tests.unit.processes import hostile
from tests.unit.processes.hostile_targets import Target, prepared

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(bool(bubblewrap.why_unavailable()), reason="service absent: bubblewrap"),
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are those of x86_64"),
]

LIMITS = SandboxLimits(
    memory_bytes=256 * 2**20,
    processes=200,
    cpu_seconds=10,
    file_bytes=64 * 2**20,
    temporary_bytes=64 * 2**20,
)


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path / "daybook"))
    monkeypatch.setenv("DAYBOOK_TEST_SECRET", "worker-secret")
    with prepared(tmp_path) as target:
        yield target


async def achieved(target: Target, names: list[str], sandbox: Sandbox | None) -> dict[str, str]:
    """Return what each attempt reports."""
    shutil.copy(hostile.__file__, target.work / "hostile.py")
    (target.work / "targets.json").write_text(json.dumps(target.named))
    command = [mounts.interpreter(), "-I", "-S", "-B", "hostile.py", "targets.json", *names]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(target.home)}
    if sandbox is None:
        result = await process.run(
            command, folder=str(target.work), environment=environment, stdin=None, seconds=60
        )
    else:
        async with sandbox.wrap(
            command, folder=str(target.work), environment=environment
        ) as program:
            result = await process.run(
                program.arguments,
                folder=str(target.work),
                environment=program.environment,
                stdin=None,
                seconds=60,
                pass_fds=program.pass_fds,
            )
            program.check_started(result.errors)
    assert result.code == 0, result.errors.decode()
    reports: dict[str, str] = json.loads(result.output)
    assert set(reports) == set(names)
    return reports


async def test_show(target: Target) -> None:
    names = list(hostile.ATTEMPTS)
    for s in [Sandbox(SandboxLevel.STRICT, readable=(str(target.readable), str(target.home/".config"), str(target.store)), limits=LIMITS),
     Sandbox(SandboxLevel.WORKSPACE, readable=(str(target.readable), str(target.home/".config"), str(target.store)), limits=LIMITS),
     Sandbox(SandboxLevel.WORKSPACE, network="all", readable=(str(target.readable), str(target.home/".config"), str(target.store)), limits=LIMITS)]:
        r = await achieved(target, names, s)
        print(s.level, s.network)
        for k, v in r.items():
            if v.startswith("+"): print("   ", k, v)
        print({k: os.path.exists(target.named[k]) for k in target.named if k.endswith("_new")})
    c = [n for n, (_, k) in hostile.ATTEMPTS.items() if k == "any" or k == "root" and os.getuid() == 0]
    r = await achieved(target, c, None)
    print("CONTROL", {k: v for k, v in r.items() if not v.startswith("+")})
