"""A new key for the ledger's copies of agents and secrets, where theirs is lost."""

from __future__ import annotations

from typing import Any

from daybook import home as homes
from daybook.errors import InvalidInput, LedgerKeyMissing
from daybook.ledger.engine import open_ledger
from daybook.resources import copies, encryption


async def renew(*, discard: bool = False) -> dict[str, list[str]]:
    """Copy what Prefect holds anew, encrypted with this home's key, which is made if there is none.

    `{"copied", "discarded"}`, each a list such as `["secret ops"]`. Raises `InvalidInput`, and
    changes nothing, if this home has the key of the copies, or if copies would be discarded that
    Prefect has lost, unless ``discard`` says so. Raises `LedgerKeyMissing` if the key's file holds
    no key. If the process dies in between, the keeper goes on.
    """
    from daybook.keeper import blocks
    from daybook.prefect import client as prefect
    from daybook.resources import mirror

    async with open_ledger() as ledger, prefect.connected() as client:
        await prefect.answers(client)
        async with ledger.read() as session:
            try:
                await copies.key(session, homes.here())
            except LedgerKeyMissing:
                pass
            else:
                raise InvalidInput("key", "this home has the key of the ledger's copies", "keep it")
        lost = await mirror.lost(ledger, client, blocks.TYPES)
        if lost and not discard:
            told = f"Prefect has lost {', '.join(lost)}: only the old key can restore them"
            raise InvalidInput("key", told, "find the old ledger-key, or give --discard")
        encryption.read_or_make(homes.here().ledger_key)
        async with ledger.write() as session:
            await copies.forget_key(session)
        report = await blocks.blocks(ledger, client)
    if report.key_problem:
        raise LedgerKeyMissing(report.key_problem)
    found: dict[str, Any] = {"copied": report.copied, "discarded": lost}
    return found
