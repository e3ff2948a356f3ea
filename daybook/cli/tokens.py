"""The `daybook tokens` commands: the tokens of MCP clients over HTTP, and of shared links."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from daybook import api
from daybook.cli import completion, formatting, output
from daybook.cli.command import Answer, command


@command()
async def add_(
    *,
    owner: Annotated[
        str,
        Parameter(
            help="Owner of the jobs that the client sees and adds: agent:NAME (with an agent's "
            "limits), user or plugin (without limits)."
        ),
    ],
    name: Annotated[str | None, Parameter(help="Name of the token. [default: the owner]")] = None,
    user_id: Annotated[str, Parameter(help="Id of the user that the client serves.")] = "",
) -> Answer:
    """Create a token and print it once; Daybook stores only its digest.

    Example: daybook tokens add --owner agent:claude
    """
    token = await api.tokens.add(owner, name, user_id)
    yield token
    output.line(token.token)
    created = f"Created the token {token.name} for {token.owner}."
    output.say(f"{created} It will not be shown again.")
    output.say("Clients send it as `Authorization: Bearer …` to `daybook mcp --http`.")


@command()
async def list_() -> Answer:
    """List tokens with their owners and last use, never the tokens themselves.

    Works without Prefect.

    Example: daybook tokens list
    """
    listed = await api.tokens.list_tokens()
    yield listed
    if listed:
        rows = [
            (
                each.name,
                each.owner,
                each.user_id or "-",
                formatting.local_time(each.created_at),
                formatting.local_time(each.used_at),
            )
            for each in listed
        ]
        output.table(("NAME", "OWNER", "USER", "CREATED", "LAST USED"), rows, whole=("NAME",))
    else:
        output.say("There are no tokens. Create one with `daybook tokens add --owner agent:NAME`.")


@command()
async def remove_(
    name: Annotated[str, Parameter(help="Token name or id prefix.", completer=completion.tokens)],
    /,
) -> Answer:
    """Remove a token; Daybook rejects it from then on.

    Example: daybook tokens remove agent:claude
    """
    removed = await api.tokens.remove(name)
    yield removed
    output.line(f"Removed the token {removed.name} of {removed.owner}")
