"""Storage of named settings documents, such as secrets, as Prefect block documents.

Each kind of document has a pydantic model of its settings and one `BlockStore`. The block classes
are Prefect entry points. This module does not import them, because a document's data are its
settings. Methods that take Prefect's async client let the client's connection errors propagate.

`save` and `remove` write first to Prefect, from which runs read the documents, and then to the
encrypted copy in the ledger. If the process dies in between, `daybook.resources.mirror` corrects
the copy.

The docstring of `daybook.api.documents` explains how to add a kind.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Self, TypeVar
from uuid import UUID

from pydantic import BaseModel, SecretStr, ValidationError

from daybook import home, settings
from daybook.errors import InvalidInput, LedgerKeyMissing, NotFound, UnknownName
from daybook.json_text import JsonObject
from daybook.ledger.engine import Ledger
from daybook.redaction import HIDDEN
from daybook.resources import copies

if TYPE_CHECKING:
    from prefect.blocks.core import Block
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import BlockDocument

log = logging.getLogger(__name__)

Model = TypeVar("Model", bound=BaseModel)

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?\Z")


async def find_in_prefect(
    client: PrefectClient, name: str, slugs: Sequence[str], *, include_secrets: bool = False
) -> dict[str, BlockDocument]:
    """Return the documents with this name, by the slug of their block type, in one request."""
    from prefect.client.schemas.objects import BlockDocument

    response = await client.request(
        "POST",
        "/block_documents/filter",
        json={
            "block_documents": {"name": {"any_": [name]}},
            "block_types": {"slug": {"any_": list(slugs)}},
            "include_secrets": include_secrets,
            "limit": len(slugs),
            "offset": 0,
        },
    )
    found = [BlockDocument.model_validate(each) for each in response.json()]
    return {each.block_type.slug: each for each in found if each.block_type is not None}


class RegisteredType(NamedTuple):
    """Prefect's ids of a block type and of its newest schema."""

    type_id: UUID
    schema_id: UUID


class DocumentView(BaseModel, frozen=True):
    """Base of the views of a document that operations return.

    Subclasses have `name` and `problem`. ``problem`` is the reason why the stored settings are
    invalid, None if they are valid. A field with the name of a setting has the setting's value,
    which may be any JSON value if the settings are invalid. A field ``settings`` has all settings.
    """

    @classmethod
    def of(cls, store: BlockStore[Any], name: str, data: Mapping[str, Any], **more: Any) -> Self:
        """Return the view of a document with this name and ``data``; ``more`` are other fields.

        A setting that is missing in ``data`` has its default. Secrets are left out.
        """
        values = {
            field: data.get(
                field, None if known.is_required() else known.get_default(call_default_factory=True)
            )
            for field, known in store.model.model_fields.items()
            if field in cls.model_fields and known.annotation is not SecretStr
        }
        if "settings" in cls.model_fields:
            values["settings"], problem = store.displayed(data)
        else:
            _, problem = store.check(data)
        return cls.model_validate({**values, "name": name, "problem": problem, **more})


class DocumentInfo(DocumentView, frozen=True):
    """A document with its settings, without secrets; ``problem`` is None if they are valid."""

    name: str
    settings: JsonObject
    problem: str | None


