"""A local HTTP server whose answers a test sets, and a client of Prefect that uses it."""

from __future__ import annotations

import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from daybook.clock import SYSTEM_CLOCK
from daybook.home import Home
from daybook.operations import home_lock


@dataclass
class Answers:
    """Answers by path: a status with an HTML page or JSON. Any other path gets a 404."""

    address: str = ""
    paths: dict[str, tuple[int, Any]] = field(default_factory=dict)
    ahead: timedelta = timedelta()
    stale: list[timedelta] = field(default_factory=list)
    """How much older than that the time in the first answers is."""

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
    """Start a server whose answers the test sets; until then it answers 404."""
    answers = Answers()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, content = answers.paths.get(self.path, (404, {}))
            is_page = isinstance(content, str) and content.startswith("<")
            body = (content if is_page else json.dumps(content)).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            # Prefect's client waits after some errors, even if it does not retry the request.
            self.send_header("Retry-After", "0")
            self.end_headers()
            self.wfile.write(body)

        def date_time_string(self, timestamp: float | None = None) -> str:
            return answers.date()

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing, to keep the test's output clean."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        answers.address = f"http://127.0.0.1:{server.server_port}"
        try:
            yield answers
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def running(home: Home, **facts: Any) -> Iterator[None]:
    """Hold the home as a running `up` that recorded ``facts``."""
    with home_lock.hold(home):
        home.up_file.write_text(json.dumps(facts))
        yield
    home.up_file.unlink(missing_ok=True)


Connect = Callable[..., AbstractAsyncContextManager[Any]]


@pytest.fixture
def connect() -> Connect:
    """Return a factory of Prefect clients for an address, configured as in `doctor`."""

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
