"""Cost of a keeper service: its own processor time and its requests to Prefect."""

from __future__ import annotations

import asyncio
import time
from typing import Any, cast

import pytest

from daybook.keeper.cost import CountingClient, MeteredCoroutine

BUSY = 0.05


def work(seconds: float = BUSY) -> None:
    """Use the processor for ``seconds``."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


async def test_only_the_processor_time_of_the_coroutine_itself_is_counted() -> None:
    gate = asyncio.Event()

    async def measured() -> str:
        work()
        gate.set()
        await done.wait()
        work()
        return "answer"

    async def other() -> None:
        await gate.wait()
        work(10 * BUSY)
        done.set()

    done, metered = asyncio.Event(), MeteredCoroutine(measured())
    answers = await asyncio.gather(asyncio.create_task(other()), _awaited(metered))
    assert answers[1] == "answer"
    assert 2 * BUSY <= metered.seconds < 5 * BUSY


async def _awaited(metered: MeteredCoroutine[str]) -> str:
    return await metered


async def test_an_error_of_the_coroutine_is_raised() -> None:
    async def fails() -> None:
        later = asyncio.Event()
        asyncio.get_running_loop().call_soon(later.set)
        await later.wait()
        raise LookupError("it")

    metered = MeteredCoroutine(fails())
    with pytest.raises(LookupError, match="it"):
        await metered
    assert metered.seconds > 0


async def test_a_cancellation_reaches_the_coroutine() -> None:
    messages: list[str] = []

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            messages.append("cancelled")
            raise

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await MeteredCoroutine(waits())
    assert messages == ["cancelled"]


class Client:
    """Client with two methods and an attribute."""

    api_url = "http://127.0.0.1/api"

    async def read(self, name: str) -> str:
        return name

    async def write(self, *, name: str) -> str:
        return name


async def test_each_call_of_a_client_method_is_counted() -> None:
    counted = CountingClient(cast("Any", Client()))
    client: Any = counted.as_client
    assert client.api_url == Client.api_url
    assert [await client.read("a"), await client.write(name="b")] == ["a", "b"]
    assert counted.requests == 2
