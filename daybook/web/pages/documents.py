"""Pages of settings documents, generated from the models of their settings.

::

    GET  <path>                 the list of a kind                    `DocumentPages.entries`
    GET  <path>/new?variant=…   the form of a new document            `variants`
    POST <path>/new             store it                              `add`
    GET  <path>/<ref>/edit      the form of a document                `read`
    POST <path>/<ref>/edit      store the fields that the user changed, unless another user has
                                changed the document since            `edit`
    POST <path>/<ref>/test      try it                                `test`
    POST <path>/<ref>/rotate    give it a new secret                  `rotate`
    POST <path>/<ref>/remove    remove it                             `remove`

A secret is only written: no page shows a stored or typed one. An empty field keeps the stored
value, and a checkbox deletes it. After a mistake in another field, the field is empty, and says so.

To add a kind, write a subclass of `DocumentPages`, and add an object of it to `DOCUMENTS` of a
module of `MODULES`, or of a feature's `pages`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from urllib.parse import quote

from pydantic.fields import FieldInfo
from starlette.requests import Request
from starlette.responses import Response

from daybook import api, markers
from daybook.api.documents import Documents
from daybook.errors import ChangedMeanwhile, DaybookError, InvalidInput, NotFound, UnknownName
from daybook.jobs.views import FieldChange
from daybook.web.login import admitted
from daybook.web.pages.actions import Done, PageAction, load_prefect
from daybook.web.pages.edits import SHOWN, SubmittedEdit, digests
from daybook.web.pages.fields import Field, fields_of, pairs_of, secrets_of, text_of
from daybook.web.pages.forms import Form, typed
from daybook.web.pages.site import OnlyShown, Page, Site

JOBS, MACHINE = "What jobs use", "This Daybook"
"""Groups of the page Settings."""
START = "/start"
"""Path of the page of the first steps. A form that it links returns to it."""
DELETE = "delete-"
"""Beginning of the name of the checkbox that deletes a stored secret."""
NEW_SECRET = "new_secret"
"""Name of the field of a secret that replaces another one, of which the sender makes both."""
AT_ONCE = Field("at_once", "End the old secret at once, for example after a leak", "", "switch")
REPLACE_HELP = "Its settings are not kept, and its secrets, if it has any, are deleted."


class TestFailed(DaybookError):
    """A document was tried, and does not work."""


@dataclass(frozen=True)
class Listed:
    """A row of the list. ``ref`` is the document's reference in addresses, by default its name.

    ``cells`` are the texts, or instants, below `DocumentPages.columns`. ``users`` are the names of
    its users.
    """

    name: str
    cells: tuple[str | datetime, ...] = ()
    users: Sequence[str] = ()
    problem: str | None = None
    ref: str = ""


@dataclass(frozen=True)
class Variant:
    """A form of a new document, of the model with the fields ``settings``.

    The form starts with the values ``start``. It shows the fields ``first``, and folds the others.
    ``note`` says what the user should know, and ``paste`` is a text that it mentions, to copy
    elsewhere. ``preset`` is the name of a known document, and ``kind`` a word of the kind's own.
    ``more_secrets`` are secret fields that are no settings.
    """

    word: str
    label: str
    settings: Mapping[str, FieldInfo]
    first: tuple[str, ...] = ()
    start: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    preset: str = ""
    kind: str = ""
    omitted: tuple[str, ...] = ()
    more_secrets: tuple[Field, ...] = ()
    paste: str = ""

    @property
    def fields(self) -> list[Field]:
        found = [*fields_of(self.settings), *pairs_of(self.settings)]
        return [each for each in found if each.name not in self.omitted]

    @property
    def secrets(self) -> list[Field]:
        found = secrets_of(self.settings)
        return [*(each for each in found if each.name not in self.omitted), *self.more_secrets]

    def is_first(self, name: str) -> bool:
        return name in self.first or self.settings[name].is_required()

    def texts(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Return the text of each field: of its value, or of its default."""
        return {
            each.name: each.show(values[each.name]) if each.name in values else self._default(each)
            for each in self.fields
        }

    def _default(self, field: Field) -> str:
        known = self.settings[field.name]
        return (
            "" if known.is_required() else field.show(known.get_default(call_default_factory=True))
        )

    def given(self, form: Form) -> dict[str, Any]:
        """Return the typed settings that differ from the defaults, and the typed secrets."""
        defaults, start, given = self.texts({}), self.texts(self.start), dict[str, Any]()
        for each in self.fields:
            text = each.read(form) if form.has(each.name) else start[each.name]
            if text.strip() != defaults[each.name].strip():
                given[each.name] = each.value(text)
        return given | typed_secrets(self.secrets, form)


