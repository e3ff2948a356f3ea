"""The `daybook mcp` command: an MCP server with Daybook's tools for agents."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

from daybook import operations, owners
from daybook.cli import output
from daybook.errors import InvalidInput
from daybook.mcp import clients
from daybook.processes import proc

DEFAULT_OWNER = "agent:mcp"
"""The owner of a client's jobs if the server was started without `--owner`."""

DEFAULT_PORT = 4281


async def mcp_(
    *,
    owner: Annotated[
        str | None,
        Parameter(
            help="Owner of the jobs that the client sees and adds: agent:NAME, or user (you, "
            "without an agent's limits). Not with --http, where each token has its own owner. "
            f"[default: {DEFAULT_OWNER}]"
        ),
    ] = None,
    user_id: Annotated[str, Parameter(help="Id of the user that the client serves.")] = "",
    approve: Annotated[list[str] | None, Parameter(show=False)] = None,
    http: Annotated[
        bool, Parameter(help="Serve over HTTP at /mcp, for clients with a token.")
    ] = False,
    host: Annotated[
        str | None,
        Parameter(
            help="With --http: address to listen on, such as 0.0.0.0 for other machines. [default: "
            "this machine only]"
        ),
    ] = None,
    port: Annotated[
        int | None, Parameter(help=f"With --http: port to listen on. [default: {DEFAULT_PORT}]")
    ] = None,
    name: Annotated[
        list[str] | None,
        Parameter(help="With --http: host name that clients use to reach the server. Repeatable."),
    ] = None,
    print_config: Annotated[
        str | None,
        Parameter(
            help="Print the configuration for a client and exit. "
            f"[choices: {', '.join(clients.CLIENTS)}]"
        ),
    ] = None,
) -> int:
    """Serve Daybook's tools to MCP clients, such as cron_add.

    Uses stdio unless --http is given. docs/guides/mcp.md lists the tools and shows an example.

    Example: daybook mcp --print-config claude-code
    """
    user_id = owners.validate_user_id(user_id)
    whose = owners.validate_owner(owner or DEFAULT_OWNER)
    # ``approve`` is set by runs whose agent is a program (`execution.mcp_config`).
    actor = owners.Actor(whose, user_id, via="mcp", approve=tuple(approve or ()))
    if http and (owner is not None or user_id):
        raise InvalidInput(
            "owner",
            "does not apply to --http, where each token has its own",
            "use `daybook tokens add --owner agent:…`",
        )
    if not http and (host is not None or port is not None or name):
        option = "host" if host is not None else "port" if port is not None else "name"
        raise InvalidInput(option, "applies only to HTTP", "add --http")
    if print_config is not None:
        return _print_config(print_config, owner, user_id, _url(host, port) if http else None)
    proc.deny_inspection()
    _log_to_stderr()
    if http:
        await _serve_http(host, _checked_port(port), name or [])
        return 0
    if sys.stdin.isatty():
        output.say(
            "Waiting for an MCP client on standard input (see `daybook mcp --help`). Ctrl-C stops."
        )
    from daybook.mcp import stdio

    await stdio.serve(actor)
    return 0


async def _serve_http(host: str | None, port: int, names: list[str]) -> None:
    from daybook import settings
    from daybook.mcp import http

    address = settings.load().ledger_address
    await http.serve(
        address, (host or operations.server.HOST).strip() or operations.server.HOST, port, names
    )


def _checked_port(port: int | None) -> int:
    number = DEFAULT_PORT if port is None else port
    if not 0 < number < 2**16:
        raise InvalidInput("port", f"{number} is out of range", "use 1 to 65535")
    return number


def _url(host: str | None, port: int | None) -> str:
    return f"{operations.web.url(host or operations.server.HOST, _checked_port(port))}/mcp"


def _print_config(client: str, owner: str | None, user_id: str, url: str | None) -> int:
    file = clients.find(client).file
    if url is not None:
        config = clients.http_config(client, url)
        output.line(config)
        is_variable = clients.TOKEN_VARIABLE in config
        token_hint = f", and set {clients.TOKEN_VARIABLE} to the token" if is_variable else ""
        output.say(f"Add it to {file}{token_hint}.")
        return 0
    arguments = ["--owner", owner] if owner else []
    arguments += [f"--user-id={user_id}"] if user_id else []  # the user id may begin with -
    output.line(clients.stdio_config(client, arguments))
    output.say(f"Add it to {file}.")
    for variable in clients.omitted_variables():
        output.say(f"{variable} is left out because it may be secret. Set it in the client.")
    return 0


def _log_to_stderr() -> None:
    import logging

    logging.basicConfig(
        level=logging.WARNING,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
