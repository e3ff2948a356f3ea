"""What the keeper's services share: the context of a process, and the state of a term.

All other state belongs to one service (`services.Service.start`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from prefect.client.orchestration import PrefectClient

from daybook.keeper import overview
from daybook.keeper.alerts import AlertState
from daybook.ledger.engine import Ledger


class Signal(Enum):
    """Signals that end the pause of a loop early."""

    EDITED = "a deployment was edited in Prefect"
    OBSERVED = "an observation was completed"


@dataclass(frozen=True)
class Context:
    """Connections and functions of one process, from which its services are made."""

    ledger: Ledger
    client: PrefectClient
    holder: str
    supervised: Callable[[], Collection[str]]
    signals: Mapping[Signal, asyncio.Event]
    read_overview: overview.ReadOverview = overview.read_nothing


@dataclass
class ImportProgress:
    """Instants up to which this term has imported Prefect's edits and ends into the ledger.

    ``observed`` has the instants of edits by job id, and ``observed_at`` the last of them.
    ``ends_read`` is the instant of the ends of runs. None stands for no import in this term.
    """

    observed: dict[str, datetime] = field(default_factory=dict)
    observed_at: datetime | None = None
    ends_read: datetime | None = None

    def known(self) -> dict[str, datetime]:
        """Return, by job id, the instant up to which the ledger has Prefect's edits and ends.

        It is empty until this term has read the ends of runs, because the auditor must not catch up
        a run that was cancelled in Prefect in advance, while no keeper was the leader.
        """
        read_to = self.ends_read
        if read_to is None:
            return {}
        return {job_id: min(at, read_to) for job_id, at in self.observed.items()}


@dataclass
class ExcludedRuns:
    """Ids of the flow runs that the last cycle of `ends` left to this process's supervisor.

    `ensure` must not change these runs, even if the supervisor has given them up since then.
    """

    ids: Collection[str] = ()


@dataclass
class Term:
    """State that several services share during one term of leadership.

    ::

        state       written by         read by
        ----------  -----------------  ----------------------------------------------------------
        imports     observe, unread    audit, ping; the CPU budget of observe; `daybook status`
        excluded    ends               ensure
        alerts      alarm              ping

    ``fence`` is the fencing token of the term; it is None for the services with `everywhere`, which
    share no state.
    """

    fence: int | None = None
    imports: ImportProgress = field(default_factory=ImportProgress)
    excluded: ExcludedRuns = field(default_factory=ExcludedRuns)
    alerts: AlertState = field(default_factory=AlertState)
