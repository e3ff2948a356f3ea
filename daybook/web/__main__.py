"""The server process of `daybook web` and `daybook up`: ``python -m daybook.web``."""

from __future__ import annotations

import argparse
import socket
import sys
from urllib.parse import urlsplit

from daybook import settings
from daybook.diagnosis.health import HealthMonitor
from daybook.errors import DaybookError
from daybook.operations import web
from daybook.operations.host_names import LOOPBACK_NAMES
from daybook.processes import output, proc
from daybook.web import endpoint, login, pages
from daybook.web.app import RequestGuard, application, build_server
from daybook.web.pages.site import Site


def run(listener: socket.socket, host: str, names: list[str], *, is_child: bool = False) -> None:
    """Serve on ``listener``, which is bound to ``host``. Also accept the host names ``names``.

    Accept the host name of the public URL too, and this machine's name if ``host`` is not local.
    Print the address of `/health`, and a one-time link to the pages, if there are pages. If
    ``is_child`` is true, `daybook up` prints the link instead.
    """
    proc.deny_inspection()
    output.survive_full_disk()
    is_reachable = not web.is_local(host)
    configured = settings.load()
    names = [*names, host, *([socket.gethostname()] if is_reachable else [])]
    names += settings.entries(configured.web_names)
    names += public_names(configured)
    watch = HealthMonitor(configured.ledger_address, folders=configured.data_folders)
    port = listener.getsockname()[1]
    application_of_pages = pages.application(watch.health)
    site: Site = application_of_pages.state.site
    browser_pages = (
        login.protect(application_of_pages, port, site)
        if not is_reachable or has_private_url(configured.public_url)
        else None
    )
    endpoints = endpoint.of_features(configured.ledger_address)
    guarded = RequestGuard(
        application(watch, endpoints, browser_pages, site.close),
        names,
        endpoints=endpoints,
        any_address=is_reachable,
        accepts_writes=login.accepts_writes if browser_pages else lambda path: False,
    )
    address = web.url(host, port)
    if browser_pages and not is_child:
        link = browser_pages.new_link()
        print(f"Open: {address}{link}", file=sys.stderr, flush=True)
    print(f"Health: {address}/health", file=sys.stderr, flush=True)
    server = build_server(guarded, endpoints, site.live.close, configured.public_url)
    server.run(sockets=[listener])


def has_private_url(public_url: str) -> bool:
    """Return whether a server that other machines can reach may serve the pages at ``public_url``.

    Cookies and answers of models must not cross a network without encryption. So the URL has TLS,
    or is of this machine, as a container's port that is published to it only.
    """
    return public_url.startswith("https:") or urlsplit(public_url).hostname in LOOPBACK_NAMES


def public_names(configured: settings.Settings) -> list[str]:
    """Return the host name of the public URL in a list. Without a public URL, the list is empty."""
    name = urlsplit(configured.public_url).hostname
    return [name] if name else []


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="daybook web")
    parser.add_argument("--host", required=True)
    endpoint = parser.add_mutually_exclusive_group(required=True)
    endpoint.add_argument("--port", type=int)
    endpoint.add_argument("--descriptor", type=int, help="descriptor of an open, listening socket")
    parser.add_argument("--name", action="append", default=[])
    options = parser.parse_args(arguments)
    try:
        if options.descriptor is None:
            listener = web.listen(options.host, options.port, "DAYBOOK_WEB_PORT")
        else:
            listener = socket.socket(fileno=options.descriptor)
        run(listener, options.host, options.name, is_child=options.descriptor is not None)
    except DaybookError as error:
        print(f"daybook: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
