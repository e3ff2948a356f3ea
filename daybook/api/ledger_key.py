"""Replacement of a lost key of the ledger's copies of agents and secrets."""

from __future__ import annotations

from typing import Any

from daybook import home as homes
from daybook.errors import InvalidInput, LedgerKeyMissing
from daybook.ledger.engine import open_ledger
from daybook.resources import copies, encryption


async def renew(*, discard: bool = False) -> dict[str, list[str]]:
    """Copy all blocks from Prefect again, encrypted with this home's key; create a missing key.

    Return `{"copied", "discarded"}`, each a list such as `["secret ops"]`. Raise `InvalidInput`,
    and change nothing, if this home has the key of the copies, or if copies of blocks that Prefect
    has lost would be discarded without ``discard``. Raise `LedgerKeyMissing` if the key's file
    holds no key. If the process dies halfway, the keeper completes the work.
    """
    from daybook.keeper import blocks
    from daybook.prefect import client as prefect
    from daybook.resources import mirror

    async with open_ledger() as ledger, prefect.connected() as client:
        await prefect.check_connection(client)
        async with ledger.read() as session:
            try:
                await copies.key(session, homes.current_home())
            except LedgerKeyMissing:
                pass
            else:
                raise InvalidInput("key", "this home has the ledger's key", "keep using it")
        lost = await mirror.list_lost(ledger, client, blocks.BLOCK_TYPES)
        if lost and not discard:
            problem = f"Prefect has lost {', '.join(lost)}: only the old key can restore them"
            raise InvalidInput("key", problem, "restore the old file ledger-key, or add --discard")
        encryption.read_or_create_key(homes.current_home().ledger_key)
        async with ledger.write() as session:
            await copies.remove_key(session)
        report = await blocks.reconcile_blocks(ledger, client)
    if report.key_problem:
        raise LedgerKeyMissing(report.key_problem)
    result: dict[str, Any] = {"copied": report.copied, "discarded": lost}
    return result
