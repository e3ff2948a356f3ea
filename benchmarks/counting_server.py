"""Daybook's Prefect server with a request counter: ``python -m benchmarks.counting_server``.

It is `daybook.operations.server`, with the same arguments, and a counter around Prefect's
application. GET `COUNTS_PATH` returns ``{"requests": n, "busy": n of 503, "paths": {"GET /api/…":
n}}`` since the start. A request with the header `MARK_HEADER` (the benchmark's own) counts only if
the answer is 503.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from daybook.operations import server
from daybook.operations.host_names import Application, Receive, Scope, Send
from daybook.prefect import private_names

COUNTS_PATH = "/benchmark/counts"
MARK_HEADER = "x-daybook-benchmark"
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class RequestCounter:
    """ASGI middleware that counts HTTP requests; it does not count websockets."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._paths: Counter[str] = Counter()
        self._busy = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        if scope["path"] == COUNTS_PATH:
            await self._send_counts(send)
            return
        if MARK_HEADER.encode() not in dict(scope["headers"]):
            self._paths[f"{scope['method']} {_ID.sub('…', scope['path'])}"] += 1

        async def count_busy(message: Any) -> None:
            self._busy += message.get("status") == 503
            await send(message)

        await self._application(scope, receive, count_busy)

    async def _send_counts(self, send: Send) -> None:
        counts = {"requests": self._paths.total(), "busy": self._busy, "paths": self._paths}
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(counts).encode()})


def main() -> None:
    make = private_names.server_application

    def make_counting() -> Any | None:
        application = make()
        return None if application is None else RequestCounter(application)

    vars(private_names)["server_application"] = make_counting
    server.main()


if __name__ == "__main__":
    main()
