"""The `daybook web` command: the pages, hooks, `/health` and metrics, without `daybook up`."""

from __future__ import annotations

import os
from typing import Annotated

from cyclopts import Parameter

from daybook import operations, settings
from daybook.errors import InvalidInput


def web_(
    *,
    port: Annotated[
        int | None, Parameter(help="Port to listen on. [default: the setting DAYBOOK_WEB_PORT]")
    ] = None,
    host: Annotated[
        str | None,
        Parameter(help="Address to listen on, such as 0.0.0.0. [default: this machine only]"),
    ] = None,
    name: Annotated[
        list[str] | None,
        Parameter(help="Additional host name that clients may use. Repeatable."),
    ] = None,
) -> int:
    """Serve the pages, hooks, `/health`, and `/metrics` for Prometheus, until Ctrl-C or SIGTERM.

    `daybook up` serves them too. Prints a link that opens the pages once; with --host, there are
    none without a suitable DAYBOOK_PUBLIC_URL. Every client that can connect can read the names of
    late and failing jobs in `/health`. docs/operations/monitoring.md describes both endpoints and
    gives alert rules.

    Example: daybook web --port 4290
    """
    loaded = settings.load()
    number = loaded.web_port if port is None else port
    if not 0 < number < 2**16:
        raise InvalidInput("port", f"{number} is out of range", "use 1 to 65535")
    if host is not None and not host.strip():
        raise InvalidInput("host", "is empty", "use 0.0.0.0 for all addresses of this machine")
    command = operations.web.command(host or operations.server.HOST, number, name or ())
    os.execv(command[0], command)
