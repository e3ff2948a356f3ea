"""The page of imports: another scheduler's files, a preview of their jobs, and the import.

::

    POST …/preview   reads the files and shows what an import would do; nothing is stored
    POST …           imports what was shown, without the jobs that the user left out

The server keeps the last files in memory until they are imported, and no page contains them: a
crontab may have secrets in its variables. The import names them by a digest of their content, so it
never imports other files than those that were shown.
"""

from __future__ import annotations

import hashlib
from base64 import b64decode
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import get_args

from starlette.requests import Request
from starlette.responses import Response

from daybook.errors import DaybookError, InvalidInput, UnknownName
from daybook.features.imports import operations, readers, uploads
from daybook.features.imports.source import RefusedJob, System
from daybook.features.imports.writer import (
    ImportedJob,
    ImportReport,
    JobsRefused,
    OnConflict,
    left_out_note,
)
from daybook.web.pages.actions import Done, PageAction
from daybook.web.pages.documents import only_operator
from daybook.web.pages.forms import Form, typed
from daybook.web.pages.site import Page, SettingsLink, Site

PATH = "/settings/import"
MAX_KEPT = 5
"""Number of uploads that the server keeps in memory, each at most `login.MAX_FORM_BYTES`."""
MAX_SHOWN = 200
"""Maximum number of jobs and of notes that a page lists."""
MESSAGES = {"imported": "The import is done:"}
NEW = ("added", "replaced")
"""Results for a job that is stored."""


@dataclass(frozen=True)
class Upload:
    """Files of a system: their contents, by name."""

    system: System
    files: dict[str, bytes] = field(repr=False)

    @property
    def digest(self) -> str:
        """Return a digest of system, names and contents."""
        found = hashlib.sha256(self.system.encode())
        for name, content in self.files.items():
            for part in (name.encode(), content):
                found.update(len(part).to_bytes(8) + part)
        return found.hexdigest()


@dataclass(frozen=True)
class ImportPreview:
    """What an import would do. ``refused`` are jobs that cannot be imported."""

    upload: Upload
    report: ImportReport
    refused: Sequence[RefusedJob]

    @property
    def new(self) -> list[ImportedJob]:
        """Return the jobs that would be stored, the first one due first."""
        found = [each for each in self.report.jobs if each.result in NEW]
        return sorted(
            found, key=lambda each: each.next_due.timestamp() if each.next_due else float("inf")
        )

    @property
    def common(self) -> list[str]:
        """Return the notes that all of several new jobs have."""
        new = self.new
        if len(new) < 2:
            return []
        return [note for note in new[0].notes if all(note in each.notes for each in new)]

    @property
    def others(self) -> list[ImportedJob]:
        """Return the jobs that would not change."""
        return [each for each in self.report.jobs if each.result not in NEW]


_kept = dict[str, Upload]()
"""The last uploads, by digest."""


def _upload(form: Form) -> Upload:
    """Return the files of a form: those that it contains, else those that were shown.

    Raise `InvalidInput`.
    """
    system = _system(form.get("system"))
    files = dict[str, bytes]()
    contents = zip(form.all("file-name"), form.all("file"), form.all("file-base64"), strict=False)
    for given, text, encoded in contents:
        name = uploads.file_name(given)
        if name in files:
            raise InvalidInput("file", f"two files are called {name}")
        files[name] = b64decode(encoded) if encoded else text.encode()
    pasted = readers.FILES[system].pasted
    if not files and pasted and form.get("text").strip():
        # People paste a text without its last line break, so this is no sign of a cut file.
        files[pasted] = f"{form.get('text').rstrip()}\n".encode()
    if files:
        return Upload(system, files)
    digest = form.get("upload")
    if not digest:
        raise InvalidInput("file", "is missing", "choose a file, or paste its text")
    if digest not in _kept:
        raise InvalidInput("file", "is not here any more", "choose it again")
    return _kept[digest]


def _system(word: str) -> System:
    found = next((each for each in readers.FILES if each == word), None)
    if found is None:
        raise UnknownName("system", word, readers.FILES)
    return found


async def _preview(form: Form) -> ImportPreview:
    """Return what an import would do without the jobs that cannot be imported. Store nothing."""
    upload = _upload(form)
    refused: Sequence[RefusedJob] = ()
    try:
        report = await _run(upload, form, (), dry_run=True)
    except JobsRefused as error:
        refused = error.refused
        named = [each.id or each.name for each in refused]
        if not all(named):
            raise
        report = await _run(upload, form, named, dry_run=True)
        hidden = {left_out_note(each) for each in refused}
        notes = [each for each in report.notes if each not in hidden]
        report = report.model_copy(update={"notes": notes})
    return ImportPreview(upload, report, refused)


async def _run(
    upload: Upload, form: Form, leave_out: Sequence[str], *, dry_run: bool
) -> ImportReport:
    return await operations.run(
        upload.system,
        "",
        files=upload.files,
        dry_run=dry_run,
        on_conflict=form.get("on_conflict") or "skip",
        leave_out=leave_out,
        disabled="true" in form.all("disabled"),
    )


def _left_out(form: Form) -> list[str]:
    """Return the jobs that were shown with a box that the user has cleared."""
    chosen = set(form.all("job"))
    return [each for each in form.all("shown") if each not in chosen]


async def index(site: Site, request: Request) -> Response:
    """Show the form of a system's files and, after the preview, what the import would do."""
    only_operator(request)
    form, shown = typed(request), None
    if form.has("system"):
        with suppress(DaybookError):  # the form shows the mistake
            shown = await _preview(form)
            _keep(shown.upload)
    system: System = "crontab"
    with suppress(UnknownName):
        system = _system(form.get("system") or request.query_params.get("system", system))
    return site.render(
        request,
        "import.html",
        system=system,
        systems=readers.FILES,
        chosen=readers.FILES[system],
        preview=shown,
        left_out=_left_out(form),
        most=MAX_SHOWN,
        conflicts=get_args(OnConflict),
    )


def _keep(upload: Upload) -> None:
    _kept.pop(upload.digest, None)
    _kept[upload.digest] = upload
    while len(_kept) > MAX_KEPT:
        del _kept[next(iter(_kept))]


async def preview(ref: str, form: Form) -> None:
    """Read the files, and check that their jobs can be imported. Store nothing."""
    await _preview(form)


async def import_(ref: str, form: Form) -> Done:
    """Import the jobs and the history of the files that were shown."""
    upload = _upload(form)
    refused = form.all("refused")
    report = await _run(upload, form, [*_left_out(form), *refused], dry_run=False)
    _kept.pop(upload.digest, None)
    lines = list[str]()
    for each in report.jobs:
        lines += [f"{each.result} {each.name}", *(f"{each.name}: {note}" for note in each.notes)]
    lines += report.notes
    if len(lines) > MAX_SHOWN:
        lines = [*lines[:MAX_SHOWN], f"and {len(lines) - MAX_SHOWN} more lines"]
    return Done("/jobs", "imported", notes=lines)


SETTINGS = (
    SettingsLink(
        PATH,
        "Import jobs",
        "Take over the jobs of cron, systemd timers, OpenClaw and others, after a preview.",
    ),
)
ROUTES = (Page(PATH, index),)
_AT_FILE = {"path": "file", "SYSTEM": "system", "leave_out": "file"}
ACTIONS = (
    PageAction(f"{PATH}/preview", preview, index, ("file",), _AT_FILE, uses_prefect=True),
    PageAction(PATH, import_, index, ("file",), _AT_FILE, uses_prefect=True, once=True),
)
