"""Runs of programs in a sandbox, for tests."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from daybook.agents import process
from daybook.agents.process import ProgramResult
from daybook.processes.sandboxes import sandbox as sandboxes
from daybook.processes.sandboxes.sandbox import Sandbox

needs_bubblewrap = pytest.mark.skipif(
    bool(sandboxes.why_unavailable()), reason="service absent: bubblewrap"
)
PATH = "/usr/bin:/bin"


@dataclass(frozen=True)
class SandboxedResult:
    """Result of a program, and the limit for which Daybook has ended its sandbox."""

    result: ProgramResult
    exceeded: str

    @property
    def lines(self) -> list[str]:
        """Return the lines of the output. Fail if the program has failed."""
        assert self.result.code == 0, self.result.errors.decode()
        return self.result.output.decode().splitlines()


async def run(
    sandbox: Sandbox | None,
    arguments: Sequence[str],
    folder: Path,
    *,
    seconds: float = 60,
    grace_seconds: float | None = None,
    variables: Mapping[str, str] | None = None,
) -> SandboxedResult:
    """Run a program in ``folder``, in the sandbox or without one."""
    environment = {"PATH": PATH, "HOME": os.environ["HOME"], **(variables or {})}
    if sandbox is None:
        return SandboxedResult(
            await process.run(
                arguments, folder=str(folder), environment=environment, stdin=None, seconds=seconds
            ),
            "",
        )
    async with sandbox.wrap(arguments, folder=str(folder), environment=environment) as program:
        result = await process.run(
            program.arguments,
            folder="/",
            environment=program.environment,
            stdin=None,
            seconds=seconds,
            grace_seconds=grace_seconds,
            pass_fds=program.pass_fds,
        )
        program.check_started(result.errors)
        return SandboxedResult(result, program.exceeded)


async def shell(
    sandbox: Sandbox | None, script: str, folder: Path, **environment: str
) -> SandboxedResult:
    """Run a shell script in ``folder``."""
    return await run(sandbox, ["/bin/sh", "-c", script], folder, variables=environment)
