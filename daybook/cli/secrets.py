"""The `daybook secrets` commands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from daybook import api
from daybook.cli import documents, output
from daybook.cli.command import Answer, command
from daybook.errors import InvalidInput

if TYPE_CHECKING:
    from daybook.api.secrets import SecretDetails


@command(uses_prefect=True)
async def add_(
    name: documents.NewName,
    /,
    *more: Annotated[str, Parameter(show=False)],
    value: Annotated[str | None, Parameter(show=False)] = None,
    hosts: Annotated[
        list[str] | None,
        Parameter(
            name="--host",
            help="Host that may receive the secret: api.example.org, or api.example.org:8443 for "
            "another port; tool:NAME for a tool without a host. Repeatable.",
        ),
    ] = None,
    replace: Annotated[bool, Parameter(help="Replace the existing secret of this name.")] = False,
) -> Answer:
    """Add a secret that jobs refer to as {{secret:name}}; Prefect encrypts it.

    The value is read from standard input, or from a prompt on a terminal. It cannot be passed on
    the command line.

    Example: daybook secrets add ops-token --host api.example.org < token.txt
    """
    if more or value is not None:  # the error must not contain the value or a part of it
        raise InvalidInput(
            "value", "cannot be passed on the command line", "pass it on standard input"
        )
    if not hosts:
        raise InvalidInput("hosts", "is missing", "add --host api.example.org")
    secret_value = documents.read_hidden_value("value", "Value", "token.txt")
    settings = {"value": secret_value, "hosts": hosts}
    secret = await api.secrets.add(name, settings, replace=replace)
    yield secret
    output.line(f"Saved the secret {name} for {', '.join(secret.hosts)}")
    output.say(f"To use it, write {{{{secret:{name}}}}} in a header or a parameter.")


def _print_secrets(listed: list[SecretDetails]) -> None:
    rows = [
        (
            each.name,
            each.problem or ", ".join(each.hosts),
            ", ".join([*each.jobs, *each.servers, *each.destinations]) or "-",
        )
        for each in listed
    ]
    if rows:
        output.table(("NAME", "HOSTS", "USED BY"), rows)
    else:
        output.say("No secrets; add one with `daybook secrets add`.")


list_ = documents.list_command(
    "daybook.api.secrets:list_secrets",
    """List secrets with their hosts and where they are used, without their values.

    Example: daybook secrets list
    """,
    _print_secrets,
)
remove_ = documents.remove_command(
    "daybook.api.secrets:remove",
    "secret",
    """Remove a secret that nothing uses.

    Example: daybook secrets remove ops-token
    """,
)
