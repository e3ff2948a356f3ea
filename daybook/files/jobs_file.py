"""Jobs files: reads the jobs of a file as flat fields, and returns the fields of a job for a file.

A jobs file is a mapping with `jobs`, a list of jobs, and optionally `set`, the name of the set. It
may also have sections of settings documents (`daybook.resources.file_documents`).

Each job has the fields of `daybook.jobs.model.FIELDS`. `schedule` may be a mapping of the
schedule's fields, `policy` and `notify` may be mappings of theirs, and `renamed_from` is the job's
earlier name. A field that is not given has its default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

from daybook import markers
from daybook.errors import InvalidFiles, InvalidInput, Mistake, Position
from daybook.files.documents import Document, Path, read
from daybook.jobs.actions import ACTIONS
from daybook.jobs.model import Job, JobFields, default_fields
from daybook.schedules import bounds
from daybook.schedules import schedule as schedules
from daybook.schedules.fields import ScheduleFields
from daybook.schedules.schedule import At
from daybook.short_text import clip
from daybook.validation import unknown_field

RENAMED_FROM = "renamed_from"
SET = "set"
JOBS = "jobs"
NAME, KIND = "name", "kind"
HINT = "write a mapping with `jobs`, a list of jobs"

_NO_SECTIONS: Mapping[str, str] = {}
_OBJECTS = ("schedule", "policy", "notify")
_PLACEHOLDERS = {
    **{
        name: markers.of(field).placeholder
        for each in ACTIONS.values()
        for name, field in each.model_fields.items()
        if field.is_required()
    },
    "schedule": "on demand",
}
"""Valid values that replace invalid required fields, so that the others can be checked."""
_NEEDS_DUE_TIMES = ("delete_after_run", *bounds.FIELDS)
_MAX_MISTAKES_OF_JOB = 30
_EARLIER = timedelta(days=400)


@dataclass(frozen=True)
class FileText:
    """Text of a jobs file, and the name of the file for messages."""

    file: str
    text: str


@dataclass
class Entry:
    """A job of a file: its flat fields, and their positions.

    ``name`` and ``renamed_from`` are empty if they are missing or not texts.
    """

    file: str
    document: Document
    path: Path
    name: str
    renamed_from: str
    fields: JobFields
    mistakes: list[Mistake] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The entry's name in messages."""
        return self.name

    def position(self, field: str, *, of_key: bool = False) -> Position:
        """Return the position of a field.

        ``field`` may be several names, joined by " and "; the first one that the job gives counts.
        If the job gives none of them, return the job's position.
        """
        for name in field.split(" and "):
            for above in ((), *((each,) for each in _OBJECTS), ("policy", "check")):
                path = (*self.path, *above, name)
                if path in self.document.values:
                    return self.document.position(path, of_key=of_key)
            depth = len(self.path)
            for path in self.document.keys:  # the field is, for example, the name of a header
                if path[:depth] == self.path and path[-1] == name:
                    return self.document.position(path)
        return self.document.position(self.path)

    def add_mistake(self, error: InvalidInput) -> None:
        """Add ``error``, which is about one of the fields, as a mistake."""
        found = self.mistake(error)
        if found not in self.mistakes:
            self.mistakes.append(found)

    def mistake(self, error: InvalidInput) -> Mistake:
        """Return ``error``, which is about one of the fields, with its position."""
        of_key = error.problem == "unknown field"
        position = self.position(error.field, of_key=of_key)
        return Mistake(self.file, position, self.label, error.field, error.problem, error.hint)


@dataclass
class DocumentEntry(Entry):
    """A settings document of a file. ``noun`` is the word for documents of its section."""

    noun: str = ""

    @property
    def label(self) -> str:
        return f"{self.noun} {self.name}".strip()


@dataclass
class JobsFile:
    """The jobs of one file, its settings documents, the name of its set (or ""), and its mistakes.

    ``mistakes`` are the mistakes of the document (`documents.read`), and those outside of the
    entries. The other mistakes of a job or settings document are in its `Entry`.
    """

    file: str
    entries: list[Entry]
    set_name: str = ""
    mistakes: list[Mistake] = field(default_factory=list)
    documents: list[DocumentEntry] = field(default_factory=list)