def typed_secrets(secrets: Sequence[Field], form: Form) -> dict[str, str]:
    """Return the typed secrets, and "" for each one that the user deletes."""
    deleted = {
        each.name: ""
        for each in secrets
        if each.can_be_empty and "true" in form.all(f"{DELETE}{each.name}")
    }
    return deleted | {each.name: text for each in secrets if (text := form.get(each.name))}


@dataclass(frozen=True)
class Recent:
    """Something that happened with a document: its page, its status, and when."""

    path: str
    status: str
    at: datetime


@dataclass(frozen=True)
class FormDocument:
    """A document for its form. ``stored`` are the names of its secrets that have a value.

    ``users`` forbid its removal. ``facts`` are labels with texts or instants.
    """

    name: str
    ref: str
    variant: Variant
    settings: Mapping[str, Any]
    stored: Sequence[str] = ()
    problem: str | None = None
    users: Sequence[str] = ()
    facts: Sequence[tuple[str, str | datetime]] = ()
    recent: Sequence[Recent] = ()
    editable: bool = True
    removable: bool = True


@dataclass(frozen=True)
class Saved:
    """A document that was stored, with hints. ``secret`` is a value that Daybook has made."""

    ref: str
    notes: Sequence[str] = ()
    secret: str = field(default="", repr=False)


