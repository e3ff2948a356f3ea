"""The `daybook mcp` command: an MCP server with the tools for agents."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

from daybook.cli import output
from daybook.errors import InvalidInput

DEFAULT_OWNER = "agent:mcp"
"""The owner of the jobs of a client that was started without `--owner`."""

DEFAULT_PORT = 4281


async def mcp_(
    *,
    owner: Annotated[
        str | None,
        Parameter(
            help="Whose jobs the client sees and makes: agent:<its name>, or user, which is you, "
            f"without an agent's limits. Default: {DEFAULT_OWNER}. With --http each token has its "
            "own."
        ),
    ] = None,
    user_id: Annotated[str, Parameter(help="The person whom the client serves.")] = "",
    http: Annotated[
        bool, Parameter(help="Serve on HTTP, at /mcp, for tokens of `daybook tokens add`.")
    ] = False,
    host: Annotated[
        str | None,
        Parameter(
            help="With --http: an address of this machine by which others reach it, such as "
            "0.0.0.0. Default: this machine alone."
        ),
    ] = None,
    port: Annotated[
        int | None, Parameter(help=f"With --http: where it listens. Default: {DEFAULT_PORT}.")
    ] = None,
    name: Annotated[
        list[str] | None,
        Parameter(
            help="With --http: a name by which it is asked, beside addresses; may be given again."
        ),
    ] = None,
    print_config: Annotated[
        str | None,
        Parameter(
            help="Print what a client's file wants, and end: claude-code, claude-desktop, codex, "
            "cursor, gemini-cli, opencode, vscode, windsurf or zed."
        ),
    ] = None,
) -> int:
    """Let an MCP client schedule, and do tasks: cron_add, task_next and eighteen more tools.

    On stdio, which is how most clients begin it; docs/guides/mcp.md has the tools, and a
    conversation.

    Example: daybook mcp --print-config claude-code
    """
    from daybook import owners
    from daybook.processes import proc

    user_id = owners.validate_user_id(user_id)
    actor = owners.Actor(owners.validate_owner(owner or DEFAULT_OWNER), user_id, via="mcp")
    if http and (owner is not None or user_id):
        raise InvalidInput("owner", "each token has its own", "daybook tokens add --owner agent:…")
    if not http and (host is not None or port is not None or name):
        option = "host" if host is not None else "port" if port is not None else "name"
        raise InvalidInput(option, "is for HTTP", "give --http with it")
    if print_config is not None:
        return _print_config(print_config, owner, user_id, _url(host, port) if http else None)
    proc.deny_inspection()
    _log_to_stderr()
    if http:
        await _serve_http(host, _checked_port(port), name or [])
        return 0
    if sys.stdin.isatty():
        output.say(
            "An MCP client talks here, by pipes; `daybook mcp --help` says how. Ctrl-C ends."
        )
    from daybook.mcp import stdio

    await stdio.serve(actor)
    return 0


async def _serve_http(host: str | None, port: int, names: list[str]) -> None:
    from daybook import settings
    from daybook.mcp import http
    from daybook.operations import server

    address = settings.load().ledger_address
    await http.serve(address, (host or server.HOST).strip() or server.HOST, port, names)


def _checked_port(port: int | None) -> int:
    number = DEFAULT_PORT if port is None else port
    if not 0 < number < 2**16:
        raise InvalidInput("port", f"{number} is not legal", "legal: 1 to 65535")
    return number


def _url(host: str | None, port: int | None) -> str:
    from daybook.operations import server, web

    return f"{web.url(host or server.HOST, _checked_port(port))}/mcp"


def _print_config(client: str, owner: str | None, user_id: str, url: str | None) -> int:
    from daybook.mcp import clients

    file = clients.find(client).file
    if url is not None:
        output.line(clients.http_config(client, url))
        output.say(f"It belongs in {file}; the token into the variable {clients.TOKEN_VARIABLE}.")
        return 0
    arguments = ["--owner", owner] if owner else []
    arguments += [f"--user-id={user_id}"] if user_id else []  # it may begin with -
    output.line(clients.stdio_config(client, arguments))
    output.say(f"It belongs in {file}.")
    for variable in clients.omitted_variables():
        output.say(f"{variable} is set here and may be secret: the client has to pass it on.")
    return 0


def _log_to_stderr() -> None:
    import logging

    logging.basicConfig(
        level=logging.WARNING,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
