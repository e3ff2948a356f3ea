"""Receiver of callbacks as a separate program, which tests kill, restart and make fail.

``python -m tests.e2e.delivery.receiver PORT FOLDER`` reads its mode from `FOLDER/mode` at each
request, and appends the request to `FOLDER/log` as a line of JSON before it answers.

=========  ====================================================================================
well       200
500        500
429        429, with a Retry-After of 90 seconds
hang       no answer
mixed      one after the other: 200, 500, no answer, 429, cut off in the middle of a 200
=========  ====================================================================================

A path that ends in ``/hang`` gets no answer. A path that ends in ``/gone`` is answered with 410,
except in the mode `hang`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from typing import Any

MIXED = cycle(["well", "500", "hang", "429", "cut"])
ANSWERS = {
    "well": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "500": b"HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n",
    "429": b"HTTP/1.1 429 Slowly\r\nRetry-After: 90\r\nContent-Length: 0\r\n\r\n",
    "gone": b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n",
    "cut": b"HTTP/1.1 200 OK\r\nConte",
}


class Receiver:
    def __init__(self, folder: Path) -> None:
        self._mode = folder / "mode"
        self._log = (folder / "log").open("ab", buffering=0)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                request = await self._request(reader)
                answer = self._answer(request["path"])
                self._log.write(json.dumps(request | {"answer": answer}).encode() + b"\n")
                if answer == "hang":
                    await reader.read()  # until the client closes the connection
                    break
                writer.write(ANSWERS[answer])
                await writer.drain()
                if answer == "cut":
                    break
        writer.close()

    async def _request(self, reader: asyncio.StreamReader) -> dict[str, Any]:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        pairs = (line.split(": ", 1) for line in lines)
        headers = {name.lower(): value for name, value in pairs}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        return {"path": first.split(" ")[1], "headers": headers, "body": body.decode()}

    def _answer(self, path: str) -> str:
        mode = self._mode.read_text()
        if path.partition("?")[0].endswith("/hang"):
            return "hang"
        if path.partition("?")[0].endswith("/gone") and mode != "hang":
            return "gone"
        return next(MIXED) if mode == "mixed" else mode


async def main(port: int, folder: Path) -> None:
    listening = await asyncio.start_server(Receiver(folder).serve, "127.0.0.1", port)
    print("listens", flush=True)
    await listening.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2])))
