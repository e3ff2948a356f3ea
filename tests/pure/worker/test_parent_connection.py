"""Messages from a worker to the parent process of its runs."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import Any, cast

import pytest
from anyio.lowlevel import checkpoint

from daybook.worker.messages import FrameDecoder, LaunchRequest, frame
from daybook.worker.parent_connection import ParentConnection

pytestmark = pytest.mark.anyio


class Ended:
    """Parent process that has ended."""

    pid = 1

    async def wait(self) -> int:
        return 0

    def kill(self) -> None:
        pass


async def test_a_message_whose_sender_is_cancelled_is_sent_completely(tmp_path: Path) -> None:
    own_end, parent_end = socket.socketpair()
    for end in (own_end, parent_end):
        end.setblocking(False)
    connection = ParentConnection(cast(Any, Ended()), own_end, tmp_path / "printed")
    long = {"import": ["x" * 5_000_000]}  # more than the socket holds
    sending = asyncio.create_task(connection._send(long))
    for _ in range(10):
        await checkpoint()
    assert not sending.done()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    following = asyncio.create_task(connection._send({"tick": True}))
    decoder, received = FrameDecoder(), list[dict[str, Any]]()
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(30):
        while len(received) < 2:
            received += decoder.feed(await loop.sock_recv(parent_end, 1 << 16))
    assert received == [long, {"tick": True}]
    await following
    parent_end.close()
    await connection.reading
    with pytest.raises(OSError):
        connection.ready.result()


@pytest.mark.parametrize("waits_for", ["lock", "socket"])
async def test_a_start_that_is_cancelled_before_it_is_sent_is_never_sent(
    tmp_path: Path, waits_for: str
) -> None:
    own_end, parent_end = socket.socketpair()
    for end in (own_end, parent_end):
        end.setblocking(False)
    connection = ParentConnection(cast(Any, Ended()), own_end, tmp_path / "printed")
    long = b"x" * 5_000_000  # more than the socket holds
    if waits_for == "socket":
        expected = own_end.send(long) * b"x"
    else:
        blocking = asyncio.create_task(connection._send({"import": [long.decode()]}))
        expected = frame({"import": [long.decode()]})
        await checkpoint()
    task = LaunchRequest({"id": "x"}, "ours", "end_normally")
    starting = asyncio.create_task(connection.begin(task, tmp_path / "output"))
    for _ in range(10):
        await checkpoint()
    (pending,) = connection._pending.values()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not connection._pending
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(pending.status)

    following = asyncio.create_task(connection._send({"tick": True}))
    expected += frame({"tick": True})
    received, descriptors = bytearray(), list[int]()
    async with asyncio.timeout(30):
        while len(received) < len(expected):
            try:
                data, numbers, _, _ = socket.recv_fds(parent_end, 1 << 16, 8)
            except BlockingIOError:
                await checkpoint()
                continue
            received += data
            descriptors += numbers
    assert received == expected
    assert descriptors == []
    await following
    if waits_for == "lock":
        await blocking
    parent_end.close()
    await connection.reading
    with pytest.raises(OSError):
        connection.ready.result()
