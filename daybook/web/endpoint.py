"""Endpoints of features: paths of the HTTP server to which other programs send requests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Protocol

from prometheus_client.metrics_core import Metric
from starlette.requests import Request
from starlette.responses import Response

from daybook.feature import features, leaving_out


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


def of_features(address: str) -> list[Endpoint]:
    """Return the endpoints of all features, for the ledger at ``address``.

    Leave out an endpoint of another distribution whose path is not a word of its own, such as
    `/hooks/`, because requests to this path pass the guard.
    """
    found = list[Endpoint]()
    for each in features():
        if not each.endpoint:
            continue
        with leaving_out(each, "endpoint"):
            made: Endpoint = each.load(each.endpoint)(address)
            is_free = made.path not in [known.path for known in found]
            if not re.fullmatch(r"/[a-z][a-z0-9-]*/", made.path) or not is_free:
                raise ValueError(f"{made.path!r} cannot be the path of an endpoint")
            found.append(made)
    return found
