"""Operations that several kinds of settings documents share: add, list, show and remove.

Agents and channels have operations of their own. To add another kind, write

- its model and its `BlockStore`,
- a block class in `blocks/`,
- an entry of `keeper.blocks.BLOCK_TYPES`, and
- in `daybook.api`, an object `Documents(store, view)`. If the view has further fields, or documents
  have users, make it an object of a subclass that returns them.

`cli.documents` has the commands for a kind, and `cli.field_options` derives their options from the
kind's model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import BaseModel, SecretStr

from daybook.errors import InvalidInput
from daybook.jobs import store
from daybook.jobs.store import StoredJob
from daybook.json_text import JsonObject
from daybook.keeper import blocks
from daybook.ledger.engine import reading
from daybook.prefect import client as prefect
from daybook.resources import copies
from daybook.resources.store import BlockStore, DocumentView

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import BlockDocument

View = TypeVar("View", bound=DocumentView)


class DocumentForm(BaseModel, frozen=True):
    """A document as a form shows it: its settings without secrets, and its users.

    ``secrets`` are the names of the secret settings that have a value. ``problem`` is the reason
    why the stored settings are invalid, None if they are valid. ``users`` forbid a removal.
    """

    name: str
    settings: JsonObject
    secrets: list[str]
    problem: str | None
    users: list[str]


class Documents(Generic[View]):
    """Operations on the documents of one kind. They return views of the documents."""

    def __init__(self, store: BlockStore[Any], view: type[View]) -> None:
        self.store, self.view = store, view

    def validate(self, settings: Mapping[str, Any]) -> BaseModel:
        """Return the settings in the form to store.

        Raise `InvalidInput`, which names the invalid field.
        """
        validated: BaseModel = self.store.validate(settings)
        return validated

    async def more(
        self, client: PrefectClient, documents: Sequence[BlockDocument]
    ) -> Callable[[str, Mapping[str, Any]], Mapping[str, Any]]:
        """Return a function from a document's name and data to further fields of its view."""
        return lambda name, data: {}

    async def users(self, client: PrefectClient, name: str) -> list[str]:
        """Return users that forbid a document's removal, as job names or as `the agent ops`."""
        return []

    async def add(self, name: str, settings: Mapping[str, Any], *, replace: bool = False) -> View:
        """Store a document and return it. With ``replace``, replace the document with this name.

        Raise `InvalidInput`; after this error, nothing was changed.
        """
        self.store.check_name(name)
        checked = self.validate(settings)
        async with prefect.answering() as client:
            await self.store.save(client, name, checked, replace=replace)
            return await self.read(client, name)

    async def edit(self, name: str, changes: Mapping[str, Any]) -> View:
        """Change only the given settings of a document, so that other secrets are kept.

        Raise `NotFound`, and `InvalidInput`; after an error, nothing was changed.
        """
        async with prefect.answering() as client:
            document = await self.store.get(client, name, include_secrets=True)
            fields = self.store.model.model_fields
            stored = {each: document.data[each] for each in fields if each in document.data}
            checked = self.validate({**stored, **changes})
            await self.store.save(client, name, checked, replace=True)
            return await self.read(client, name)

    async def form(self, name: str) -> DocumentForm:
        """Return the document for a form. Raise `NotFound`."""
        async with prefect.answering() as client:
            document = await self.store.get(client, name, include_secrets=True)
            shown, problem = self.store.displayed(document.data)
            fields = self.store.model.model_fields
            secret = [each for each, field in fields.items() if field.annotation is SecretStr]
            return DocumentForm(
                name=name,
                settings={each: value for each, value in shown.items() if each not in secret},
                secrets=[each for each in secret if shown.get(each)],
                problem=problem,
                users=await self.users(client, name),
            )

    async def list(self) -> list[View]:
        """Return all documents, sorted by name."""
        async with prefect.answering() as client:
            return list(await self._views(client, await self.store.documents(client)))

    async def show(self, name: str) -> View:
        """Return one document. Raise `NotFound`."""
        async with prefect.answering() as client:
            return await self.read(client, name)

    async def remove(self, name: str) -> None:
        """Delete a document. Raise `InvalidInput` if the document has users, and `NotFound`."""
        async with prefect.answering() as client:
            refuse_if_used(self.store.noun, name, await self.users(client, name))
            await self.store.remove(client, name)

    async def read(self, client: PrefectClient, name: str) -> View:
        """Return one document, like `show`, but with the given ``client``. Raise `NotFound`."""
        [view] = await self._views(client, [await self.store.get(client, name)])
        return view

    async def _views(
        self, client: PrefectClient, documents: Sequence[BlockDocument]
    ) -> Sequence[View]:
        more = await self.more(client, documents)
        return [
            self.view.of(self.store, name, data, **more(name, data))
            for name, data in ((str(each.name), dict(each.data)) for each in documents)
        ]


async def names(noun: str) -> list[str]:
    """Return the sorted names of the documents of a kind (`BlockStore.noun`) in the ledger.

    Works without Prefect. Raise `LedgerUnreachable`.
    """
    slugs = [each.slug for each in blocks.BLOCK_TYPES if each.noun == noun]
    async with reading() as session:
        return await copies.names(session, slugs)


async def stored_jobs() -> list[StoredJob]:
    """Return all jobs of all owners."""
    async with reading() as session:
        return await store.all_jobs(session)


def refuse_if_used(noun: str, name: str, users: Sequence[str]) -> None:
    """Raise `InvalidInput` if the document, which the caller is about to remove, has ``users``."""
    if users:
        raise InvalidInput(
            noun, f'"{name}" is used by {", ".join(users)}', "edit or remove those first"
        )
