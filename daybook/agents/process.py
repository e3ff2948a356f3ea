"""Execution of a program: no process of its group is left when `run` returns.

::

    start ──► leader runs ──┬── leader exits ───┐
                            ├── timeout ────────┼──► end the group ──► read remaining output
                            └── cancelled ──────┘         (`daybook.processes.group`)

The leader is the program itself. When it exits, `run` also ends its background processes. A process
that has created a session of its own can hold the pipes open, but can delay `run` only by
`_DRAIN_TIMEOUT_SECONDS`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from daybook.agents.program_sandbox import ProgramSandbox
from daybook.processes import pipes
from daybook.processes.ending import wait_shielded
from daybook.processes.group import ProcessGroup
from daybook.processes.pipes import EndsPipe, HeadPipe, LinePipe

MAX_OUTPUT_BYTES = 4 * 1024 * 1024
"""Maximum number of bytes of standard output that `run` returns. It reads and drops the rest."""

MAX_ERROR_BYTES = 8 * 1024
"""Maximum number of bytes of standard error that `run` returns, counted from the end."""

_DRAIN_TIMEOUT_SECONDS = 1.0  # time for pipes that a process outside the group holds open


@dataclass(frozen=True)
class ProgramResult:
    """Result of a program. If a signal ended the program, ``code`` is negative (see `subprocess`).

    ``dropped`` is the number of bytes of output beyond the limit of its pipe. If the output was
    read line by line, ``output`` is empty, and ``dropped`` is the number of bytes in lines that
    were too long. ``exceeded`` is the limit for which a sandbox has ended the program; "" if none.
    """

    code: int
    output: bytes
    dropped: int
    errors: bytes
    timed_out: bool
    exceeded: str = ""


async def run(
    arguments: Sequence[str],
    *,
    folder: str,
    environment: Mapping[str, str],
    stdin: bytes | None,
    seconds: float,
    output: LinePipe | EndsPipe | HeadPipe | None = None,
    grace_seconds: float | None = None,
    pass_fds: Sequence[int] = (),
    sandbox: ProgramSandbox | None = None,
) -> ProgramResult:
    """Run the program until it exits or ``seconds`` have passed. ``output`` reads its output.

    If there is a ``sandbox``, it runs there, and in no case without; raise the errors of
    `ProgramSandbox.wrap`, too.

    ``grace_seconds`` is as in `ProcessGroup.end`, and ``pass_fds`` as in `ProcessGroup`. Raise
    OSError or ValueError if the program cannot be started. If the caller is cancelled, even
    repeatedly, raise CancelledError only after the group has ended.
    """
    if sandbox is not None:
        async with sandbox.wrap(arguments, folder=folder, environment=environment) as wrapped:
            result = await run(
                wrapped.arguments,
                folder=folder,
                environment=wrapped.environment,
                stdin=stdin,
                seconds=seconds,
                output=output,
                grace_seconds=grace_seconds,
                pass_fds=(*pass_fds, *wrapped.pass_fds),
            )
            wrapped.check_started(result.errors)
            return replace(result, exceeded=wrapped.exceeded)
    group = ProcessGroup(
        arguments,
        folder=folder,
        environment=environment,
        with_input=stdin is not None,
        pass_fds=pass_fds,
    )
    was_cancelled = asyncio.Event()
    # Run the program in a separate task, which the caller's cancellation never reaches.
    reader = output or HeadPipe(MAX_OUTPUT_BYTES)
    task = asyncio.create_task(
        _keep(group, was_cancelled, stdin, seconds, reader, grace_seconds=grace_seconds)
    )
    return await wait_shielded(task, cancelled=was_cancelled.set)


async def _keep(
    group: ProcessGroup,
    was_cancelled: asyncio.Event,
    stdin: bytes | None,
    seconds: float,
    output: LinePipe | EndsPipe | HeadPipe,
    *,
    grace_seconds: float | None,
) -> ProgramResult:
    """Run the group to its end. ``was_cancelled`` is set when the caller is cancelled."""
    errors, feed = pipes.TailPipe(MAX_ERROR_BYTES), pipes.InputPipe()
    try:
        await pipes.connect(group.child, output, errors, feed, stdin or b"")
        timed_out = not await _ended_in_time(group, was_cancelled, seconds)
        await group.end(grace_seconds)
        if isinstance(output, LinePipe):
            output.finish()
        await pipes.wait_drained((output, errors), _DRAIN_TIMEOUT_SECONDS)
    finally:
        group.kill()
        await pipes.close((output, errors, feed))
    return ProgramResult(
        code=group.child.returncode,
        output=b"" if isinstance(output, LinePipe) else bytes(output.kept),
        dropped=output.dropped,
        errors=bytes(errors.kept),
        timed_out=timed_out,
    )


async def _ended_in_time(group: ProcessGroup, was_cancelled: asyncio.Event, seconds: float) -> bool:
    """Return whether the program exited, or the caller was cancelled, before the timeout."""
    waits = {asyncio.create_task(each.wait()) for each in (group.exited, was_cancelled)}
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waits:
            each.cancel()
    return group.exited.is_set() or was_cancelled.is_set()