class DocumentPages(ABC):
    """The pages of a kind of documents. ``removal`` says what a removal means."""

    path: str
    title: str
    noun: str
    about: str
    columns: tuple[str, ...] = ()
    removal = "Its settings are deleted."
    test_label = ""
    test_help = ""
    test_fields: tuple[Field, ...] = ()
    rotate_help = ""
    rotate_fields: tuple[Field, ...] = ()
    """Fields of the form that rotates a document's secret; without any, the kind has no such form.

    None of them is called `secret`, which is a field of the form above.
    """
    can_replace = False
    has_name = True
    has_users = True
    group = JOBS
    is_chat = False
    """Whether the documents are channels in which people can answer; the first steps name these."""
    tabs: tuple[tuple[str, str], ...] = ()
    """Paths and labels of further pages that add a document."""

    @abstractmethod
    def variants(self) -> Sequence[Variant]:
        """Return the forms of a new document."""

    @abstractmethod
    async def entries(self) -> Sequence[Listed]:
        """Return the rows of the list. Raise `Unreachable`."""

    @abstractmethod
    async def read(self, ref: str) -> FormDocument:
        """Return a document. Raise `NotFound`."""

    @abstractmethod
    async def add(self, name: str, variant: Variant, given: dict[str, Any], form: Form) -> Saved:
        """Store a new document."""

    async def edit(self, document: FormDocument, changes: dict[str, Any]) -> Saved:
        """Change a document that is `editable`."""
        raise InvalidInput(self.noun, "cannot be changed", "remove it and add another")

    @abstractmethod
    async def remove(self, ref: str) -> None:
        """Remove a document."""

    async def test(self, document: FormDocument, form: Form) -> list[str]:
        """Try a document, and return lines about the result. Raise `TestFailed`."""
        raise TestFailed(f"A {self.noun} cannot be tested.")

    async def rotate(self, document: FormDocument, form: Form) -> Saved:
        """Give a document a new secret."""
        raise InvalidInput(self.noun, "has no secret to rotate", "remove it and add another")

    # --- pages

    def variant(self, word: str) -> Variant:
        variants = self.variants()
        return next((each for each in variants if each.word == word), variants[0])

    def address(self, ref: str, page: str = "edit") -> str:
        return f"{self.path}/{quote(ref)}/{page}"

    async def index(self, site: Site, request: Request) -> Response:
        """List the documents."""
        only_operator(request)
        await load_prefect()
        return site.render(request, "documents.html", kind=self, entries=await self.entries())

    async def new(self, site: Site, request: Request) -> Response:
        """Show the form of a new document."""
        only_operator(request)
        form, given = typed(request), request.query_params
        variant = self.variant(form.get("variant") or given.get("variant", ""))
        start = variant.texts(variant.start)
        values = {
            each.name: each.read(form) if form.has(each.name) else start[each.name]
            for each in variant.fields
        }
        name = Field("name", "Name", "", "line")
        return site.render(
            request,
            "document_form.html",
            **await self._shared(variant, form.get("from") or given.get("from", "")),
            document=None,
            here=f"{self.path}/new",
            name=name,
            suggested=self.suggested_name(variant) or given.get("name", ""),
            replace=Field(
                "replace", f"Replace the {self.noun} with this name", REPLACE_HELP, "switch"
            ),
            values=values,
        )

    def suggested_name(self, variant: Variant) -> str:
        """Return the name that the form of a known document suggests; "" for none."""
        return variant.preset

    async def show(self, site: Site, request: Request) -> Response:
        """Show the form of a document. After a mistake or another user's edit, show it again."""
        only_operator(request)
        document = await self._read(request.path_params["ref"])
        variant, form = document.variant, typed(request)
        values = variant.texts(document.settings)
        shown, meanwhile = digests(values), list[tuple[FieldChange, bool]]()
        if form.has(SHOWN):
            edit = SubmittedEdit(variant.fields, values, form)
            values, meanwhile = edit.texts(), edit.changed_meanwhile()
            shown = shown if meanwhile else form.get(SHOWN)
        fields = {each.name for each in (*variant.fields, *variant.secrets)}
        return site.render(
            request,
            "document_form.html",
            **await self._shared(variant, ""),
            document=document,
            here=self.address(document.ref),
            values=values,
            shown=shown,
            meanwhile=meanwhile,
            kept_settings=[
                name
                for name, value in document.settings.items()
                if value and name not in fields and name not in variant.omitted
            ],
        )

    async def _shared(self, variant: Variant, origin: str) -> dict[str, Any]:
        fields, secrets = variant.fields, variant.secrets
        named = {each.names for each in (*fields, *self.test_fields) if each.names}
        return {
            "kind": self,
            "variant": variant,
            "variants": self.variants(),
            "first": [each for each in fields if variant.is_first(each.name)],
            "more": [each for each in fields if not variant.is_first(each.name)],
            "secrets": secrets,
            "defaults": variant.texts({}),
            "placeholders": {
                name: text_of(known.examples[0]).split("\n")[0]
                for name, known in variant.settings.items()
                if known.examples
            },
            "names": {noun: await names_of(noun) for noun in named},
            "lists": {each.name: f"names-{each.names}" for each in fields if each.names},
            "origin": origin if origin == START else "",
        }

    async def _read(self, ref: str) -> FormDocument:
        await load_prefect()
        try:
            return await self.read(ref)
        except UnknownName as error:
            raise NotFound(self.noun, ref, known=error.known) from None

    # --- actions

    async def do_add(self, ref: str, form: Form) -> Done:
        """Store a new document."""
        variant = self.variant(form.get("variant"))
        saved = await self.add(form.get("name").strip(), variant, variant.given(form), form)
        there = START if form.get("from") == START else self.address(saved.ref)
        return Done(there, "document-added", notes=saved.notes, secret=saved.secret)

    async def do_edit(self, ref: str, form: Form) -> Done:
        """Store the settings that the user changed.

        Raise `ChangedMeanwhile` if another user has changed the document since the form was shown,
        and `InvalidInput` for a form without its hidden fields.
        """
        document = await self._read(ref)
        if not document.editable:
            raise InvalidInput(self.noun, f'"{document.name}" cannot be changed here')
        variant = document.variant
        edit = SubmittedEdit(variant.fields, variant.texts(document.settings), form)
        if edit.changed_meanwhile():
            raise ChangedMeanwhile(self.noun, document.name)
        changes = edit.changes() | typed_secrets(variant.secrets, form)
        if not changes:
            return Done(self.path, "unchanged")
        saved = await self.edit(document, changes)
        return Done(self.path, "document-edited", notes=saved.notes)

    async def do_remove(self, ref: str, form: Form) -> Done:
        """Remove a document."""
        await self.remove(ref)
        return Done(self.path, "document-removed")

    async def do_test(self, ref: str, form: Form) -> Done:
        """Try a document."""
        document = await self._read(ref)
        lines = await self.test(document, form)
        return Done(self.address(document.ref), "document-tested", notes=lines)

    async def do_rotate(self, ref: str, form: Form) -> Done:
        """Give a document a new secret."""
        document = await self._read(ref)
        saved = await self.rotate(document, form)
        there = self.address(document.ref)
        return Done(there, "secret-rotated", notes=saved.notes, secret=saved.secret)

    @property
    def routes(self) -> tuple[Page, ...]:
        return (
            Page(self.path, self.index),
            Page(f"{self.path}/new", self.new),
            Page(f"{self.path}/{{ref:path}}/edit", self.show),
        )

    @property
    def actions(self) -> tuple[PageAction, ...]:
        variants = self.variants()
        fields = ["name", *(each.name for one in variants for each in one.fields)]
        secrets = tuple({each.name: None for one in variants for each in one.secrets})
        write = PageAction(
            f"{self.path}/new",
            self.do_add,
            self.new,
            (*dict.fromkeys(fields), *secrets),
            uses_prefect=True,
            secrets=secrets,
            once=True,
        )
        of_one = f"{self.path}/{{ref:path}}"
        edit = replace(write, path=f"{of_one}/edit", do=self.do_edit, page=self.show, once=False)
        named = tuple(each.name for each in self.test_fields)
        test = PageAction(
            f"{of_one}/test", self.do_test, self.show, named, uses_prefect=True, once=True
        )
        remove = PageAction(f"{of_one}/remove", self.do_remove, self.show, uses_prefect=True)
        rotate = PageAction(
            f"{of_one}/rotate",
            self.do_rotate,
            self.show,
            tuple(each.name for each in self.rotate_fields),
            {"secret": NEW_SECRET},
            uses_prefect=True,
            secrets=(NEW_SECRET,),
            once=True,
        )
        tests = [test] if self.test_label else []
        rotations = [rotate] if self.rotate_fields else []
        return (write, edit, *tests, *rotations, remove)