@dataclass(frozen=True)
class BlockStore(Generic[Model]):
    """Store of the documents of one block type.

    ``noun`` is the word for one document, such as "secret". ``field`` is the field of a job that
    names a document; the default is the noun. An error that concerns no single field of the model
    names ``whole`` as its field. ``word`` is the name of the kind, if documents of several block
    types have the same noun. ``reserved`` returns the names that no document can have, because they
    mean something else where a document is named.
    """

    slug: str
    title: str
    noun: str
    model: type[Model]
    field: str = ""
    whole: str = "settings"
    word: str = ""
    reserved: Callable[[], Collection[str]] = tuple

    # --- settings

    @staticmethod
    def is_name(name: str) -> bool:
        """Return whether a document can have this name."""
        return _NAME.match(name) is not None

    def check_name(self, name: str) -> None:
        """Raise `InvalidInput` if a document cannot have this name."""
        if not self.is_name(name):
            raise InvalidInput(
                "name",
                f'"{name}" cannot be the name of {"an" if self.noun[0] in "aeiou" else "a"} '
                f"{self.noun}",
                "use 1 to 64 lowercase letters, digits and dashes, with no dash at either end",
            )
        if name in self.reserved():
            hint = f"choose another, such as {self.suggested_name(name)}"
            raise InvalidInput("name", f'"{name}" is the name of tools of Daybook', hint)

    def suggested_name(self, word: str) -> str:
        """Return a name for a document that is called ``word`` elsewhere."""
        return f"{word}-server" if word in self.reserved() else word

    def validate(self, data: Mapping[str, Any]) -> Model:
        """Return the settings in ``data``; raise `InvalidInput` with the name of the invalid field.

        Unlike pydantic's own error, `InvalidInput` never quotes the input, which may be a secret.
        """
        try:
            return self.model.model_validate(dict(data))
        except ValidationError as error:
            raise self._mistakes(error)[0] from None

    def mistakes(self, data: Mapping[str, Any]) -> list[InvalidInput]:
        """Return all mistakes in the settings ``data``, each as `validate` would raise it."""
        try:
            self.model.model_validate(dict(data))
        except ValidationError as error:
            return self._mistakes(error)
        return []

    def _mistakes(self, error: ValidationError) -> list[InvalidInput]:
        found = []
        for each in error.errors(include_input=False, include_url=False):
            field = str(each["loc"][0]) if each["loc"] else self.whole
            is_unknown = each["type"] == "extra_forbidden"
            known = f"known: {', '.join(self.model.model_fields) or 'none'}" if is_unknown else ""
            problem = "unknown field" if is_unknown else each["msg"].removeprefix("Value error, ")
            found.append(InvalidInput(field, problem, known))
        return found

    def check(self, data: Mapping[str, Any]) -> tuple[Model | None, str | None]:
        """Return the settings and None or, if the settings are invalid, None and the problem."""
        try:
            return self.validate(data), None
        except InvalidInput as error:
            return None, f"{error.field}: {error.problem}"

    def displayed(self, data: Mapping[str, Any]) -> tuple[JsonObject, str | None]:
        """Return a document's settings for display, without secrets, and their problem, if any.

        ``data`` must include the secrets: without secrets, Prefect returns the same text for an
        empty secret as for a secret with a value.
        """
        settings, problem = self.check(data)
        fields = self.model.model_fields
        secret = {name for name, each in fields.items() if each.annotation is SecretStr}
        shown = data if settings is None else block_data(settings)
        return {
            name: (HIDDEN if value else "") if name in secret else value
            for name, value in shown.items()
        }, problem

    def name_taken(self, name: str) -> InvalidInput:
        """Return the error for a new document with the name of an existing one."""
        hint = f"choose another, or replace that {self.noun}"
        return InvalidInput("name", f'"{name}" is taken', hint)

    def parse(self, name: str, data: Mapping[str, Any]) -> Model:
        """Return a document's settings; raise `InvalidInput` if they are invalid.

        Prefect's server does not validate a block that is edited in its UI.
        """
        found, problem = self.check(data)
        if found is None:
            problem = f'the {self.noun} "{name}" is invalid: {problem}'
            raise InvalidInput(self.field or self.noun, problem, "edit the block in Prefect's UI")
        return found

    def read_block(self, block: Block) -> tuple[str, JsonObject]:
        """Return the name and the data of a block; the name is "unsaved" if it has none."""
        data = {name: getattr(block, name) for name in self.model.model_fields}
        return block._block_document_name or "unsaved", data

    # --- documents

    async def documents(
        self, client: PrefectClient, *, include_secrets: bool = False
    ) -> list[BlockDocument]:
        """Return all documents, sorted by name; [] if the type is not registered."""
        return await self.documents_if_registered(client, include_secrets=include_secrets) or []

    async def documents_if_registered(
        self, client: PrefectClient, *, include_secrets: bool = False
    ) -> list[BlockDocument] | None:
        """Return all documents, sorted by name; None if the type is not registered."""
        from prefect.exceptions import PrefectHTTPStatusError

        try:
            found = await client.read_block_documents_by_type(
                self.slug, include_secrets=include_secrets
            )
        except PrefectHTTPStatusError as error:
            if error.response.status_code != 404:
                raise
            return None
        with_name = [each for each in found if each.name and not each.is_anonymous]
        return sorted(with_name, key=lambda each: str(each.name))

    async def names(self, client: PrefectClient) -> list[str]:
        """Return the names of all documents, sorted."""
        return [str(each.name) for each in await self.documents(client)]

    async def find(
        self, client: PrefectClient, name: str, *, include_secrets: bool = False
    ) -> BlockDocument | None:
        """Return the document with this name; None if the document or the type does not exist."""
        from prefect.exceptions import ObjectNotFound

        try:
            return await client.read_block_document_by_name(
                name, self.slug, include_secrets=include_secrets
            )
        except ObjectNotFound:
            return None

    async def get(
        self, client: PrefectClient, name: str, *, include_secrets: bool = False
    ) -> BlockDocument:
        """Return the document that a command names; raise `NotFound` if there is none."""
        document = await self.find(client, name, include_secrets=include_secrets)
        if document is None:
            raise NotFound(self.noun, name, known=await self.names(client))
        return document

    async def read(
        self, client: PrefectClient, name: str, *, include_secrets: bool = False, fix: str = ""
    ) -> BlockDocument:
        """Return the document with this name.

        Raise `UnknownName`, with all names and with ``fix`` as advice.
        """
        found = await self.find(client, name, include_secrets=include_secrets)
        if found is None:
            raise UnknownName(self.noun, name, await self.names(client), fix)
        return found

    async def save(
        self, client: PrefectClient, name: str, settings: Model, *, replace: bool = False
    ) -> None:
        """Write a document; with ``replace``, overwrite all data of an existing one.

        Raise `InvalidInput` if the name is invalid, if it is taken and ``replace`` is false, or if
        the type is not registered. Raise `LedgerUnreachable` before any write. If the key of the
        ledger's copies cannot be used, log the error.
        """
        from prefect.client.schemas.actions import BlockDocumentUpdate
        from prefect.exceptions import ObjectAlreadyExists

        self.check_name(name)
        data = block_data(settings)
        async with _ledger() as ledger:  # raises before any write if the ledger is unreachable
            block_type_ids = await self.registered_type(client)
            old = await self.find(client, name)
            if old is not None and not replace:
                raise self.name_taken(name)
            if old is not None:
                changed = BlockDocumentUpdate(
                    block_schema_id=block_type_ids.schema_id, data=data, merge_existing_data=False
                )
                await client.update_block_document(old.id, changed)
            else:
                try:
                    await create_in_prefect(client, block_type_ids, name, data)
                except ObjectAlreadyExists:  # another process was faster
                    raise self.name_taken(name) from None
            await _copy(ledger, (self.slug, name), str(block_type_ids.type_id), data)

    async def remove(self, client: PrefectClient, name: str) -> None:
        """Delete the document with this name and its copy; raise `NotFound` if neither exists."""
        from prefect.exceptions import ObjectNotFound

        async with _ledger() as ledger:
            document = await self.find(client, name)
            deleted = False
            if document is not None:
                try:
                    await client.delete_block_document(document.id)
                    deleted = True
                except ObjectNotFound:  # another process was faster
                    pass
            async with ledger.write() as session:
                had_copy = await copies.remove(session, (self.slug, name))
        if not (deleted or had_copy):
            raise NotFound(self.noun, name, known=await self.names(client))

    async def registered_type(self, client: PrefectClient) -> RegisteredType:
        """Return the ids of the type; raise `InvalidInput` if it is not registered."""
        from prefect.exceptions import ObjectNotFound

        unregistered = InvalidInput("type", *self.unregistered())
        try:
            block_type = await client.read_block_type_by_slug(self.slug)
        except ObjectNotFound:
            raise unregistered from None
        schema = await client.get_most_recent_block_schema_for_block_type(block_type.id)
        if schema is None:
            raise unregistered
        return RegisteredType(block_type.id, schema.id)

    def unregistered(self) -> tuple[str, str]:
        """Return the problem and the hint to report if Prefect does not have the block type."""
        problem = f'the block type "{self.title}" is not registered in Prefect'
        return problem, "register it with `daybook up`, or `prefect deploy --all` in the repository"


