"""The `daybook backup` and `daybook restore` commands."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import Parameter

from daybook.cli import formatting, output
from daybook.cli.command import Answer, command
from daybook.cli.documents import read_hidden_value
from daybook.cli.options import text_or_file
from daybook.errors import InvalidInput
from daybook.features.backups import settings

PassphraseFile = Annotated[
    str | None,
    Parameter(
        help="File with the passphrase. [default: the setting DAYBOOK_BACKUP_PASSPHRASE, else "
        "standard input or a prompt]"
    ),
]
_FIELD = "passphrase"


@command()
async def backup_(
    file: Annotated[str, Parameter(help="Path of the new backup.")],
    *,
    passphrase_file: PassphraseFile = None,
    replace: Annotated[bool, Parameter(help="Replace an existing file.")] = False,
) -> Answer:
    """Write an encrypted backup of the ledger, the settings and the keys.

    Works while Daybook runs. The ledger contains agents, secrets and Prefect's other blocks, so the
    backup has them, but not Prefect's own database. Keep the passphrase elsewhere: a restore
    needs it.

    Example: daybook backup /mnt/disk/daybook.backup --passphrase-file passphrase.txt
    """
    from daybook.features.backups import operations

    made = await operations.create(
        file, passphrase=_read_passphrase(passphrase_file, new=True), replace=replace
    )
    yield made
    output.line(f"Wrote {made.file} ({made.bytes:,} bytes)")


@command()
async def restore_(
    file: Annotated[str, Parameter(help="Path of the backup.")],
    *,
    passphrase_file: PassphraseFile = None,
    ledger: Annotated[
        str | None,
        Parameter(
            help="Address of an empty database for the ledger; @FILE reads it from a file, @- from "
            "standard input. [default: as in the backup's settings, else ledger.db in the home]"
        ),
    ] = None,
) -> Answer:
    """Restore a backup into an empty home, DAYBOOK_HOME.

    First stop every process of the old ledger, also on other machines. Daybook does not repeat work
    that may have run since the backup: it marks such due times and waiting runs as missed, and
    other such runs as unknown. Other processes can read the arguments of a command, so read an
    address with a password from a file.

    Example: DAYBOOK_HOME=~/restored daybook restore /mnt/disk/daybook.backup
    """
    from daybook.features.backups.restore import restore

    url = text_or_file("ledger", ledger or "").strip()
    if ledger and not url:
        raise InvalidInput("ledger", f"{ledger} is empty", "write the address into the file")
    done = await restore(
        file,
        _read_passphrase(passphrase_file, new=False),
        ledger_url=url,
    )
    yield done
    paused = done.__pydantic_extra__.items()
    output.line(f"Restored {done.home} from the backup of {done.backup_at:%Y-%m-%d %H:%M:%S} UTC")
    output.fields(
        [
            ("ledger", done.ledger),
            ("missed", formatting.counted(done.missed, "due time or waiting run")),
            ("unknown", formatting.counted(done.unknown, "run")),
            ("not sent", formatting.counted(done.messages, "message")),
            *(
                ("paused", formatting.counted(count, name.removesuffix("s")))
                for name, count in paused
            ),
        ]
    )
    output.say("Next: `daybook doctor`, then `daybook up`.")


def _read_passphrase(file: str | None, *, new: bool) -> str:
    """Return the passphrase from the file, the setting, standard input or a prompt.

    Raise `InvalidInput` if the file cannot be read, if the file or the typed value is empty, and
    for two different entries at the prompt.
    """
    if file is not None:
        value = text_or_file(_FIELD, f"@{file}").removesuffix("\n").removesuffix("\r")
        if not value:
            raise InvalidInput(_FIELD, f"{file} is empty", "write the passphrase into it")
        return value
    if value := settings.load().backup_passphrase.get_secret_value():
        return value
    value = read_hidden_value(_FIELD, "Passphrase", "passphrase.txt")
    if new and sys.stdin.isatty() and value != read_hidden_value(_FIELD, "Again", "passphrase.txt"):
        raise InvalidInput(_FIELD, "the two are not equal", "type it again")
    return value
