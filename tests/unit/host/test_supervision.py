from __future__ import annotations

import asyncio
import contextlib
import os
import sys

import pytest

from daybook.home import Home
from daybook.host import children, processes, record, supervision

pytestmark = pytest.mark.anyio


async def begin(home: Home, program: str) -> children.Child:
    return await children.start(
        "worker",
        [sys.executable, "-c", program],
        environment=os.environ,
        log=home.logs / "worker.log",
        folder=home.path,
    )


async def test_a_child_that_dies_is_begun_again_and_ends_with_the_care(daybook_home: Home) -> None:
    said: list[str] = []
    begun: list[children.Child] = []
    enough = asyncio.Event()

    async def again() -> children.Child:
        last = len(begun) == 2
        begun.append(
            await begin(daybook_home, "import signal; signal.pause()" if last else "1 / 0")
        )
        if last:
            enough.set()
        return begun[-1]

    with record.hold(daybook_home) as mine:
        first = await again()
        mine.began(first)
        care = asyncio.create_task(supervision.keep(first, again, mine, said.append, pause=0.01))
        async with asyncio.timeout(30):
            await enough.wait()
        stays = begun[-1]
        care.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await care
        assert mine.children == []
    assert [child.exit_code for child in begun[:2]] == [1, 1]
    assert stays.exit_code is not None
    assert processes.find(stays.pid, stays.process.started) is None
    assert len(said) == 2
    assert all("ZeroDivisionError" in line and "code 1" in line for line in said)
    assert "in 0.01 s" in said[0]
    assert "in 0.02 s" in said[1]
