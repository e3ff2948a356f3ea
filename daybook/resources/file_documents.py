"""Settings documents in jobs files: their sections, the plan of their application, their export.

::

    entry ─► read ─► DocumentDraft ─► fill, with secrets ─► settings ─► compare ─► DocumentStep
    stored settings ─► export                               sections ─► schema

A section has the documents of one noun, such as `agents`. Its fields come from the models of the
block stores, so a new setting, or a new kind of documents, needs no change here. Secrets are not in
files: a secret field has only a reference, and its value is the one of the named secret on the
machine that applies the file. As for a job, a field that is not in the file has its default. But a
secret that is not in the file keeps its stored value, unless another server would get it.

All functions are pure.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from daybook import markers
from daybook.errors import ChangedMeanwhile, InvalidInput, Mistake, nearest_name
from daybook.files.jobs_file import KIND, NAME, DocumentEntry
from daybook.http.secrets import Secret, SecretDestination, literal_secret, referenced_names
from daybook.jobs import secret_references
from daybook.jobs.views import FieldChange
from daybook.json_text import JsonObject
from daybook.redaction import HIDDEN
from daybook.resources import secrets
from daybook.resources.copies import DocumentRef
from daybook.resources.store import BlockStore, block_data
from daybook.validation import unknown_field

Store = BlockStore[Any]
Data = Mapping[str, Any]
Secrets = Mapping[str, Secret | InvalidInput]
"""The secrets of this machine by name, or why one of them cannot be used."""


@dataclass(frozen=True)
class DocumentSection:
    """A section of a jobs file: the documents of one noun, of one or several block types."""

    noun: str
    stores: tuple[Store, ...]

    @property
    def name(self) -> str:
        return f"{self.noun.replace(' ', '_')}s"

    @property
    def names_jobs(self) -> bool:
        """Return whether a document names a job, so that it is stored after the jobs."""
        return any(_job_fields(each) for each in self.stores)


def sections(stores: Iterable[Store]) -> dict[str, DocumentSection]:
    """Return the sections for these stores by name. Leave out the secrets."""
    by_noun = dict[str, list[Store]]()
    for each in stores:
        if each is not secrets.STORE:
            by_noun.setdefault(each.noun, []).append(each)
    found = [DocumentSection(noun, tuple(each)) for noun, each in by_noun.items()]
    return {each.name: each for each in found}


@dataclass(frozen=True)
class DocumentDraft:
    """A document of a file. ``given`` are the settings in the file.

    ``references`` maps its secret fields to the names of the secrets; they are not in ``given``.
    """

    entry: DocumentEntry
    section: DocumentSection
    store: Store
    given: JsonObject
    references: dict[str, str]

    @property
    def name(self) -> str:
        return self.entry.name

    @property
    def ref(self) -> DocumentRef:
        return self.store.slug, self.name

    def recipients(self) -> list[Recipient]:
        """Return the recipients of the document's secrets, which have to be bound to all."""
        return recipients(self.store, self.name, self.given)


@dataclass(frozen=True)
class Recipient:
    """A server that gets the secrets of a document, or the document itself.

    ``field`` is the setting with the server; "" for the document. ``destination`` is None if the
    value of the field names no server. No secret may be sent to such a recipient.
    """

    field: str
    scheme: str
    destination: SecretDestination | None

    @property
    def shown(self) -> str:
        return self.destination.shown if self.destination else "HOST"

    def may_get(self, secret: Secret) -> bool:
        return bool(self.destination and not self.destination.known_as.isdisjoint(secret.hosts))


@dataclass
class FilledDocument:
    """The settings of a draft with its secrets; None if they are incomplete or invalid.

    ``missing`` are the references to secrets that this machine does not have.
    """

    draft: DocumentDraft
    settings: BaseModel | None
    missing: list[Mistake] = field(default_factory=list)


@dataclass(frozen=True)
class DocumentStep:
    """A document to store.

    ``replaced`` are the stores whose document with this name it replaces. ``before`` are the stored
    settings of the document and of the replaced ones, by the slugs of their stores.
    """

    filled: FilledDocument
    is_new: bool
    changes: tuple[FieldChange, ...]
    replaced: tuple[Store, ...] = ()
    before: Mapping[str, Data] = field(default_factory=dict, repr=False)


