"""The `daybook web` command: the health page and the metrics, without `daybook up`."""

from __future__ import annotations

import os
from typing import Annotated

from cyclopts import Parameter

from daybook.errors import InvalidInput


def web_(
    *,
    port: Annotated[
        int | None, Parameter(help="Where it listens. Default: the setting DAYBOOK_WEB_PORT.")
    ] = None,
    host: Annotated[
        str | None,
        Parameter(help="An address of this machine by which others reach it, such as 0.0.0.0."),
    ] = None,
    name: Annotated[
        list[str] | None,
        Parameter(help="A name by which it is asked, beside addresses; may be given again."),
    ] = None,
) -> int:
    """Answer `/health` and, for Prometheus, `/metrics`, until Ctrl-C or SIGTERM.

    `daybook up` does so by itself. Without --host on this machine alone: who reaches it reads the
    names of jobs that are late or failing. It only reads;
    docs/operations/monitoring.md has the alerts.

    Example: daybook web --port 4290
    """
    from daybook import settings
    from daybook.operations import server, web

    loaded = settings.load()
    number = loaded.web_port if port is None else port
    if not 0 < number < 2**16:
        raise InvalidInput("port", f"{number} is not legal", "legal: 1 to 65535")
    if host is not None and not host.strip():
        raise InvalidInput("host", "is empty", "such as 0.0.0.0, for all addresses of this machine")
    command = web.command(host or server.HOST, number, name or ())
    os.execv(command[0], command)
