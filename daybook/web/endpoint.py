"""Endpoints of features: paths of the HTTP server to which other programs send requests."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from prometheus_client.metrics_core import Metric
from starlette.requests import Request
from starlette.responses import Response


class Endpoint(Protocol):
    """Endpoint ``POST <path><name>``, such as `/hooks/pull-requests` with the path `/hooks/`.

    It limits the bodies of its requests itself.
    """

    @property
    def path(self) -> str: ...

    @property
    def help(self) -> str:
        """Say in Markdown what a request does, for docs/reference/http.md."""

    async def receive(self, request: Request) -> Response:
        """Answer a request; ``request.path_params["name"]`` is the name."""

    async def close(self) -> None:
        """Close what the requests have opened; the server has stopped."""

    def metrics(self) -> Iterator[Metric]:
        """Yield the metrics of the requests. They need no ledger."""
