"""``python -m daybook.web``: the server of `daybook web` and `daybook up`, until told to end."""

from __future__ import annotations

import argparse
import socket
import sys

from daybook import settings
from daybook.errors import DaybookError
from daybook.host import web
from daybook.service.health import Watch
from daybook.web.app import application, serving
from daybook.web.guard import Guard


def run(host: str, port: int, names: list[str]) -> None:
    """Listen on ``host``; ``names`` are further names by which it is asked."""
    listener = web.listen(host, port)
    elsewhere = not web.is_local(host)
    names = [*names, host, *([socket.gethostname()] if elsewhere else [])]
    watch = Watch(settings.load().ledger_address)
    guarded = Guard(application(watch), names, any_address=elsewhere)
    print(f"Health: {web.url(host, port)}/health", file=sys.stderr, flush=True)
    serving(guarded).run(sockets=[listener])


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="daybook web")
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", action="append", default=[])
    given = parser.parse_args(arguments)
    try:
        run(given.host, given.port, given.name)
    except DaybookError as error:
        print(f"daybook: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
