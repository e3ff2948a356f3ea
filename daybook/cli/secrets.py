"""The `daybook secrets` commands."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

from daybook.cli import output
from daybook.cli.options import Json, prepare_prefect
from daybook.errors import InvalidInput

Name = Annotated[str, Parameter(help="The secret's name.")]


async def add_(
    name: Annotated[str, Parameter(help="Lowercase letters, digits and dashes.")],
    /,
    *more: Annotated[str, Parameter(show=False)],
    value: Annotated[str | None, Parameter(show=False)] = None,
    hosts: Annotated[
        list[str] | None,
        Parameter(
            name="--host",
            help="Where it may go: api.example.org, or with a port api.example.org:8443; for a "
            "tool that has no host, tool:name. May be given several times.",
        ),
    ] = None,
    replace: Annotated[
        bool, Parameter(help="In place of the secret of this name, if there is one.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Keep a secret, which jobs name as {{secret:name}}; Prefect encrypts it.

    Its value is read from standard input, or asked for on a terminal; it is never an argument.

    Example: daybook secrets add ops-token --host api.example.org < token.txt
    """
    if more or value is not None:  # the error must not repeat the value or a part of it
        raise InvalidInput("value", "is never an argument", "give it on standard input")
    if not hosts:
        raise InvalidInput("hosts", "is missing", "name where it may go: --host api.example.org")
    secret_value = read_secret_value("value")
    prepare_prefect()
    from daybook.api import secrets

    secret = await secrets.add(name, secret_value, hosts, replace=replace)
    if as_json:
        output.print_json(secret)
    else:
        output.line(f"Keeps the secret {name}, for {', '.join(secret['hosts'])}")
        output.say(f"Write {{{{secret:{name}}}}} where a header or a parameter wants it.")
    return 0


async def list_(*, as_json: Json = False) -> int:
    """List the secrets: where each may go, and who names it; never a value.

    Example: daybook secrets list
    """
    prepare_prefect()
    from daybook.api import secrets

    listed = await secrets.list_secrets()
    if as_json:
        output.print_json(listed)
    elif listed:
        rows = [
            (
                each["name"],
                each["problem"] or ", ".join(each["hosts"]),
                ", ".join([*each["jobs"], *each["servers"], *each["destinations"]]) or "-",
            )
            for each in listed
        ]
        output.table(("NAME", "HOSTS", "USED BY"), rows)
    else:
        output.say("There are no secrets; `daybook secrets add --help` says how to keep one.")
    return 0


async def remove_(name: Name, /, *, as_json: Json = False) -> int:
    """Forget a secret that nothing names any more.

    Example: daybook secrets remove ops-token
    """
    prepare_prefect()
    from daybook.api import secrets

    await secrets.remove(name)
    if as_json:
        output.print_json({"removed": name})
    else:
        output.line(f"Removed the secret {name}")
    return 0


def read_secret_value(field: str) -> str:
    """Read a value from standard input or a prompt, without its last line break.

    Raise `InvalidInput` for ``field`` if the value is blank or not UTF-8.
    """
    if sys.stdin.isatty():
        from getpass import getpass

        value = getpass(f"{field.capitalize()}: ")
    else:
        try:
            value = sys.stdin.read()
        except UnicodeDecodeError:
            raise InvalidInput(field, "is no UTF-8 text") from None
    if not value.strip():
        raise InvalidInput(field, "there is none on standard input", "such as: < token.txt")
    return value.removesuffix("\n").removesuffix("\r")
