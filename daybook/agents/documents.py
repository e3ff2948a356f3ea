"""Agents as Prefect keeps them: one block document each, found by the slug of its type.

The block classes stand in a door and are not needed here: a document's data are the settings of
its kind. Names are unique among all kinds. Prefect itself keeps them unique within one kind only,
so in its UI two may get the same name; a reference ``<slug>/<name>`` tells them apart.

Every function takes Prefect's async client. `AgentMisconfigured` is raised when the block types
are not registered.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from daybook.agents import kinds
from daybook.agents.base import Agent
from daybook.errors import AgentMisconfigured, Ambiguous, NotFound, Refused, UnknownName

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import BlockDocument

DEFAULT = "default"
"""The agent of jobs that name none."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?\Z")


async def names(client: PrefectClient) -> dict[str, str]:
    """The name of each agent and the slug of its kind, sorted by name."""
    found = [
        (document.name or "", kind.slug)
        for kind in kinds.KINDS.values()
        for document in await _documents(client, kind)
    ]
    return dict(sorted(found))


async def capabilities(client: PrefectClient) -> dict[str, frozenset[str]]:
    """What each agent can do, by every reference that names it: `<name>` and `<slug>/<name>`.

    A name that two kinds have names neither. Settings that are not legal say of it what they say.
    """
    found: dict[str, frozenset[str]] = {}
    twice: set[str] = set()
    for kind in kinds.KINDS.values():
        for document in await _documents(client, kind):
            said, name = document.data.get("capabilities"), str(document.name)
            words = frozenset(map(str, said)) if isinstance(said, list) else frozenset[str]()
            if name in found:
                twice.add(name)
            found[name] = found[f"{kind.slug}/{name}"] = words
    return {ref: words for ref, words in found.items() if ref not in twice}


async def get(client: PrefectClient, name: str) -> Agent:
    """The agent of that name.

    Raises `UnknownName` with the known ones, `Ambiguous`, and `AgentMisconfigured` when its
    settings were made illegal in the Prefect UI.
    """
    kind, document = await _find(client, name, secrets=True)
    return kinds.build(kind.slug, document.name or name, document.data)


async def add(
    client: PrefectClient,
    name: str,
    slug: str,
    settings: Mapping[str, Any],
    *,
    replace: bool = False,
) -> None:
    """Keep an agent; raises `Refused` for a bad or taken name and for bad settings.

    With ``replace`` it takes the place of the one of that name, if there is one. Nothing of that
    one is kept, so a key has to be given again.
    """
    from prefect.client.schemas.actions import BlockDocumentCreate, BlockDocumentUpdate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound

    kind = kinds.named(slug)
    if not _NAME.match(name):
        raise Refused(
            "name",
            f'"{name}" cannot be the name of an agent',
            "legal are 1 to 64 lowercase letters, digits and dashes, not at the ends",
        )
    data = kinds.stored(kinds.checked(kind, settings))
    taken = Refused("name", f'"{name}" is taken', "choose another, or replace that agent")
    old = await _old(client, name)
    if old and not replace:
        raise taken
    try:
        block_type = await client.read_block_type_by_slug(kind.slug)
    except ObjectNotFound:
        raise _unregistered(kind) from None
    schema = await client.get_most_recent_block_schema_for_block_type(block_type.id)
    if schema is None:
        raise _unregistered(kind)
    if old and old[0] == kind:
        await client.update_block_document(
            old[1].id,
            BlockDocumentUpdate(block_schema_id=schema.id, data=data, merge_existing_data=False),
        )
        return
    try:
        await client.create_block_document(
            BlockDocumentCreate(
                name=name, data=data, block_schema_id=schema.id, block_type_id=block_type.id
            )
        )
    except ObjectAlreadyExists:  # someone was faster
        raise taken from None
    if old:  # of another kind; only now, so that a failure above leaves it
        await client.delete_block_document(old[1].id)


async def remove(client: PrefectClient, name: str) -> None:
    """Forget the agent; raises `NotFound` or `Ambiguous`."""
    from prefect.exceptions import ObjectNotFound

    try:
        _, document = await _find(client, name, secrets=False)
        await client.delete_block_document(document.id)
    except (UnknownName, ObjectNotFound):
        raise NotFound("agent", name) from None


async def describe(client: PrefectClient, name: str) -> dict[str, Any]:
    """``{"name", "kind", "type", "settings", "problem"}``, without secrets.

    ``problem`` is None, or says what is wrong with the settings. Raises as `get` does for the name.
    """
    # With the secrets: without, Prefect shows an empty one like a full one.
    kind, document = await _find(client, name, secrets=True)
    settings, problem = dict(document.data), None
    try:
        settings = kinds.stored(kind.settings.model_validate(settings))
    except ValidationError as error:
        problem = ": ".join(kinds.first_problem(error))
    return {
        "name": document.name,
        "kind": kind.word,
        "type": kind.slug,
        "settings": kinds.shown(kind, settings),
        "problem": problem,
    }


async def ensure_default(
    client: PrefectClient,
    slug: str = kinds.OFFLINE.slug,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> bool:
    """Make the agent `default` unless there is one of that name; True if it was made.

    Without a kind it is an offline one. The settings have to be legal.
    """
    if DEFAULT in await names(client):
        return False
    try:
        await add(client, DEFAULT, slug, settings)
    except Refused:  # someone was faster; the name and the settings are legal
        return False
    return True


async def _old(client: PrefectClient, name: str) -> tuple[kinds.Kind, BlockDocument] | None:
    try:
        return await _find(client, name, secrets=False)
    except UnknownName:
        return None


async def _find(
    client: PrefectClient, ref: str, *, secrets: bool
) -> tuple[kinds.Kind, BlockDocument]:
    """Only documents of that name are read, so that no other agent's key is on the way."""
    slug, _, name = ref.rpartition("/")
    asked = [kind for kind in kinds.KINDS.values() if slug in ("", kind.slug)]
    read = (_named(client, kind, name, secrets=secrets) for kind in asked)
    found = zip(asked, await asyncio.gather(*read), strict=True)
    fits = [(kind, document) for kind, document in found if document is not None]
    if not fits:
        raise UnknownName("agent", ref, await names(client))
    if len(fits) > 1:
        raise Ambiguous("agent", ref, (f"{k.slug}/{d.name}" for k, d in fits))
    return fits[0]


async def _named(
    client: PrefectClient, kind: kinds.Kind, name: str, *, secrets: bool
) -> BlockDocument | None:
    from prefect.exceptions import ObjectNotFound

    try:
        return await client.read_block_document_by_name(name, kind.slug, include_secrets=secrets)
    except ObjectNotFound:
        return None


async def _documents(client: PrefectClient, kind: kinds.Kind) -> list[BlockDocument]:
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        found = await client.read_block_documents_by_type(kind.slug, include_secrets=False)
    except PrefectHTTPStatusError as error:
        if error.response.status_code == 404:
            raise _unregistered(kind) from None
        raise
    return [document for document in found if document.name and not document.is_anonymous]


def _unregistered(kind: kinds.Kind) -> AgentMisconfigured:
    return AgentMisconfigured(
        f'this Prefect does not know the block type "{kind.title}"; register it with `daybook up`, '
        "or `prefect deploy --all` in the repository"
    )
