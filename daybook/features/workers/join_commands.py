"""The `daybook invite` and `join` commands: one ledger for several machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from daybook.cli import output
from daybook.cli.command import Answer, command
from daybook.cli.options import text_or_file


@command()
async def invite_(
    file: Annotated[Path, Parameter(help="New file for the invitation, readable only by you.")],
    /,
) -> Answer:
    """Write an invitation with which another machine joins this ledger.

    It contains the ledger's key and the credential of Prefect: copy it over a secure connection,
    and delete it afterwards. Ledger and Prefect have to be on servers that the machine can reach.

    Example: daybook invite invitation.json
    """
    from daybook.features.workers import invitation

    written = await invitation.write(file.absolute())
    yield {"file": str(file.absolute()), "ledger_id": written.ledger_id}
    output.line(f"Wrote {file}, which is secret")
    output.say("On the other machine: daybook join postgresql://USER@HOST/DATABASE --key-file FILE")


@command()
async def join_(
    url: Annotated[
        str,
        Parameter(
            help="Address of the PostgreSQL ledger; @FILE reads it from a file, @- from standard "
            "input. Its password may be in PGPASSFILE instead."
        ),
    ],
    /,
    *,
    key_file: Annotated[Path, Parameter(help="Invitation that `daybook invite` has written.")],
) -> Answer:
    """Let this home use the ledger of another machine, with its Prefect server and settings.

    First compares the versions, clocks and settings, and connects to both. If anything does not
    fit, writes nothing. Then start this machine's worker with `daybook up`. Other processes can
    read the arguments of a command, so read an address with a password from a file.

    Example: daybook join postgresql://daybook@db/daybook --key-file invitation.json
    """
    from daybook.features.workers import joining

    joined = await joining.join(text_or_file("url", url).strip(), key_file.absolute())
    yield joined
    output.line(f"{joined.home} uses the ledger {joined.ledger}, and Prefect at {joined.prefect}")
    for name, value in joined.settings.items():
        output.line(f"  {name} = {value}")
    for each in joined.warnings:
        output.say(f"! {each}")
    output.say(f"Delete {key_file}, and start the worker: daybook up")
