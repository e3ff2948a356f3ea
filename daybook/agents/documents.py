"""Agents as Prefect keeps them: one block document each, found by the slug of its type.

The block classes stand in a door and are not needed here: a document's data are the settings of
its kind. Names are unique among all kinds. Prefect itself keeps them unique within one kind only,
so in its UI two may get the same name; a reference ``<slug>/<name>`` tells them apart.

Every function takes Prefect's async client. `AgentMisconfigured` is raised when the block types
are not registered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from daybook.agents import kinds
from daybook.agents.base import Agent
from daybook.errors import (
    AgentMisconfigured,
    Ambiguous,
    InvalidInput,
    LedgerKeyMissing,
    NotFound,
    UnknownName,
)
from daybook.ledger.engine import Ledger
from daybook.resources import documents, mirror
from daybook.settings import load

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import BlockDocument

DEFAULT = "default"
"""The agent of jobs that name none."""


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
    """Keep an agent; raises `InvalidInput` for a bad or taken name and for bad settings.

    With ``replace`` it takes the place of the one of that name, if there is one. Nothing of that
    one is kept, so a key has to be given again.
    """
    kind = kinds.named(slug)
    documents.check_name(kind.block_type, name)
    data = kinds.stored(kinds.checked(kind, settings))
    old = await _old(client, name)
    if old and not replace:
        raise InvalidInput("name", f'"{name}" is taken', "choose another, or replace that agent")
    same = old is not None and old[0] == kind
    await documents.save(client, kind.block_type, name, data, replace=same)
    if old and not same:  # only now, so that a failure above leaves it
        await documents.remove(client, old[0].block_type, name)


async def remove(client: PrefectClient, name: str) -> None:
    """Forget the agent; raises `NotFound` or `Ambiguous`.

    One that Prefect lost is forgotten too, so that it is not restored.
    """
    try:
        kind, document = await _find(client, name, secrets=False)
    except UnknownName:
        slug, _, short = name.rpartition("/")
        for lost in kinds.KINDS.values():
            if slug in ("", lost.slug):
                with suppress(NotFound):
                    return await documents.remove(client, lost.block_type, short)
        raise NotFound("agent", name) from None
    await documents.remove(client, kind.block_type, str(document.name))


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

    Without a kind it is an offline one. The settings have to be legal. If Prefect lost its
    database, the one of the ledger is restored; raises `LedgerKeyMissing` if that one cannot be
    decrypted.
    """
    if DEFAULT in await names(client):
        return False
    if await _restored(client):
        return False
    try:
        await add(client, DEFAULT, slug, settings)
    except InvalidInput:  # someone was faster; the name and the settings are legal
        return False
    return True


async def _restored(client: PrefectClient) -> bool:
    """Whether there was an agent `default` that Prefect lost: it is not replaced by another one.

    This restores it; if that fails, `daybook doctor` shows the problem. Raises
    `LedgerKeyMissing` if the ledger has one that cannot be decrypted here.
    """
    async with Ledger(load().ledger_address) as ledger:
        report = await mirror.reconcile(ledger, client, kinds.TYPES, only=DEFAULT)
    if report.locked:
        raise LedgerKeyMissing(report.key_problem)
    return bool(report.restored or report.failed)


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
    read = (
        documents.find(client, kind.block_type, name, include_secrets=secrets) for kind in asked
    )
    found = zip(asked, await asyncio.gather(*read), strict=True)
    fits = [(kind, document) for kind, document in found if document is not None]
    if not fits:
        raise UnknownName("agent", ref, await names(client))
    if len(fits) > 1:
        raise Ambiguous("agent", ref, (f"{k.slug}/{d.name}" for k, d in fits))
    return fits[0]


async def _documents(client: PrefectClient, kind: kinds.Kind) -> list[BlockDocument]:
    found = await documents.list_if_registered(client, kind.block_type)
    if found is None:
        raise _unregistered(kind)
    return found


def _unregistered(kind: kinds.Kind) -> AgentMisconfigured:
    return AgentMisconfigured(
        f'this Prefect does not know the block type "{kind.title}"; register it with `daybook up`, '
        "or `prefect deploy --all` in the repository"
    )
