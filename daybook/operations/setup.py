"""Preparation of a Prefect server for jobs: block types, lost blocks, work pool, first agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    """Create the agent `default` if it is missing; return messages for the user.

    The agent asks a model if the environment has a provider's key and the provider's SDK is
    installed. Otherwise the agent is offline.
    """
    from daybook.agents import documents, kinds, providers

    found = providers.find_key()
    if found and not found.missing_extra:
        settings = {"model": found.model, "api_key": found.key}
        if await documents.ensure_default(client, kinds.MODEL.slug, settings):
            return [
                f"Created the agent `default` with the model {found.model}. Its block has the key "
                f"from {found.variable}, encrypted by Prefect. To use another model: "
                "daybook agents add default --replace --model PROVIDER:MODEL --key-env "
                f"{found.variable}"
            ]
    elif await documents.ensure_default(client):
        lines = ["Created the agent `default`, which is offline: it answers without a model"]
        if found:
            lines.append(
                f"{found.variable} holds a key, but the SDK of its provider is not installed"
            )
        return lines
    return []


async def model_steps(client: PrefectClient) -> list[tuple[str, str]]:
    """Return the steps, with commands, from an offline agent `default` to a model."""
    from daybook.agents import documents, kinds, providers

    slugs = (await documents.names(client)).get(DEFAULT_AGENT)
    return providers.first_steps() if slugs == [kinds.OFFLINE.slug] else []