def read(entry: DocumentEntry, section: DocumentSection) -> DocumentDraft | None:
    """Return the draft of an entry, or None if its kind is invalid. Add its mistakes to it."""
    fields = dict(entry.fields)
    if entry.name:
        _note_mistake(entry, section.stores[0].check_name, entry.name)
    store = _store(entry, section, fields)
    if store is None:
        return None
    known = _fields(store)
    for name in fields.keys() - known.keys():
        words = [KIND] if len(section.stores) > 1 else []
        entry.add_mistake(unknown_field(name, [NAME, *words, *known]))
        del fields[name]
    references = dict[str, str]()
    for name in _secret_fields(store):
        if name not in fields or (fields[name] == "" and not known[name].is_required()):
            continue
        value = fields.pop(name)
        found = (
            secret_references.SECRET.fullmatch(value.strip()) if isinstance(value, str) else None
        )
        if found is None:
            where = recipients(store, entry.name, fields)
            problem = "contains a literal secret, or is not exactly one reference to a secret"
            entry.add_mistake(InvalidInput(name, problem, _store_hint("NAME", where)))
        references[name] = found[1] if found else ""
    return DocumentDraft(entry, section, store, fields, references)


def _store(entry: DocumentEntry, section: DocumentSection, fields: JsonObject) -> Store | None:
    """Remove the kind from ``fields``, and return its store; by default, by the required fields."""
    if len(section.stores) == 1:
        return section.stores[0]
    kind, words = fields.pop(KIND, None), [each.word for each in section.stores]
    found = [each for each in section.stores if each.word == kind]
    if kind is None:
        needed = {each.slug: _required(each) for each in section.stores}
        found = [
            each
            for each in section.stores
            if needed[each.slug] and fields.keys() >= set(needed[each.slug])
        ]
    if len(found) == 1:
        return found[0]
    problem = "is missing" if kind is None else "is unknown"
    entry.add_mistake(InvalidInput(KIND, problem, f"use one of: {', '.join(words)}"))
    return None


def fill(draft: DocumentDraft, before: Data | None, known: Secrets) -> FilledDocument:
    """Return the settings of a draft with its secrets. Add its mistakes to its entry.

    ``before`` are the stored settings of the document; None for a new one. A secret that is not in
    the file, or does not exist, keeps its stored value, unless another server would get it.
    """
    store, stored, filled = draft.store, before or {}, FilledDocument(draft, None)
    data = draft.given | _values(filled, known)
    secret = _secret_fields(store)
    where = draft.recipients()
    invalid = [each.field for each in where if each.destination is None]
    if not invalid and recipients(store, draft.name, stored) == where:
        data |= {name: stored[name] for name in secret if name not in data and stored.get(name)}
    unknown = {name for name in draft.references if name not in data}
    data |= dict.fromkeys(unknown, HIDDEN)
    if before is not None and all(data.get(name) == stored.get(name) for name in secret):
        internal = markers.marked(store.model.model_fields, "is_internal")
        data |= {name: stored[name] for name in internal if name in stored}
    found = store.mistakes(data)
    for name in set(invalid) - {each.field for each in found}:
        found.append(InvalidInput(name, "names no server", "write its URL, or its name"))
    for each in found:
        if each.field in secret and each.field not in data:
            hint = _store_hint("NAME", where)
            draft.entry.add_mistake(InvalidInput(each.field, "is missing", hint))
        elif each.field not in unknown:
            draft.entry.add_mistake(each)
    filled.settings = None if found else store.validate(data)
    return filled


def _values(filled: FilledDocument, known: Secrets) -> JsonObject:
    """Return the values of the secrets that the secret fields of a draft refer to.

    Add the other references to ``missing``, or as a mistake to the entry.
    """
    draft, values = filled.draft, JsonObject()
    entry, where = draft.entry, draft.recipients()
    for name, secret_name in [*draft.references.items(), *_named_elsewhere(draft)]:
        secret = known.get(secret_name)
        if not secret_name:  # the field has a mistake
            continue
        if secret is None:
            problem = f'the secret "{secret_name}" does not exist on this machine'
            hint = f"store it with {_command(secret_name, where)}"
            filled.missing.append(entry.mistake(InvalidInput(name, problem, hint)))
        elif name not in draft.references:
            continue
        elif isinstance(secret, InvalidInput):
            entry.add_mistake(InvalidInput(name, secret.problem, secret.hint))
        elif any(each.destination is None for each in where):  # that field has a mistake
            continue
        elif others := [each for each in where if not each.may_get(secret)]:
            shown = " and ".join(each.shown for each in others)
            problem = f'the secret "{secret_name}" is not for {shown}'
            command = _command(secret_name, others, *secret.hosts, options=" --replace")
            entry.add_mistake(InvalidInput(name, problem, f"bind it with {command}"))
        else:
            values[name] = secret.value
    return values


def _named_elsewhere(draft: DocumentDraft) -> list[tuple[str, str]]:
    """Return the fields that name a secret, but do not contain its value, and the secret's name."""
    fields, found = _fields(draft.store), list[tuple[str, str]]()
    for name, value in draft.given.items():
        if markers.of(fields[name]).names == "secret" and isinstance(value, str) and value:
            found.append((name, value))
        found += [(name, each) for each in sorted(referenced_names(value))]
    return found


