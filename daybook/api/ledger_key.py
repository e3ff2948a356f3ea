"""Replacement of the key that encrypts the ledger's copies of agents and secrets, if it is lost."""

from __future__ import annotations

from pydantic import BaseModel

from daybook import home as homes
from daybook.errors import InvalidInput, LedgerKeyMissing
from daybook.ledger.engine import open_ledger
from daybook.resources import copies, encryption, mirror


class KeyRenewal(BaseModel, frozen=True):
    """Names of the blocks, such as `secret ops`, ``copied`` again or permanently ``discarded``."""

    copied: list[str]
    discarded: list[str]


async def renew(*, discard: bool = False) -> KeyRenewal:
    """Copy all blocks from Prefect again, encrypted with this home's key; create a missing key.

    Raise `InvalidInput`, and change nothing, if this home has the key that the copies are encrypted
    with, if the ledger has no key yet, or if Prefect has lost some of the blocks and ``discard`` is
    false. Raise `LedgerKeyMissing` if the key's file holds no key. If the process dies halfway, the
    keeper completes the work.
    """
    from daybook.keeper import blocks
    from daybook.prefect import client as prefect

    async with open_ledger() as ledger, prefect.answering() as client:
        async with ledger.read() as session:
            try:
                await copies.key(session, homes.current_home())
            except LedgerKeyMissing:
                pass
            else:
                raise InvalidInput("key", "this home has the ledger's key", "no new one is needed")
        lost = await mirror.list_lost(ledger, client, blocks.BLOCK_TYPES)
        if lost and not discard:
            problem = f"Prefect has lost {', '.join(lost)}: only the old key can restore them"
            hint = "copy the old ledger-key file back, or give up these blocks with --discard"
            raise InvalidInput("key", problem, hint)
        encryption.read_or_create_key(homes.current_home().ledger_key)
        async with ledger.write() as session:
            await copies.remove_key(session)
        report = await blocks.reconcile_blocks(ledger, client)
    if report.key_problem:
        raise LedgerKeyMissing(report.key_problem)
    return KeyRenewal(copied=report.copied, discarded=lost)
