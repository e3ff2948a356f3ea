"""Preparation of a Prefect server for jobs: block types, lost blocks, work pool, first agent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from daybook import repository
from daybook.errors import LedgerKeyMissing
from daybook.jobs.actions import DEFAULT_AGENT
from daybook.ledger.engine import open_ledger
from daybook.prefect import work_pool

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient


async def prepare(client: PrefectClient) -> list[str]:
    """Register the block types, restore lost blocks, create the work pool and the agent `default`.

    A repeated call changes nothing. Return messages for the user, one line each. Raise
    `InvalidInput` if the work pool has another type.
    """
    from daybook.keeper.blocks import reconcile_blocks

    await repository.load_entry_point("blocks/__init__.py").register(client)
    async with open_ledger() as ledger:
        report = await reconcile_blocks(ledger, client)
    lines = []
    if report.restored:
        lines.append(f"Restored in Prefect from the ledger: {', '.join(report.restored)}")
    if report.key_problem:
        not_restored = f" Not restored: {', '.join(report.locked)}." if report.locked else ""
        lines.append(
            "The ledger's copies of agents and secrets cannot be used here: "
            f"{report.key_problem}.{not_restored} `daybook doctor` prints the fix"
        )
    await work_pool.ensure(client)
    try:
        return lines + await _first_agent(client)
    except LedgerKeyMissing:  # a message above reports the missing key
        return lines


async def _first_agent(client: PrefectClient) -> list[str]:
    """Create the agent `default` if it is missing; return the messages for the user.

    It is the first candidate of this machine. If that is a model that calls tools, it has those of
    `builtin_tools.first_settings`. If there is no candidate, the agent is offline.
    """
    from daybook.agents import candidates, documents, kinds
    from daybook.execution import builtin_tools

    found = candidates.Found([], [])

    async def choose() -> tuple[str, Mapping[str, Any]]:
        nonlocal found
        found = await candidates.find(candidates.this_machine(), only_first=True)
        first = next(iter(found.candidates), None)
        if first is None:
            return kinds.OFFLINE.word, {}
        return first.kind, builtin_tools.first_settings(first)

    if not await documents.ensure_default(client, choose):
        return []
    first = next(iter(found.candidates), None)
    what = str(
        first or "offline, so it answers without a model (there is no key, program or server)"
    )
    hints = [first.hint] if first and first.hint else []
    return ["; ".join([f"agent {DEFAULT_AGENT}: {what}", *hints, *found.notes])]


async def model_steps(client: PrefectClient) -> list[tuple[str, str]]:
    """Return the steps, with commands, from an offline agent `default` to a model."""
    from daybook.agents import candidates, documents, kinds

    slugs = (await documents.names(client)).get(DEFAULT_AGENT)
    return candidates.offline_steps() if slugs == [kinds.OFFLINE.slug] else []