def read_file(source: FileText, sections: Mapping[str, str] = _NO_SECTIONS) -> JobsFile:
    """Return the jobs of a file, with the mistakes in the file.

    ``sections`` maps the name of each section of settings documents to the noun of its documents.
    """
    document, found = read(source.text), JobsFile(source.file, [])

    def mistake(position: Position, field: str, problem: str, hint: str, job: str = "") -> None:
        found.mistakes.append(Mistake(source.file, position, job, field, problem, hint))

    for each in document.problems:
        mistake(each.position, each.field, each.problem, each.hint)
    data = document.data
    if not isinstance(data, dict) or data.keys().isdisjoint((JOBS, *sections)):
        if not document.problems:
            mistake(document.position(()), JOBS, "is not a jobs file", HINT)
        return found
    for name in data.keys() - {JOBS, SET, *sections}:
        error = unknown_field(name, (JOBS, SET, *sections))
        mistake(document.position((name,), of_key=True), name, error.problem, error.hint)
    if (given := data.get(SET)) is not None:
        if isinstance(given, str):
            found.set_name = given
        else:
            mistake(document.position((SET,)), SET, f"{given!r} is not a text", "use quotes")
    for section, noun in {JOBS: "job", **sections}.items():
        _add_entries(found, document, section, noun)
    return found


def _add_entries(found: JobsFile, document: Document, section: str, noun: str) -> None:
    """Add the entries of a section to ``found``, or its mistakes."""

    def mistake(path: Path, problem: str, hint: str) -> None:
        position = document.position(path)
        found.mistakes.append(Mistake(found.file, position, "", section, problem, hint))

    entries = document.data.get(section, [])
    if not isinstance(entries, list):
        hint = HINT if section == JOBS else f"write a list, with a name for each {noun}"
        mistake((section,), "is not a list", hint)
        return
    for place, given in enumerate(entries):
        path = (section, place)
        if not isinstance(given, dict) and section == JOBS:
            hint = "write a mapping with a name, a schedule and a prompt"
            mistake(path, f"{clip(repr(given), 60)} is not a job", hint)
        elif not isinstance(given, dict):  # do not quote it: it may be a secret
            mistake(path, f"is not a mapping of a {noun}", "write its name and its settings")
        elif section == JOBS:
            found.entries.append(_entry(found.file, document, path, given))
        else:
            found.documents.append(_document(found.file, document, path, given, noun))


def job_fields(source: FileText) -> list[JobFields]:
    """Return the jobs of a file as flat fields of `new_job`. Do not validate the values of fields.

    Raise `InvalidFiles` if `read_file` finds mistakes.
    """
    found = read_file(source)
    mistakes = [*found.mistakes, *(each for entry in found.entries for each in entry.mistakes)]
    if mistakes:
        raise InvalidFiles(mistakes)
    return [entry.fields for entry in found.entries]


def _document(
    file: str, document: Document, path: Path, given: JobFields, noun: str
) -> DocumentEntry:
    name = given.get(NAME)
    fields = {key: value for key, value in given.items() if key != NAME}
    known = name if isinstance(name, str) else ""
    entry = DocumentEntry(file, document, path, known, "", fields, noun=noun)
    if not known:
        problem = "is not a text" if name else "is missing"
        entry.add_mistake(InvalidInput(NAME, problem, f"write the name of the {noun}"))
    return entry


def _entry(file: str, document: Document, path: Path, job: JobFields) -> Entry:
    name, earlier = job.get("name"), job.get(RENAMED_FROM)
    fields = {key: value for key, value in job.items() if key != RENAMED_FROM}
    entry = Entry(
        file,
        document,
        path,
        name.strip() if isinstance(name, str) else "",
        earlier.strip() if isinstance(earlier, str) else "",
        fields,
    )
    if name is None or name == "":
        entry.add_mistake(InvalidInput("name", "is missing", "write the job's unique name"))
        fields.pop("name", None)
    if earlier is not None and not isinstance(earlier, str):
        hint = "write the job's earlier name"
        entry.add_mistake(
            InvalidInput(RENAMED_FROM, f"{clip(repr(earlier), 60)} is not a text", hint)
        )
    if isinstance(schedule := fields.get("schedule"), dict):
        del fields["schedule"]
        for key, value in schedule.items():
            if key not in ScheduleFields.model_fields or key == "schedule":
                known = ScheduleFields.model_fields.keys() - {"schedule"}
                entry.add_mistake(unknown_field(key, known))
            elif key in fields:
                problem = "is given in the schedule too"
                entry.add_mistake(InvalidInput(key, problem, "keep one of them"))
            else:
                fields[key] = value
        if not any(key in fields for key in ScheduleFields.model_fields if key != "timezone"):
            if not entry.mistakes:
                hint = f"set one of {schedules.FIELD_NAMES}"
                entry.add_mistake(InvalidInput("schedule", "has no due times", hint))
            fields["schedule"] = _PLACEHOLDERS["schedule"]
    return entry


