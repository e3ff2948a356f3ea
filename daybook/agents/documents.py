"""Storage of agents in Prefect: each agent is a block document of its kind's block type.

The block classes are Prefect entry points. This module does not import them, because a document's
data are the agent's settings. Daybook makes names unique among all kinds, but Prefect only within
one kind. So two agents created in Prefect's UI may have the same name; the reference
``<slug>/<name>`` distinguishes them.

Every async function takes Prefect's client and raises its errors. If the block types are not
registered, it raises `AgentMisconfigured`, except `tool_entries`, which then returns an empty list.
Functions that change an agent also change its copy in the ledger, and raise `LedgerUnreachable` if
they cannot.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from daybook.agents import kinds
from daybook.agents.base import StoredAgent
from daybook.errors import (
    AgentMisconfigured,
    Ambiguous,
    InvalidInput,
    LedgerKeyMissing,
    NotFound,
    UnknownName,
)
from daybook.jobs.actions import DEFAULT_AGENT
from daybook.json_text import JsonObject
from daybook.ledger.engine import Ledger
from daybook.resources import mirror, planned
from daybook.settings import load

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import BlockDocument


Choice = Callable[[], Awaitable[tuple[str, Mapping[str, Any]]]]
"""Function that returns the kind and the settings of a new agent."""


class AgentInfo(BaseModel, frozen=True):
    """An agent, without secrets.

    ``kind`` is the word of the agent's kind (`kinds.KINDS`), and ``type`` is the slug of the kind's
    block type. ``problem`` is the reason why the agent cannot answer on this machine, such as an
    invalid setting or a program that cannot be started; otherwise it is None.
    """

    name: str
    kind: str
    type: str
    settings: JsonObject
    problem: str | None


async def names(client: PrefectClient) -> dict[str, list[str]]:
    """Return a mapping of each agent's name to the slugs of its kinds, sorted by name.

    If agents of several kinds have the same name, it has several slugs.
    """
    found: dict[str, list[str]] = {}
    for kind in kinds.KINDS.values():
        for document in await _documents(client, kind):
            found.setdefault(str(document.name), []).append(kind.slug)
    return dict(sorted(found.items(), key=lambda item: (item[0].casefold(), item[0])))


def matches(known: Mapping[str, list[str]], ref: str) -> list[str]:
    """Return the full reference of each agent in ``known`` (see `names`) that ``ref`` can mean."""
    slug, _, name = ref.rpartition("/")
    return [f"{each}/{name}" for each in known.get(name, []) if slug in ("", each)]


async def capabilities(client: PrefectClient) -> dict[str, frozenset[str]]:
    """Return the capabilities of the agents, by reference.

    The references are `<name>` and `<slug>/<name>`. If agents of several kinds have the same name,
    the name alone is omitted. Read the capabilities even if the other settings are invalid.
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


async def tool_entries(client: PrefectClient) -> list[tuple[str, list[str]]]:
    """Return each agent's name and the tools in its settings, even if the settings are invalid."""
    return [
        (str(document.name), list(map(str, value)))
        for kind in kinds.KINDS.values()
        for document in await kind.documents(client)
        if isinstance(value := document.data.get("tools"), list)
    ]