def block_data(settings: BaseModel) -> JsonObject:
    """Return the settings as block data, with secrets in plain text, which Prefect encrypts."""
    data = settings.model_dump(mode="json")
    for name, value in settings:
        if isinstance(value, SecretStr):
            data[name] = value.get_secret_value()
    return data


async def create_in_prefect(
    client: PrefectClient, known: RegisteredType, name: str, data: Mapping[str, Any]
) -> UUID:
    """Create a document in Prefect, without a copy in the ledger; return the document's id.

    Raise Prefect's `ObjectAlreadyExists` if the name is taken.
    """
    from prefect.client.schemas.actions import BlockDocumentCreate

    document = BlockDocumentCreate(
        name=name, data=dict(data), block_schema_id=known.schema_id, block_type_id=known.type_id
    )
    return (await client.create_block_document(document)).id


def _ledger() -> Ledger:
    return Ledger(settings.load().ledger_address)


async def _copy(
    ledger: Ledger, ref: copies.DocumentRef, type_id: str, data: Mapping[str, Any]
) -> None:
    """Write the ledger's copy of a document that Prefect has just stored.

    If the key of the copies cannot be used, log the error and write no copy.
    """
    try:
        async with ledger.write() as session:
            key = await copies.get_or_create_key(session, home.current_home())
            await copies.put(session, ref, type_id, data, key=key, now=ledger.now())
    except (LedgerKeyMissing, OSError) as error:
        # The document works without a copy; `daybook doctor` reports the problem with the key.
        log.warning("the ledger has no copy of %s: %s", "/".join(ref), error)
