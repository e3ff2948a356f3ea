"""The `daybook tokens` commands: the tokens by which MCP clients authenticate over HTTP."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from daybook.cli import formatting, output
from daybook.cli.options import Json


async def add_(
    *,
    owner: Annotated[
        str,
        Parameter(
            help="Whose jobs its bearer sees and makes: agent:<its name>, which stands under the "
            "limits of agents, or user or plugin, which do not."
        ),
    ],
    name: Annotated[
        str | None, Parameter(help="What it is called in lists. Default: the owner.")
    ] = None,
    user_id: Annotated[str, Parameter(help="The person whom its bearer serves.")] = "",
    as_json: Json = False,
) -> int:
    """Make a token, and print it once: it is kept as a digest alone.

    Example: daybook tokens add --owner agent:claude
    """
    from daybook.api import tokens

    token = await tokens.add(owner, name, user_id)
    if as_json:
        output.print_json(token)
        return 0
    output.line(token["token"])
    output.say(f"The token {token['name']}, for {token['owner']}. It is not shown again.")
    output.say("A client sends it as `Authorization: Bearer …` to `daybook mcp --http`.")
    return 0


async def list_(*, as_json: Json = False) -> int:
    """List the tokens: for whom, and when last used; never a token itself.

    Needs no Prefect.

    Example: daybook tokens list
    """
    from daybook.api import tokens

    listed = await tokens.list_tokens()
    if as_json:
        output.print_json(listed)
    elif listed:
        rows = [
            (
                each["name"],
                each["owner"],
                each["user_id"] or "-",
                formatting.local_time(each["created_at"]),
                formatting.local_time(each["used_at"]),
            )
            for each in listed
        ]
        output.table(("NAME", "OWNER", "USER", "MADE", "LAST USED"), rows, whole=("NAME",))
    else:
        output.say("There are no tokens; `daybook tokens add --help` says how to make one.")
    return 0


async def remove_(
    name: Annotated[str, Parameter(help="The token's name, or the beginning of its id.")],
    /,
    *,
    as_json: Json = False,
) -> int:
    """Remove a token: its bearer is let in no more, from now on.

    Example: daybook tokens remove agent:claude
    """
    from daybook.api import tokens

    removed = await tokens.remove(name)
    if as_json:
        output.print_json(removed)
    else:
        output.line(f"Removed the token {removed['name']}, for {removed['owner']}")
    return 0