def replaced(
    draft: DocumentDraft, stored: Container[DocumentRef], given: Container[DocumentRef]
) -> list[Store]:
    """Return the stores whose document with this name the draft replaces.

    Documents of different kinds may have the same name. So a document replaces another one only if
    it is new, and if the other one is not among those that the files give.
    """
    if draft.ref in stored:
        return []
    refs = {each.slug: (each.slug, draft.name) for each in draft.section.stores}
    return [
        each
        for each in draft.section.stores
        if refs[each.slug] in stored and refs[each.slug] not in given
    ]


def compare(
    filled: FilledDocument,
    stored: Mapping[DocumentRef, Data],
    jobs: Mapping[str, str],
    others: Sequence[Store] = (),
) -> DocumentStep | None:
    """Return the step for a document; None if it is stored as the file says.

    ``stored`` are the documents of its section, and ``jobs`` the names of the jobs by their ids.
    ``others`` are the stores whose document it replaces.
    """
    draft = filled.draft
    before = stored.get(draft.ref)
    given = dict(draft.given) if filled.settings is None else block_data(filled.settings)
    old = {} if before is None else fields_of(draft.store, before, jobs)
    changes = [FieldChange(field=KIND, old=each.word, new=draft.store.word) for each in others]
    for name in _fields(draft.store):
        new, was = given.get(name), old.get(name)
        is_secret = name in _secret_fields(draft.store)
        if name in draft.references and filled.settings is None:
            new = HIDDEN
        if new == was or (before is None and new in (None, _default(draft.store, name))):
            continue
        if is_secret:
            reference = secret_references.reference(draft.references.get(name, ""))
            was = (HIDDEN if was else "") if before else None
            new = reference if name in draft.references else ""
        changes.append(FieldChange(field=name, old=was, new=new))
    if not changes and before is not None:
        return None
    is_new = before is None and not others
    old_data = {
        each.slug: stored[each.slug, draft.name]
        for each in (draft.store, *others)
        if (each.slug, draft.name) in stored
    }
    return DocumentStep(filled, is_new, tuple(changes), tuple(others), old_data)


def check_jobs(draft: DocumentDraft, names: Iterable[str]) -> None:
    """Add a mistake to the entry if the document names a job that will not exist."""
    known = set(names)
    for name in _job_fields(draft.store):
        job = draft.given.get(name)
        if isinstance(job, str) and job not in known:
            near = nearest_name(job, known)
            hint = (
                f'did you mean "{near}"?' if near else "name a job of the file, or one that exists"
            )
            draft.entry.add_mistake(InvalidInput(name, f'unknown job "{job}"', hint))


def with_job_ids(store: Store, settings: BaseModel, ids: Mapping[str, str]) -> BaseModel:
    """Return the settings with the ids of the jobs in place of their names.

    Raise `ChangedMeanwhile` if ``ids`` lacks a job.
    """
    named = dict[str, str]()
    for name in _job_fields(store):
        job = getattr(settings, name)
        if job not in ids:
            raise ChangedMeanwhile("job", f'"{job}"')
        named[name] = ids[job]
    return settings.model_copy(update=named)


def fields_of(store: Store, data: Data, jobs: Mapping[str, str]) -> JsonObject:
    """Return all fields of stored settings as in a file, but with the values of its secrets."""
    settings, _ = store.check(data)
    plain = dict(data) if settings is None else block_data(settings)
    for name in _job_fields(store):
        plain[name] = jobs.get(str(plain.get(name)), plain.get(name))
    return {name: plain.get(name) for name in _fields(store)}


def recipients(store: Store, name: str, settings: Data) -> list[Recipient]:
    """Return the recipients of a document's secrets: all its servers or, without one, itself."""
    found = list[Recipient]()
    for each in markers.marked(store.model.model_fields, "gets_secrets"):
        given = _value(store, settings, each)
        if given in ("", None, ...):
            continue
        port = markers.of(store.model.model_fields[each]).port
        text = f"https://{given}:{_value(store, settings, port)}" if port else given
        scheme, destination = "", None
        if isinstance(text, str):
            with suppress(httpx.InvalidURL, KeyError, UnicodeError):
                url = httpx.URL(text.strip())
                scheme, destination = url.scheme, SecretDestination.of_url(url)
        found.append(Recipient(each, scheme, destination if scheme and url.host else None))
    own = SecretDestination.of_name(store.noun.replace(" ", "-"), name or "NAME")
    return found or [Recipient("", "", own)]


def _value(store: Store, settings: Data, name: str) -> Any:
    return settings.get(name, _default(store, name))


