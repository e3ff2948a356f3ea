"""The lease reaper, which expires lost leases and passed deadlines.

Promise 3: if the lease is lost before the effect, the run waits again. Promise 5: if the lease is
lost after the effect began, the run is unknown, unless the job has `on_lost: rerun`.

The ledger decides, and the lease reaper writes the result to Prefect at once. The holder of a lost
lease has been silent for at least two lease durations, and the ledger will refuse the holder's next
write. So the keeper also sets the state of the Prefect run.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from prefect.client.orchestration import PrefectClient

from daybook.execution import outcome_spool
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Status
from daybook.ledger.tables import RunRow
from daybook.prefect import scheduled_runs, state_mirror
from daybook.runs import holders, leases


@dataclass
class ExpiryReport:
    """Numbers of runs that wait again and of runs that ended."""

    waiting: int = 0
    ended: int = 0

    def __bool__(self) -> bool:
        return bool(self.waiting or self.ended)


async def expire(ledger: Ledger, client: PrefectClient, limit: int = 200) -> ExpiryReport:
    """Run one cycle over at most ``limit`` expired leases and as many passed deadlines.

    Raise the errors of an unreachable Prefect; `state_mirror` and `scheduled_runs` then write the
    rest.
    """
    return await _show_in_prefect(ledger, client, await leases.expire_all(ledger, limit))


async def release_ended(ledger: Ledger, client: PrefectClient, folder: Path) -> ExpiryReport:
    """Release the runs of this home's ended workers, whose files are in ``folder`` (`holders`).

    First record the outcomes that these workers spooled: a run with a spooled outcome has ended, so
    it must neither become unknown nor wait again. Errors propagate as in `expire`.
    """

    async def find_ended(held: Collection[str]) -> Collection[str]:
        if ended := holders.find_ended(folder, held):
            await outcome_spool.drain(ledger)  # an ended holder spools no more outcomes
        return ended

    rows = await leases.release_ended(ledger, find_ended)
    return await _show_in_prefect(ledger, client, rows)


async def _show_in_prefect(
    ledger: Ledger, client: PrefectClient, rows: list[RunRow]
) -> ExpiryReport:
    waiting = [row for row in rows if row.state is Status.WAITING]
    ended = [row for row in rows if row.state is not Status.WAITING]
    await state_mirror.mirror_rows(ledger, client, ended)
    await scheduled_runs.ensure_rows(ledger, client, waiting, abandoned=True)
    return ExpiryReport(len(waiting), len(ended))
