"""Text of an export: a jobs file, with comments on facts for which there is no field."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from daybook import owners
from daybook.files.documents import to_yaml
from daybook.files.jobs_file import JOBS, SET, fields_of
from daybook.http import secrets
from daybook.jobs import secret_references
from daybook.jobs.model import JobFields
from daybook.json_text import JsonObject
from daybook.schedules.schedule import Every
from daybook.short_text import one_line

if TYPE_CHECKING:
    from daybook.jobs.store import StoredJob

Sections = Mapping[str, Sequence[tuple[JobFields, Sequence[str]]]]
"""The settings documents of each section, each with comments."""
_NO_SECTIONS: Sections = {}
SCHEMA_FILE = "jobs.schema.json"
"""Name of the schema file beside the jobs file. An export names this file for editors."""
DEFAULT_SET = "jobs"
"""Name of the set in an export if the jobs do not all belong to one set."""
_NOT_IN_A_NAME = re.compile(r"[^a-z0-9]+")


def set_of(jobs: Sequence[StoredJob]) -> str:
    """Return the name of the set to which all jobs belong; if there is none, `DEFAULT_SET`."""
    names = {each.row.owner for each in jobs}
    owner = next(iter(names)) if len(names) == 1 else ""
    return owner.removeprefix(owners.FILE_PREFIX) if owners.is_file(owner) else DEFAULT_SET


def document(jobs: Sequence[StoredJob], sections: Sections = _NO_SECTIONS) -> JsonObject:
    """Return the jobs as the data of a jobs file, with references in place of literal secrets."""
    documents = {name: [fields for fields, _ in entries] for name, entries in sections.items()}
    return {SET: set_of(jobs), **documents, JOBS: [_fields(each)[0] for each in jobs]}


def text(jobs: Sequence[StoredJob], sections: Sections = _NO_SECTIONS) -> str:
    """Return the jobs as YAML with comments. The first line names the schema for editors.

    References replace literal secrets. ``sections`` are the settings documents before the jobs.
    """
    parts = [
        f"# yaml-language-server: $schema={SCHEMA_FILE}",
        f"# `daybook schema > {SCHEMA_FILE}` writes the schema that editors use.",
        to_yaml({SET: set_of(jobs)}).rstrip(),
    ]
    for name, entries in sections.items():
        parts += [f"{name}:", *(_entry(fields, comments) for fields, comments in entries)]
    parts.append(f"{JOBS}:" if jobs else f"{JOBS}: []")
    for each in jobs:
        fields, replaced = _fields(each)
        parts.append(_entry(fields, [*_comments(each), *replaced]))
    return "\n".join(parts) + "\n"


def _entry(fields: JobFields, comments: Iterable[str]) -> str:
    """Return an entry of a section with comments before it."""
    lines = to_yaml({JOBS: [fields]}).split("\n", 1)[1].rstrip("\n")
    return "\n".join([*(f"  # {one_line(line)}" for line in comments), lines])


def _comments(stored: StoredJob) -> list[str]:
    """Return comments on the facts about a job for which a file has no field."""
    row, found = stored.row, list[str]()
    if not owners.is_file(row.owner):
        found.append(f"It belongs to {row.owner}.")
    if row.user_id:
        found.append(f"Its user is {row.user_id}.")
    if row.disabled_reason:
        found.append(f"It is disabled: {row.disabled_reason}")
    if isinstance(stored.job.schedule, Every):
        found.append(f"The interval counts from {stored.job.schedule.anchor.isoformat()}.")
    if row.snoozed_until is not None:
        found.append(f"It is snoozed until {row.snoozed_until.isoformat()}.")
    if row.skips:
        found.append(f"These due times are skipped: {', '.join(row.skips)}")
    return found


def _fields(stored: StoredJob) -> tuple[JobFields, list[str]]:
    """Return the fields of a job for an export, and comments on replaced secrets.

    The fields have a reference in place of each literal secret. The comments name the new
    references.
    """
    comments = list[str]()

    def reference(path: str) -> str:
        name = _NOT_IN_A_NAME.sub("-", f"{stored.job.name} {path}".lower()).strip("-")
        comments.append(
            f"{path} was a literal secret: store it with `daybook secrets add {name} --host HOST`."
        )
        return secret_references.reference(name)

    fields = fields_of(stored.job)
    for name in secrets.FIELDS:
        if name in fields:
            fields[name] = secrets.replace_literals(name, fields[name], reference)
    check = fields.get("policy", {}).get("check")
    if check and check.get("params"):
        params = secrets.replace_literals("params", check["params"], reference)
        fields["policy"]["check"] = {**check, "params": params}
    return fields, comments
