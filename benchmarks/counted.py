"""Our Prefect server with a request counter: ``python -m benchmarks.counted``.

It is `daybook.operations.server`, with the same arguments, and one counter around Prefect's
application. GET `COUNTS` returns ``{"requests": n, "busy": n of 503, "paths": {"GET /api/…": n}}``
since the start. Requests with the header `MARK` (the benchmark's own) count only if they are busy.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from daybook.operations import server
from daybook.operations.host_names import Application, Receive, Scope, Send
from daybook.prefect import private_names

COUNTS = "/benchmark/counts"
MARK = "x-daybook-benchmark"
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Counted:
    """ASGI middleware; it passes websockets through uncounted."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._paths: Counter[str] = Counter()
        self._busy = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        if scope["path"] == COUNTS:
            await self._tell(send)
            return
        if MARK.encode() not in dict(scope["headers"]):
            self._paths[f"{scope['method']} {_ID.sub('…', scope['path'])}"] += 1

        async def answer(message: Any) -> None:
            self._busy += message.get("status") == 503
            await send(message)

        await self._application(scope, receive, answer)

    async def _tell(self, send: Send) -> None:
        counts = {"requests": self._paths.total(), "busy": self._busy, "paths": self._paths}
        head = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": json.dumps(counts).encode()})


def main() -> None:
    make = private_names.server_application

    def counted() -> Any | None:
        application = make()
        return None if application is None else Counted(application)

    vars(private_names)["server_application"] = counted
    server.main()


if __name__ == "__main__":
    main()