def export(
    store: Store, name: str, data: Data, jobs: Mapping[str, str], known: Secrets
) -> tuple[JsonObject, list[str]]:
    """Return a stored document as in a file, and comments on the secrets that have to be stored.

    Each secret is a reference to the secret with the same value and destination or, if there is
    none, to a new one. Raise `InvalidInput` if the settings are invalid, name no job that a file
    can have, or contain a literal secret outside of their secret fields.
    """
    _, problem = store.check(data)
    if problem:
        raise InvalidInput(store.noun, f'"{name}" is invalid: {problem}')
    fields, comments = fields_of(store, data, jobs), list[str]()
    where = recipients(store, name, fields)
    for each in _job_fields(store):
        if data.get(each) not in jobs:
            problem = f'"{name}" names a job that was removed, or that belongs to an agent'
            raise InvalidInput(store.noun, problem)
    for each in _secret_fields(store):
        if fields[each]:
            same = [
                secret.name
                for secret in known.values()
                if isinstance(secret, Secret)
                and secret.value == fields[each]
                and all(one.may_get(secret) for one in where)
            ]
            secret_name = min(same, default="") or _free_name(store, name, each, known)
            fields[each] = secret_references.reference(secret_name)
            if not same:
                comments.append(f"{each}: store it with {_command(secret_name, where)}")
    if literal := literal_secret(fields):
        raise InvalidInput(store.noun, f'"{name}" has a literal secret in its field "{literal}"')
    own = {each: value for each, value in fields.items() if value != _default(store, each)}
    return {NAME: name, **({KIND: store.word} if store.word else {}), **own}, comments


def _free_name(store: Store, name: str, field: str, known: Secrets) -> str:
    wanted = f"{store.noun} {name} {field}".replace(" ", "-").replace("_", "-")
    taken = (wanted if number == 1 else f"{wanted}-{number}" for number in range(1, len(known) + 2))
    return next(each for each in taken if each not in known)


def schema(section: DocumentSection) -> tuple[JsonObject, JsonObject]:
    """Return the JSON schema of a document of a section, and the definitions that it refers to."""
    kinds, definitions = list[JsonObject](), JsonObject()
    for store in section.stores:
        found = store.model.model_json_schema(mode="validation")
        definitions |= found.get("$defs", {})
        properties = {name: found["properties"][name] for name in _fields(store)}
        for name in _secret_fields(store):
            properties[name] = {
                "type": "string",
                "pattern": rf"^\s*{secret_references.SECRET.pattern}\s*$"
                + ("" if _fields(store)[name].is_required() else "|^$"),
                "description": f"{properties[name].get('description', '')} As a reference: "
                "{{secret:name}}.".strip(),
            }
        own: JsonObject = {NAME: {"type": "string", "description": f"Name of the {store.noun}."}}
        if store.word:
            own[KIND] = {"const": store.word}
        needed = [NAME, *_required(store)]
        kinds.append(
            {
                "type": "object",
                "additionalProperties": False,
                "required": needed if len(needed) > 1 or not store.word else [NAME, KIND],
                "properties": own | properties,
            }
        )
    return kinds[0] if len(kinds) == 1 else {"anyOf": kinds}, definitions


# --- fields


def _fields(store: Store) -> dict[str, FieldInfo]:
    """Return the settings that a file can have."""
    internal = markers.marked(store.model.model_fields, "is_internal")
    return {name: each for name, each in store.model.model_fields.items() if name not in internal}


def _secret_fields(store: Store) -> list[str]:
    return [name for name, each in _fields(store).items() if each.annotation is SecretStr]


def _job_fields(store: Store) -> list[str]:
    return [name for name, each in _fields(store).items() if markers.of(each).names == "job"]


def _required(store: Store) -> list[str]:
    """Return the required settings. A stored document may keep its secret, so none is required."""
    secret = _secret_fields(store)
    return [
        name for name, each in _fields(store).items() if each.is_required() and name not in secret
    ]


def _default(store: Store, name: str) -> Any:
    """Return the default of a setting as JSON; `...` if the setting is required."""
    known = _fields(store)[name]
    if known.is_required():
        return ...
    value = known.get_default(call_default_factory=True)
    return value.get_secret_value() if isinstance(value, SecretStr) else value


# --- messages


def _note_mistake(entry: DocumentEntry, check: Any, *arguments: Any) -> None:
    try:
        check(*arguments)
    except InvalidInput as error:
        entry.add_mistake(error)


def _command(secret: str, where: Iterable[Recipient], *hosts: str, options: str = "") -> str:
    """Return the command that stores a secret for its recipients, and for other ``hosts``."""
    named = " ".join(f"--host {each}" for each in [*hosts, *(one.shown for one in where)])
    return f"`daybook secrets add {secret} {named}{options}`"


def _store_hint(secret: str, where: Iterable[Recipient]) -> str:
    return f'store it with {_command(secret, where)}, and write "{{{{secret:{secret}}}}}"'