class StoredPages(DocumentPages):
    """The pages of a kind whose documents have only the operations of `Documents`."""

    documents: Documents[Any]
    first: tuple[str, ...] = ()
    note = ""

    def variants(self) -> Sequence[Variant]:
        settings = self.documents.store.model.model_fields
        omitted = markers.marked(settings, "is_internal")
        return [Variant("", "", settings, self.first, note=self.note, omitted=omitted)]

    async def read(self, ref: str) -> FormDocument:
        found = await self.documents.form(ref)
        return FormDocument(
            found.name,
            found.name,
            self.variants()[0],
            found.settings,
            found.secrets,
            found.problem,
            found.users,
        )

    async def add(self, name: str, variant: Variant, given: dict[str, Any], form: Form) -> Saved:
        await self.documents.add(name, given)
        return Saved(name)

    async def edit(self, document: FormDocument, changes: dict[str, Any]) -> Saved:
        await self.documents.edit(document.ref, changes)
        return Saved(document.ref)

    async def remove(self, ref: str) -> None:
        await self.documents.remove(ref)


def only_operator(request: Request) -> None:
    """Raise `OnlyShown` for a shared link: it does not show how this Daybook is set up."""
    if admitted(request).session.viewer:
        raise OnlyShown


async def names_of(noun: str) -> list[str]:
    """Return the names that a field offers: of jobs, or of documents."""
    if noun == "job":
        return [each.row.name for each in await api.documents.stored_jobs()]
    return await api.documents.names(noun)
