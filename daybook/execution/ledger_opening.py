"""Opening of the ledger in the process of a run, and what happens to the run if it is unusable.

A run that a worker of Daybook has started, and a direct call, open the ledger as any program does.
A run in another work pool of Prefect may have an environment that stays wrong: without the address
of the ledger, or with another version of Daybook.
"""

from __future__ import annotations

import logging
import socket
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from typing import NoReturn

from prefect.client.schemas.objects import FlowRun
from prefect.states import Crashed

from daybook import __version__, settings
from daybook.clock import SYSTEM_CLOCK, Clock
from daybook.errors import InvalidInput, LedgerOlder, LedgerUnreachable
from daybook.execution.claim import NO_LEDGER_DELAY
from daybook.execution.handover import Handover
from daybook.ledger.engine import Ledger
from daybook.prefect import occurrence, states

log = logging.getLogger(__name__)


async def open_ledger(
    stack: AsyncExitStack, flow_run: FlowRun, given: Handover | None, clock: Clock
) -> Ledger:
    """Open the ledger for a run, until ``stack`` is closed; raise `LedgerUnreachable`.

    ``given`` is the handover of Daybook's worker, if it has started the run. While a setting is
    invalid, a direct call raises `InvalidInput`, and any other run waits; it raises `Abort`.
    """
    if given is None and flow_run.deployment_id is not None:
        return await _open_in_another_pool(stack, flow_run, clock)
    try:
        address = settings.load().ledger_address
    except InvalidInput as error:
        if given is None:
            raise
        await states.suspend_flow_run(str(flow_run.id), next_try(given, clock), str(error))
    return await stack.enter_async_context(Ledger(address))


async def _open_in_another_pool(stack: AsyncExitStack, flow_run: FlowRun, clock: Clock) -> Ledger:
    """Open the ledger for a run that no worker of Daybook has started.

    It migrates no ledger, because Daybook's workers may be older, and would stop. It tries twice,
    and then ends as crashed. But if it was started before, it waits: nothing would start a Retry
    again.
    """
    why = ""
    for is_last in (False, True):
        try:
            ledger = Ledger(settings.load().ledger_address, migrates=False)
            return await stack.enter_async_context(ledger)
        except (InvalidInput, LedgerUnreachable) as error:
            if isinstance(error, LedgerOlder) and error.is_in_use:
                raise  # `daybook up` is about to migrate its ledger
            why = str(error)
        if not is_last:
            log.warning("%s", why, extra={"action": "ledger_unusable"})
            await clock.wait_until(clock.now() + NO_LEDGER_DELAY)
    if occurrence.is_of_job(flow_run) and flow_run.run_count <= 1:
        await end_as_crashed(str(flow_run.id), why)
    await states.suspend_flow_run(str(flow_run.id), next_try(None, clock), why)


async def end_as_crashed(flow_run_id: str, why: str) -> NoReturn:
    """End the Prefect run of a run whose environment cannot use the job's ledger.

    The keeper records the reason, and starts the run again a few times (`runs.prefect_ends`).
    """
    here = f"Daybook {__version__} on {socket.gethostname()}"
    await states.end_flow_run(flow_run_id, Crashed(message=f"{here} cannot claim the run: {why}"))


def next_try(given: Handover | None, clock: Clock) -> datetime:
    """Return when a run that cannot use the ledger claims again.

    Before the ledger has answered, ``clock`` is this machine's; the worker knows its error.
    """
    skew = timedelta(0)
    if given is not None and clock is SYSTEM_CLOCK:
        skew = given.skew
    return clock.now() + skew + NO_LEDGER_DELAY