async def get(client: PrefectClient, name: str) -> StoredAgent:
    """Return the agent with this name.

    Raise `UnknownName`, `Ambiguous` if agents of several kinds have the name, and
    `AgentMisconfigured` for invalid settings, for example after an edit in Prefect's UI.
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
    """Store an agent.

    Raise `InvalidInput` for an unknown kind, for invalid settings, and for an invalid name. With
    ``replace``, replace the agents of all kinds with this name. Their settings are not kept, so the
    caller has to pass a key again. Without ``replace``, raise `InvalidInput` if an agent has the
    name.
    """
    kind = kinds.find_kind(slug)
    kind.check_name(name)
    checked = kind.validate(settings)
    existing = (await names(client)).get(name, [])
    if existing and not replace:
        raise kind.name_taken(name)
    await kind.save(client, name, checked, replace=kind.slug in existing)
    # Remove the old agents last, so that they stay if a call above fails. If the process dies here,
    # agents of two kinds may have this name; a repeated call then removes the old agent.
    for other in existing:
        if other != kind.slug:
            with suppress(NotFound):  # another process has already removed it
                await kinds.KINDS[other].remove(client, name)


async def read(client: PrefectClient, name: str) -> tuple[kinds.AgentKind, str, JsonObject]:
    """Return the agent's kind, name and stored settings, with secrets.

    The settings may be invalid; unknown fields are left out. Raise `UnknownName` and `Ambiguous`.
    """
    kind, document = await _find(client, name, secrets=True)
    data = {each: document.data[each] for each in kind.model.model_fields if each in document.data}
    return kind, str(document.name), data


async def remove(client: PrefectClient, name: str) -> None:
    """Remove the agent and its copy in the ledger, even if Prefect has lost the agent.

    Raise `NotFound` or `Ambiguous`.
    """
    try:
        kind, document = await _find(client, name, secrets=False)
    except UnknownName:
        slug, _, short = name.rpartition("/")
        for kind_to_try in kinds.KINDS.values():
            if slug in ("", kind_to_try.slug):
                with suppress(NotFound):
                    return await kind_to_try.remove(client, short)
        raise NotFound("agent", name, known=await names(client)) from None
    await kind.remove(client, str(document.name))


async def describe(client: PrefectClient, name: str) -> AgentInfo:
    """Return the agent for display. Raise `UnknownName` or `Ambiguous`."""
    kind, document = await _find(client, name, secrets=True)
    settings, _ = kind.displayed(document.data)
    return AgentInfo(
        name=str(document.name),
        kind=kind.word,
        type=kind.slug,
        settings=settings,
        problem=kind.problem(document.data),
    )


async def ensure_default(client: PrefectClient, choose: Choice | None = None) -> bool:
    """Create the agent `default` unless an agent has that name. Return whether it was created.

    ``choose`` returns the kind and the valid settings; without it, the agent is offline. It is only
    called if the agent is missing. If Prefect has lost its database, restore the ledger's copy
    instead. Raise `LedgerKeyMissing` if the copy cannot be decrypted.
    """
    if DEFAULT_AGENT in await names(client):
        return False
    if await _restore_default(client):
        return False
    kind, settings = await choose() if choose else (kinds.OFFLINE.word, {})
    try:
        await add(client, DEFAULT_AGENT, kind, settings)
    except InvalidInput:
        # The name and the settings are valid, so another process has created the agent.
        return False
    return True


async def _restore_default(client: PrefectClient) -> bool:
    """Restore an agent `default` that Prefect has lost. Return whether the ledger has a copy of it.

    If the restore fails, return True, so that no other agent replaces the lost agent; `daybook
    doctor` shows the problem. Raise `LedgerKeyMissing` if this home cannot decrypt the copy.
    """
    async with Ledger(load().ledger_address) as ledger:
        report = await mirror.reconcile(ledger, client, kinds.KINDS.values(), only=DEFAULT_AGENT)
    if report.locked:
        raise LedgerKeyMissing(report.key_problem)
    return bool(report.restored or report.failed)


async def _find(
    client: PrefectClient, ref: str, *, secrets: bool
) -> tuple[kinds.AgentKind, BlockDocument]:
    """Return the kind and the document of the agent.

    Read only documents with this name, so that Prefect sends no other agent's key. Raise
    `UnknownName` and `Ambiguous`.
    """
    slug, _, name = ref.rpartition("/")
    candidates = [kind for kind in kinds.KINDS.values() if slug in ("", kind.slug)]
    slugs = [kind.slug for kind in candidates]
    found = await planned.find(client, name, slugs, include_secrets=secrets) if slugs else {}
    matches = [(kind, found[kind.slug]) for kind in candidates if kind.slug in found]
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