def build(entry: Entry, make: Callable[..., Job]) -> Job | None:
    """Return the job that ``make`` builds from the fields of an entry; None if there are mistakes.

    ``make`` takes the fields as keyword arguments, as `daybook.jobs.model.new_job` does. Add up to
    `_MAX_MISTAKES_OF_JOB` mistakes of the fields to the entry, without those that follow from
    others. After each mistake, remove the field with the mistake, or replace it by a placeholder if
    it is required, and call ``make`` again.
    """
    fields, left_out = dict(entry.fields), list[str]()
    for _ in range(_MAX_MISTAKES_OF_JOB):
        try:
            job = make(**fields)
            _check_time(fields, job)
        except InvalidInput as error:
            names = error.field.split(" and ")
            meant = any(each.hint == f"did you mean {error.field}?" for each in entry.mistakes)
            if not meant and not _is_consequence(error, left_out):
                entry.add_mistake(error)
            if not _leave_out(fields, names):
                return None
            left_out += names
        else:
            return None if entry.mistakes else job
    return None


def _is_consequence(error: InvalidInput, left_out: Iterable[str]) -> bool:
    """Return whether the error occurs only because the fields ``left_out`` were removed."""
    letters = (each if each.isalnum() else " " for each in f"{error.field} {error.problem}")
    words = f" {' '.join(''.join(letters).split())} "
    return any(f" {name.replace('_', ' ')} " in words for name in left_out)


def _leave_out(fields: JobFields, names: list[str]) -> bool:
    """Remove the named fields, or replace required ones by placeholders.

    Return False if the fields do not change.
    """
    before = {name: value for name, value in fields.items()}
    for name in names:
        fields.pop(name, None)
        for above in ("policy", "notify"):
            if isinstance(given := fields.get(above), dict):
                fields[above] = {key: value for key, value in given.items() if key != name}
    is_schedule = not ScheduleFields.model_fields.keys().isdisjoint(names)
    if is_schedule and not any(
        name in fields for name in ScheduleFields.model_fields if name != "timezone"
    ):
        fields["schedule"] = _PLACEHOLDERS["schedule"]
        _leave_out(fields, list(_NEEDS_DUE_TIMES))
    for name in names:
        if name in _PLACEHOLDERS:
            fields[name] = _PLACEHOLDERS[name]
    return fields != before


def _check_time(fields: JobFields, job: Job) -> None:
    """Raise `InvalidInput` for a one-time schedule that depends on the time of the application."""
    if not isinstance(job.schedule, At):
        return
    name = "at" if fields.get("at") is not None else "schedule"
    zone, earlier = job.schedule.timezone, job.schedule.at - _EARLIER
    again: Callable[..., schedules.Schedule] = (
        partial(schedules.make, at=fields["at"])
        if name == "at"
        else partial(schedules.parse, fields["schedule"])
    )
    try:
        is_same = again(timezone=zone, now=earlier) == job.schedule
    except InvalidInput:
        is_same = False
    if not is_same:
        problem = f'"{fields[name]}" depends on when the file is applied'
        raise InvalidInput(name, problem, f"write the time, such as {job.schedule.to_text()[3:]}")


def flat(job: Job) -> JobFields:
    """Return all fields of a job, as a file may have them. The schedule is one text.

    Omit the phase of an interval, because a file cannot contain it.
    """
    fields = job.model_dump(mode="json", exclude={"schedule"})
    action, policy, notify = (fields.pop(each) for each in ("action", "policy", "notify"))
    name, kind = fields.pop("name"), fields.pop("kind")
    schedule = {"schedule": job.schedule.to_text(), "timezone": job.schedule.timezone}
    return {"name": name, "kind": kind, **schedule, **fields, **action, **policy, **notify}


def fields_of(job: Job) -> JobFields:
    """Return the fields of a job that differ from their defaults, in the format of an export.

    The name, the kind, and the schedule with its time zone are always included.
    """
    defaults = default_fields(job.kind) | {
        name: field.get_default(call_default_factory=True)
        for name, field in Job.model_fields.items()
        if not field.is_required() and name not in (*_OBJECTS, "kind")
    }
    plain = job.model_dump(mode="json", exclude={"schedule"})
    action, policy, notify = (
        {key: value for key, value in plain.pop(each).items() if value != defaults.get(key, ...)}
        for each in ("action", "policy", "notify")
    )
    own = {
        key: value
        for key, value in plain.items()
        if key in ("name", "kind") or value not in (defaults.get(key), _as_list(defaults.get(key)))
    }
    objects = {"policy": policy, "notify": notify}
    return {
        "name": own.pop("name"),
        "kind": own.pop("kind"),
        "schedule": _schedule(job),
        **own,
        **action,
        **{key: value for key, value in objects.items() if value},
    }


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _schedule(job: Job) -> JobFields:
    schedule = job.schedule.to_json()
    kind = schedule.pop("kind")
    renamed = {"expr": "cron", "job": "after"}
    fields = {renamed.get(key, key): value for key, value in schedule.items() if key != "anchor"}
    if isinstance(job.schedule, At):
        fields["at"] = job.schedule.to_text().removeprefix("at ")
    timezone = {"timezone": fields.pop("timezone")}
    return {**({"on_demand": True} if kind == "on_demand" else {}), **fields, **timezone}
