"""The pipes of a program, attached to a loop that may end at any time."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator

import pytest
from anyio.lowlevel import checkpoint

from daybook.processes import pipes

pytestmark = pytest.mark.anyio


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(
        [sys.executable, "-c", "input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    yield child
    child.kill()
    child.wait()


@pytest.mark.parametrize("turns", range(1, 12))
async def test_a_cancellation_in_any_iteration_of_the_loop_leaves_no_pipe_open(
    child: subprocess.Popen[bytes], turns: int
) -> None:
    output, errors, feed = pipes.HeadPipe(10), pipes.TailPipe(10), pipes.InputPipe()
    joining = asyncio.create_task(pipes.attach(child, output, errors, feed))
    for _ in range(turns):
        await checkpoint()
    joining.cancel()
    await asyncio.wait({joining})
    for transport in () if joining.cancelled() else joining.result():
        assert transport is not None
        transport.close()
    await pipes.close((output, errors, feed))
    for file in (child.stdin, child.stdout, child.stderr):
        assert file is not None
        assert file.closed


@pytest.mark.parametrize("size", [1, 3, 4, 7, 100])
def test_of_a_long_output_both_ends_are_kept_however_it_arrives(size: int) -> None:
    for length in (0, 3, 4, 5, 8, 9, 25):
        data = bytes(range(65, 65 + length))
        pipe = pipes.EndsPipe(8)
        for start in range(0, length, size):
            pipe.data_received(data[start : start + size])
        if length <= 8:
            assert (pipe.kept, pipe.dropped) == (data, 0)
        else:
            note = f"\n[… {length - 8} bytes left out …]\n".encode()
            assert (pipe.kept, pipe.dropped) == (data[:4] + note + data[-4:], length - 8)
