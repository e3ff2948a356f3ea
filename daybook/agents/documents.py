"""Storage of agents in Prefect: one block document each, found by the slug of its block type.

The block classes are Prefect entry points and are not needed here: a document's data are the
settings of its kind. Names are unique among all kinds. Prefect itself keeps them unique within one
kind only, so two agents created in its UI may share a name; the reference ``<slug>/<name>``
distinguishes them.

Every function takes Prefect's async client and raises `AgentMisconfigured` if the block types are
not registered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

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
from daybook.resources import mirror
from daybook.resources.store import block_data
from daybook.settings import load

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import BlockDocument

DEFAULT_AGENT = "default"
"""The agent of jobs that name none."""


async def names(client: PrefectClient) -> dict[str, str]:
    """Return the slug of each agent's kind, by the agent's name, sorted."""
    found = [
        (document.name or "", kind.slug)
        for kind in kinds.KINDS.values()
        for document in await _documents(client, kind)
    ]
    return dict(sorted(found))


async def capabilities(client: PrefectClient) -> dict[str, frozenset[str]]:
    """Return the capabilities of each agent, by each reference to it: `<name>` and `<slug>/<name>`.

    A name that two kinds share is left out. Capabilities are read even from invalid settings.
    """
    found: dict[str, frozenset[str]] = {}
    ambiguous: set[str] = set()
    for kind in kinds.KINDS.values():
        for document in await _documents(client, kind):
            value, name = document.data.get("capabilities"), str(document.name)
            words = frozenset(map(str, value)) if isinstance(value, list) else frozenset[str]()
            if name in found:
                ambiguous.add(name)
            found[name] = found[f"{kind.slug}/{name}"] = words
    return {ref: words for ref, words in found.items() if ref not in ambiguous}


async def get(client: PrefectClient, name: str) -> Agent:
    """Return the agent with this name.

    Raises `UnknownName` with the known names, `Ambiguous`, and `AgentMisconfigured` if its settings
    were made invalid in the Prefect UI.
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
    """Store an agent; raises `InvalidInput` for a bad or taken name and for invalid settings.

    With ``replace``, it replaces an existing agent with this name. Nothing of the old agent is
    kept, so the caller has to pass a key again.
    """
    kind = kinds.find_kind(slug)
    kind.check_name(name)
    checked = kind.validate(settings)
    old = await _find_existing(client, name)
    if old and not replace:
        raise InvalidInput("name", f'"{name}" is taken', "choose another, or replace that agent")
    same = old is not None and old[0] == kind
    await kind.save(client, name, checked, replace=same)
    if old and not same:  # only now, so that a failure above keeps the old agent
        await old[0].remove(client, name)


async def remove(client: PrefectClient, name: str) -> None:
    """Remove the agent; raises `NotFound` or `Ambiguous`.

    Also removes the copy in the ledger of an agent that Prefect lost, so that it is not restored.
    """
    try:
        kind, document = await _find(client, name, secrets=False)
    except UnknownName:
        slug, _, short = name.rpartition("/")
        for kind_to_try in kinds.KINDS.values():
            if slug in ("", kind_to_try.slug):
                with suppress(NotFound):
                    return await kind_to_try.remove(client, short)
        raise NotFound("agent", name) from None
    await kind.remove(client, str(document.name))


async def describe(client: PrefectClient, name: str) -> dict[str, Any]:
    """Return ``{"name", "kind", "type", "settings", "problem"}``, without secrets.

    ``problem`` is None, or says what is wrong with the settings. Raises the same errors as `get`
    for the name.
    """
    # Read with secrets: without them Prefect shows an empty secret like a set one.
    kind, document = await _find(client, name, secrets=True)
    settings, problem = kind.check(document.data)
    shown = block_data(settings) if settings else document.data
    return {
        "name": document.name,
        "kind": kind.word,
        "type": kind.slug,
        "settings": kinds.displayed_settings(kind, shown),
        "problem": problem,
    }


async def ensure_default(
    client: PrefectClient,
    slug: str = kinds.OFFLINE.slug,
    settings: Mapping[str, Any] = MappingProxyType({}),
) -> bool:
    """Create the agent `default` unless an agent has that name; return whether it was created.

    Without a kind it is an offline agent. The settings have to be valid. If Prefect lost its
    database, the ledger's copy is restored; raises `LedgerKeyMissing` if that copy cannot be
    decrypted.
    """
    if DEFAULT_AGENT in await names(client):
        return False
    if await _restore_default(client):
        return False
    try:
        await add(client, DEFAULT_AGENT, slug, settings)
    except InvalidInput:  # another process was faster; the name and the settings are valid
        return False
    return True


async def _restore_default(client: PrefectClient) -> bool:
    """Restore an agent `default` that Prefect lost; return whether there was one.

    Such an agent is not replaced by another one: if restoring it fails, `daybook doctor` shows the
    problem. Raises `LedgerKeyMissing` if the ledger has one that cannot be decrypted here.
    """
    async with Ledger(load().ledger_address) as ledger:
        report = await mirror.reconcile(ledger, client, kinds.KINDS.values(), only=DEFAULT_AGENT)
    if report.locked:
        raise LedgerKeyMissing(report.key_problem)
    return bool(report.restored or report.failed)


async def _find_existing(
    client: PrefectClient, name: str
) -> tuple[kinds.AgentKind, BlockDocument] | None:
    try:
        return await _find(client, name, secrets=False)
    except UnknownName:
        return None


async def _find(
    client: PrefectClient, ref: str, *, secrets: bool
) -> tuple[kinds.AgentKind, BlockDocument]:
    """Find the agent. Read only documents with this name: no other agent's key is transmitted."""
    slug, _, name = ref.rpartition("/")
    candidates = [kind for kind in kinds.KINDS.values() if slug in ("", kind.slug)]
    read = (kind.find(client, name, include_secrets=secrets) for kind in candidates)
    found = zip(candidates, await asyncio.gather(*read), strict=True)
    matches = [(kind, document) for kind, document in found if document is not None]
    if not matches:
        raise UnknownName("agent", ref, await names(client))
    if len(matches) > 1:
        raise Ambiguous("agent", ref, (f"{k.slug}/{d.name}" for k, d in matches))
    return matches[0]


async def _documents(client: PrefectClient, kind: kinds.AgentKind) -> list[BlockDocument]:
    found = await kind.documents_if_registered(client)
    if found is None:
        raise AgentMisconfigured("; ".join(kind.unregistered()))
    return found
