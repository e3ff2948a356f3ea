"""The keeper as a process of its own, with or without workers beside it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress

from daybook.keeper import leadership
from daybook.keeper.keeper import Keeper
from daybook.keeper.overview import ReadOverview
from daybook.ledger.engine import open_ledger
from daybook.prefect import client as connection
from daybook.prefect import private_names, work_pool
from daybook.prefect.parameter_schema import WORK_POOL
from daybook.processes.ending import cancel_all


async def run_keeper(say: Callable[[str], None], read_overview: ReadOverview) -> None:
    """Run a keeper until SIGINT or SIGTERM.

    ``say`` gets a line when the keeper starts or stops, and when it starts or stops leading.
    ``read_overview`` returns the data of Prefect's artifact of the ledger, as in `Keeper`. Raise
    `PrefectUnreachable` and `LedgerUnreachable`, also when a newer program has made the ledger
    unusable for this one. Raise `InvalidInput` if Prefect has jobs of another ledger and none of
    this ledger (promise 15: a deployment belongs to one ledger).
    """
    private_names.cache_time_zones()
    async with AsyncExitStack() as stack:
        ledger = await stack.enter_async_context(open_ledger())
        async with connection.connected() as client:
            await connection.check_connection(client)
            await work_pool.check_ledger(client, WORK_POOL, ledger.id)
        keeper = Keeper(ledger, leadership.new_holder(), read_overview=read_overview)
        work = asyncio.create_task(keeper.run())
        reporting = asyncio.create_task(_report(keeper, say))
        outdated = asyncio.create_task(ledger.until_newer())
        outdated.add_done_callback(lambda _: work.cancel())
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, work.cancel)
            stack.callback(loop.remove_signal_handler, number)
        say(f"Keeper started: {keeper.leadership.holder}")
        try:
            with suppress(asyncio.CancelledError):
                await work
        finally:
            await cancel_all(reporting, outdated)
        say("Keeper stopped")
        if outdated.done() and not outdated.cancelled():
            outdated.result()


async def _report(keeper: Keeper, say: Callable[[str], None]) -> None:
    while True:
        await keeper.leadership.wait_until_leading()
        say("Keeper leads")
        await keeper.leadership.wait_until_not_leading()
        say("Keeper on standby: another keeper leads")
