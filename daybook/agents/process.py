"""One program, from its start to its end: nothing of its group is left when `run` returns.

::

    start ──► leader runs ──┬── leader exits ───┐
                            ├── timeout ────────┼──► end the group ──► read what is left
                            └── cancelled ──────┘         (`daybook.processes.group`)

The leader's exit is the end of the work: what it left in the background is ended too. A process
that makes a session of its own can hold the pipes, but not `run`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from daybook.processes import pipes
from daybook.processes.ending import wait_shielded
from daybook.processes.group import Group

OUTPUT_LIMIT = 4 * 1024 * 1024
"""Bytes of standard output that are kept; the rest is read and dropped."""

ERRORS_LIMIT = 8 * 1024
"""Bytes of the end of standard error that are kept."""

_DRAIN = 1.0  # seconds for pipes that someone outside the group still holds


@dataclass(frozen=True)
class Ended:
    """What became of the program. ``code`` is negative when a signal ended it, as in `subprocess`.

    ``dropped`` counts the bytes of output beyond `OUTPUT_LIMIT`.
    """

    code: int
    output: bytes
    dropped: int
    errors: bytes
    timed_out: bool


async def run(
    arguments: Sequence[str],
    *,
    folder: str,
    environment: Mapping[str, str],
    stdin: bytes | None,
    seconds: float,
) -> Ended:
    """Run the program until it exits or ``seconds`` have passed.

    Raises OSError and ValueError when it cannot be started. Cancellation, also repeated, is passed
    on after the group is dead.
    """
    group = Group(arguments, folder=folder, environment=environment, with_input=stdin is not None)
    over = asyncio.Event()
    # A task of its own is not reached by the caller's cancellation, wherever that strikes.
    task = asyncio.create_task(_keep(group, over, stdin, seconds))
    return await wait_shielded(task, cancelled=over.set)


async def _keep(group: Group, over: asyncio.Event, stdin: bytes | None, seconds: float) -> Ended:
    """``over``: the caller was cancelled."""
    output, errors = pipes.HeadPipe(OUTPUT_LIMIT), pipes.TailPipe(ERRORS_LIMIT)
    feed = pipes.InputPipe()
    try:
        await pipes.connect(group.child, output, errors, feed, stdin or b"")
        timed_out = not await _exited(group, over, seconds)
        await group.end()
        await pipes.wait_drained((output, errors), _DRAIN)
    finally:
        group.kill()
        await pipes.close((output, errors, feed))
    return Ended(
        code=group.child.returncode,
        output=bytes(output.kept),
        dropped=output.dropped,
        errors=bytes(errors.kept),
        timed_out=timed_out,
    )


async def _exited(group: Group, over: asyncio.Event, seconds: float) -> bool:
    """Whether it was the program, or the caller, that ended the time before it was up."""
    waits = {asyncio.create_task(each.wait()) for each in (group.exited, over)}
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waits:
            each.cancel()
    return group.exited.is_set() or over.is_set()
