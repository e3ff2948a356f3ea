"""Settings documents of jobs files: the plan, its execution, and the export.

`files.apply` plans them together with the jobs. A plan stores nothing: its checks read Prefect as
if the planned documents were stored. The documents are stored before the jobs, which may name them,
and those that name a job after the jobs. Each one is one write to Prefect, then one to its copy in
the ledger; after a crash in between, a second application stores the others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel

from daybook import home, owners, prefect
from daybook.agents import kinds
from daybook.api import agents, tools
from daybook.api.documents import refuse_if_used, stored_jobs
from daybook.delivery import destinations
from daybook.delivery.channels import registry
from daybook.delivery.destination_settings import DestinationSettings
from daybook.errors import ChangedMeanwhile, DaybookError, InvalidInput, Mistake
from daybook.files.jobs_file import DocumentEntry, JobsFile
from daybook.jobs import store
from daybook.jobs.views import FieldChange
from daybook.json_text import JsonObject
from daybook.keeper import blocks
from daybook.ledger.engine import Ledger
from daybook.resources import copies, file_documents, secrets
from daybook.resources.copies import DocumentRef
from daybook.resources.file_documents import (
    Data,
    DocumentDraft,
    DocumentSection,
    DocumentStep,
    FilledDocument,
    Secrets,
)
from daybook.resources.planned import with_planned
from daybook.resources.store import block_data
from daybook.tools import server_blocks
from daybook.tools.server_settings import ToolServerSettings

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from sqlalchemy.ext.asyncio import AsyncSession

    from daybook.jobs.store import StoredJob

NOT_PRUNED = "--prune removes no settings documents, because no set owns them"

Checked = tuple[BaseModel, list[str]]
_Check = Callable[["PrefectClient", FilledDocument, BaseModel, Data | None], Awaitable[Checked]]


class DocumentChange(BaseModel, frozen=True):
    """A settings document that is added or changed; ``kind`` is its noun, such as `agent`.

    ``changes`` are the changed settings, with references or asterisks in place of secrets.
    """

    action: Literal["add", "change"]
    kind: str
    name: str
    changes: list[FieldChange]


@dataclass
class DocumentPlan:
    """The documents to store, in their order.

    ``needed`` are the references of these documents to secrets that do not exist: nothing can be
    stored before they do. ``planned`` are the data of the documents, None for one that is removed,
    for checks of the jobs. ``stored`` is the number of steps that were performed.
    """

    steps: list[DocumentStep] = field(default_factory=list)
    mistakes: list[Mistake] = field(default_factory=list)
    needed: list[Mistake] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    planned: dict[DocumentRef, JsonObject | None] = field(default_factory=dict, repr=False)
    unchanged: int = 0
    stored: int = 0

    @property
    def is_complete(self) -> bool:
        """Return whether the settings of all steps are known, apart from missing keys."""
        return all(each.filled.settings is not None for each in self.steps)

    def advice(self) -> str:
        """Return what to do after an error, which says also what was stored."""
        done = "settings documents are stored; " if self.stored else ""
        return f"{done}apply again"

    def changes(self) -> list[DocumentChange]:
        return [
            DocumentChange(
                action="add" if each.is_new else "change",
                kind=each.filled.draft.section.noun,
                name=each.filled.draft.name,
                changes=list(each.changes),
            )
            for each in self.steps
        ]


def sections() -> dict[str, DocumentSection]:
    """Return the sections of settings documents in jobs files, by name."""
    return file_documents.sections(blocks.BLOCK_TYPES)


def nouns() -> dict[str, str]:
    """Return the noun of the documents of each section, as `jobs_file.read_file` needs it."""
    return {name: each.noun for name, each in sections().items()}


async def plan(
    files: Sequence[JobsFile], jobs: Mapping[str, str], names: Iterable[str]
) -> DocumentPlan:
    """Return the plan for the documents in the files. Store nothing.

    ``jobs`` are the names of the stored jobs by their ids, and ``names`` those of all jobs that
    will exist. Raise `PrefectUnreachable` if there are documents.
    """
    found, drafts = DocumentPlan(), list[DocumentDraft]()
    entries = [each for file in files for each in file.documents]
    if not entries:
        return found
    by_noun = {each.noun: each for each in sections().values()}
    first = dict[DocumentRef, DocumentEntry]()
    for entry in entries:
        draft = file_documents.read(entry, by_noun[entry.noun])
        if draft is None:
            continue
        earlier = first.setdefault(draft.ref, entry)
        if earlier is not entry and entry.name:
            at = earlier.position("name")
            hint = f"keep one; the first is {earlier.file}:{at.line}:{at.column}"
            entry.add_mistake(InvalidInput("name", f'"{entry.name}" is given twice', hint))
        file_documents.check_jobs(draft, names)
        drafts.append(draft)
    if not any(each.mistakes for each in entries):
        async with prefect.client.answering() as client:
            await _fill(client, found, drafts, jobs)
    found.mistakes += [each for entry in entries for each in entry.mistakes]
    return found


async def _fill(
    client: PrefectClient,
    found: DocumentPlan,
    drafts: Sequence[DocumentDraft],
    jobs: Mapping[str, str],
) -> None:
    """Add the steps, with the secrets of this machine, and the mistakes of the drafts."""
    stores = {each.slug: each for draft in drafts for each in draft.section.stores}
    stored: dict[DocumentRef, Data] = {
        (slug, str(each.name)): dict(each.data)
        for slug, known in stores.items()
        for each in await known.documents(client, include_secrets=True)
    }
    known_secrets = _built(
        (str(each.name), each.data)
        for each in await secrets.STORE.documents(client, include_secrets=True)
    )
    filled = [file_documents.fill(each, stored.get(each.ref), known_secrets) for each in drafts]
    given = {each.ref for each in drafts}
    for each in filled:
        others = file_documents.replaced(each.draft, stored, given)
        found.planned |= {(other.slug, each.draft.name): None for other in others}
        if each.settings is not None:
            found.planned[each.draft.ref] = block_data(each.settings)
    planned = with_planned(client, found.planned)
    for each in filled:
        await _check(planned, found, each, stored.get(each.draft.ref))
        others = file_documents.replaced(each.draft, stored, given)
        step = file_documents.compare(each, stored, jobs, others)
        if step is not None:
            await _check_step(client, step)
        if step is None:
            found.unchanged += 1
            found.notes += [f"{missing}; the stored value stays" for missing in each.missing]
        else:
            found.steps.append(step)
            found.needed += each.missing
    found.steps.sort(key=lambda each: each.filled.draft.section.names_jobs)


async def _check_step(client: PrefectClient, step: DocumentStep) -> None:
    """Check that the document can be stored, and that no job needs a document that it replaces."""
    draft = step.filled.draft
    try:
        await draft.store.registered_type(client)
        for each in step.replaced:
            ref = f"{each.slug}/{draft.name}"
            jobs = await stored_jobs() if each.slug in kinds.KINDS else []
            users = [job.row.name for job in jobs if ref in job.job.agents()]
            refuse_if_used(each.noun, ref, users)
    except InvalidInput as error:
        draft.entry.add_mistake(error)


async def _check(
    client: PrefectClient, found: DocumentPlan, filled: FilledDocument, before: Data | None
) -> None:
    """Check a document as the operation of its kind does that adds one."""
    draft, check = filled.draft, _CHECKS.get(filled.draft.store.slug)
    kind = registry.kinds().get(draft.store.slug)
    if filled.settings is None:
        return
    try:
        if kind is not None:
            await registry.check_new(client, kind, draft.name, filled.settings)
        if check is None:
            return
        checked, notes = await check(client, filled, filled.settings, before)
    except InvalidInput as error:
        filled.draft.entry.add_mistake(error)
        return
    filled.settings = checked
    found.notes += [f"{filled.draft.entry.label}: {each}" for each in notes]


async def _check_agent(
    client: PrefectClient, filled: FilledDocument, settings: BaseModel, before: Data | None
) -> Checked:
    gives_key = "api_key" in filled.draft.references
    return await agents.check_document(client, settings, before, gives_key=gives_key)


async def _check_server(
    client: PrefectClient, filled: FilledDocument, settings: BaseModel, before: Data | None
) -> Checked:
    assert isinstance(settings, ToolServerSettings)
    return tools.resolve_program(settings)


async def _check_destination(
    client: PrefectClient, filled: FilledDocument, settings: BaseModel, before: Data | None
) -> Checked:
    assert isinstance(settings, DestinationSettings)
    await destinations.check_url(client, filled.draft.name, settings.url)
    return settings, []


_CHECKS: dict[str, _Check] = {
    **dict.fromkeys(kinds.KINDS, _check_agent),
    server_blocks.STORE.slug: _check_server,
    destinations.STORE.slug: _check_destination,
}
"""What a kind checks beyond its model, by the slug of its store. Channels have `ChannelKind`s."""


async def perform(ledger: Ledger, found: DocumentPlan, *, after_jobs: bool) -> None:
    """Store the documents of the plan that name a job (``after_jobs``), or the others.

    Raise `PrefectUnreachable`, and `ChangedMeanwhile` if one of them, or a job that it names, was
    changed since the plan was made. A second application stores the remaining ones.
    """
    steps = [each for each in found.steps if each.filled.draft.section.names_jobs == after_jobs]
    if not steps:
        return
    ids = dict[str, str]()
    if after_jobs:
        async with ledger.read() as session:
            ids = {name: each for each, name in names_of(await store.read_all(session)).items()}
    async with prefect.client.answering() as client:
        for step in steps:
            draft, settings = step.filled.draft, step.filled.settings
            assert settings is not None
            try:
                settings = file_documents.with_job_ids(draft.store, settings, ids)
                await _refuse_changed(client, step)
            except ChangedMeanwhile as error:
                raise ChangedMeanwhile(error.field, error.name, found.advice()) from None
            await draft.store.save(client, draft.name, settings, replace=True)
            found.stored += 1
            for each in step.replaced:
                await each.remove(client, draft.name)


async def _refuse_changed(client: PrefectClient, step: DocumentStep) -> None:
    """Raise `ChangedMeanwhile` if a document of the step is not stored as the plan says."""
    draft = step.filled.draft
    for each in (draft.store, *step.replaced):
        now = await each.find(client, draft.name, include_secrets=True)
        if (None if now is None else dict(now.data)) != step.before.get(each.slug):
            raise ChangedMeanwhile(draft.section.noun, f'"{draft.name}"')


def names_of(jobs: Iterable[StoredJob]) -> dict[str, str]:
    """Return the names of the jobs that a file can name, by their ids.

    An agent's job may have the name of another owner's job, so no file can name it.
    """
    return {
        each.id: each.row.name
        for each in jobs
        if each.row.archived_at is None and not owners.is_agent(each.row.owner)
    }


async def export(
    session: AsyncSession,
) -> tuple[dict[str, list[tuple[JsonObject, list[str]]]], list[str]]:
    """Return the documents of each section as in a jobs file, each with comments.

    The second value are the reasons why documents are left out. The documents are the copies in the
    ledger, so this works without Prefect.
    """
    rows, left_out = await copies.list_copies(session), list[str]()
    stored = dict[DocumentRef, JsonObject]()
    try:
        key = await copies.key(session, home.current_home())
    except DaybookError as error:
        return {}, [f"agents and other settings documents: {error}"]
    for row in rows:
        try:
            assert key is not None
            stored[row.slug, row.name] = copies.decrypt(row, key)
        except DaybookError as error:
            left_out.append(str(error))
    known = _built(
        (name, data) for (slug, name), data in stored.items() if slug == secrets.STORE.slug
    )
    jobs = names_of(await store.read_all(session))
    found = dict[str, list[tuple[JsonObject, list[str]]]]()
    for section, each in sections().items():
        stores = {one.slug: one for one in each.stores}
        for (slug, name), data in sorted(stored.items(), key=lambda item: item[0][1]):
            if slug in stores:
                try:
                    entry = file_documents.export(stores[slug], name, data, jobs, known)
                    found.setdefault(section, []).append(entry)
                except InvalidInput as error:
                    left_out.append(str(error))
    return found, left_out


def _built(stored: Iterable[tuple[str, Mapping[str, Any]]]) -> Secrets:
    found: dict[str, Any] = {}
    for name, data in stored:
        try:
            found[name] = secrets.build(name, data)
        except InvalidInput as error:
            found[name] = error
    return found


def schema() -> JsonObject:
    """Return the JSON schema of a jobs file, with the sections of settings documents."""
    from daybook.files.schema import schema as schema_of

    return schema_of({name: file_documents.schema(each) for name, each in sections().items()})
