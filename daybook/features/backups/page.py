"""The page of backups: the last ones, and a form that makes one now."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from daybook import settings as all_settings
from daybook.errors import InvalidInput
from daybook.features.backups import archive, create, operations
from daybook.features.backups import settings as backup_settings
from daybook.web.pages.actions import Done, PageAction
from daybook.web.pages.documents import only_operator
from daybook.web.pages.fields import Field
from daybook.web.pages.forms import Form, typed
from daybook.web.pages.site import Page, SettingsLink, Site

MAX_SHOWN = 30
PATH = "/settings/backups"
FILE = Field("file", "File", "Path of the new backup; it must not exist.", "line")
PASSPHRASE_HELP = f"At least {archive.MIN_PASSPHRASE_LENGTH} characters. A restore needs it."


@dataclass(frozen=True)
class BackupFile:
    """A backup in the folder of the settings, its size in bytes, and when it was written."""

    name: str
    size: int
    at: datetime


def _files(folder: Path) -> list[BackupFile]:
    """Return the backups in a folder, newest first."""
    found = []
    for each in folder.glob("*.backup"):
        try:
            stat = each.stat()
        except OSError:  # it was deleted meanwhile
            continue
        found.append(
            BackupFile(each.name, stat.st_size, datetime.fromtimestamp(stat.st_mtime, UTC))
        )
    return sorted(found, key=lambda each: each.at, reverse=True)


async def index(site: Site, request: Request) -> Response:
    """List the last backups, and show the form of a new one."""
    only_operator(request)
    loaded, form = backup_settings.load(), typed(request)
    folder = create.nightly_folder(loaded) if loaded.backup_folder else None
    found = await asyncio.to_thread(_files, folder) if folder else []
    name = f"daybook-{site.now().astimezone(site.tz):%Y-%m-%d-%H%M%S}.backup"
    has_passphrase = bool(loaded.backup_passphrase.get_secret_value())
    helped = f"{'Empty: that of the settings. ' * has_passphrase}{PASSPHRASE_HELP}"
    return site.render(
        request,
        "backups.html",
        folder=folder,
        backups=found[:MAX_SHOWN],
        total=len(found),
        keep=loaded.keep_backups,
        config=all_settings.config_file(),
        file=FILE,
        suggested=form.get("file") or str((folder or Path.home()) / name),
        passphrase=Field("passphrase", "Passphrase", helped, "secret"),
    )


async def back_up(ref: str, form: Form) -> Done:
    """Write a backup now."""
    file = form.get("file").strip()
    if not file.startswith(("/", "~")):
        raise InvalidInput("file", "is not an absolute path", "begin it with / or ~")
    path = await asyncio.to_thread(os.path.expanduser, file)
    made = await operations.create(path, passphrase=form.get("passphrase"))
    return Done(PATH, "backed-up", notes=[f"{made.file}, {made.bytes:,} bytes"])


async def _state() -> str:
    return "" if backup_settings.load().backup_folder else "none"


MESSAGES = {"backed-up": "The backup was written:"}
SETTINGS = (
    SettingsLink(PATH, "Backups", "Encrypted copies of jobs, history, settings and keys.", _state),
)
ROUTES = (Page(PATH, index),)
ACTIONS = (
    PageAction(PATH, back_up, index, ("file", "passphrase"), secrets=("passphrase",), once=True),
)
