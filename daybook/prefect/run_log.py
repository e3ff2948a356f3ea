"""Log of a flow run in Prefect: lines about ends that the run's own process does not log."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import LogCreate
from prefect.exceptions import Abort

from daybook.clock import SYSTEM_CLOCK
from daybook.ledger.states import Status

log = logging.getLogger(__name__)

_ENGINE_LOGGER = "prefect.flow_runs"
_ENGINE_LAST_LINE = "Finished in state "
_NO_FAILURE = {Status.SUCCEEDED, Status.SKIPPED, Status.CANCELLED}


@dataclass(frozen=True)
class End:
    """End of a flow run; ``message`` is the reason or the error, which may be empty."""

    flow_run_id: UUID
    status: Status
    message: str

    @property
    def line(self) -> str:
        repeats = self.message in ("", str(self.status))
        return str(self.status) if repeats else f"{self.status}: {self.message}"

    @property
    def level(self) -> int:
        return logging.INFO if self.status in _NO_FAILURE else logging.ERROR


async def write_ends(client: PrefectClient, ends: Iterable[End]) -> None:
    """Add a line for each end to the log of its flow run; log an error instead of raising it."""
    now = SYSTEM_CLOCK.now()
    lines = [
        LogCreate(
            name=__name__,
            level=end.level,
            message=end.line,
            timestamp=now,  # type: ignore[arg-type]
            flow_run_id=end.flow_run_id,
        )
        for end in ends
    ]
    if not lines:
        return
    try:
        await client.create_logs(lines)
    except httpx.HTTPError as error:
        log.warning("cannot write to the runs' logs: %s", error, extra={"action": "log_failed"})


class _AbortedRuns(logging.Filter):
    """Filter that drops the engine's last line about each flow run in ``ids``, once."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        flow_run_id = str(getattr(record, "flow_run_id", ""))
        if flow_run_id in self.ids and record.getMessage().startswith(_ENGINE_LAST_LINE):
            self.ids.discard(flow_run_id)
            return False
        return True


_aborted_runs = _AbortedRuns()


@contextmanager
def without_last_line_after_abort(flow_run_id: str) -> Iterator[None]:
    """Omit the engine's last line in the flow run's log if the block raises `Abort`.

    Prefect's engine does not read the state that another process sets, and would log the error
    "Finished in state Running()".
    """
    try:
        yield
    except Abort:
        _aborted_runs.ids.add(flow_run_id)
        logging.getLogger(_ENGINE_LOGGER).addFilter(_aborted_runs)
        raise
