"""Something that answers HTTP on this machine, as this or that server would."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from daybook.clock import SYSTEM_CLOCK


@dataclass
class Answers:
    """What a path is answered: a status and a page, or JSON. All else is 404."""

    address: str = ""
    paths: dict[str, tuple[int, Any]] = field(default_factory=dict)
    ahead: timedelta = timedelta()
    stale: list[timedelta] = field(default_factory=list)
    """By how much the first answers tell an older time than that."""

    def date(self) -> str:
        stale = self.stale.pop(0) if self.stale else timedelta()
        return format_datetime(
            (SYSTEM_CLOCK.now() + self.ahead - stale).astimezone(UTC), usegmt=True
        )


def as_prefect(version: str) -> dict[str, tuple[int, Any]]:
    return {
        "/api/health": (200, True),
        "/api/hello": (200, "hello"),
        "/api/admin/version": (200, version),
    }


@pytest.fixture
def answers() -> Iterator[Answers]:
    """A server whose answers the test sets; it says 404 until then."""
    told = Answers()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, content = told.paths.get(self.path, (404, {}))
            is_page = isinstance(content, str) and content.startswith("<")
            body = (content if is_page else json.dumps(content)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def date_time_string(self, timestamp: float | None = None) -> str:
            return told.date()

        def log_message(self, format: str, *args: Any) -> None:
            """The test's output is not for it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        told.address = f"http://127.0.0.1:{server.server_port}"
        try:
            yield told
        finally:
            server.shutdown()
            thread.join()


Connect = Callable[..., AbstractAsyncContextManager[Any]]


@pytest.fixture
def connect() -> Connect:
    """A client of Prefect's that talks to an address, as `doctor` makes it."""

    @asynccontextmanager
    async def connected(api_url: str) -> AsyncIterator[Any]:
        from prefect.client.orchestration import get_client
        from prefect.settings import (
            PREFECT_API_URL,
            PREFECT_CLIENT_MAX_RETRIES,
            PREFECT_UI_URL,
            temporary_settings,
        )

        given = {
            PREFECT_API_URL: api_url,
            PREFECT_UI_URL: api_url.removesuffix("/api"),
            PREFECT_CLIENT_MAX_RETRIES: 0,
        }
        with temporary_settings(updates=given):
            async with get_client() as client:
                yield client

    return connected
