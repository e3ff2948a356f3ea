"""Overview of the next due jobs and of the findings that need attention: two tables in Prefect.

The findings are the findings of `daybook status`. A package above this one reads them, so a keeper
receives a function that returns the overview. Each table is an artifact whose key contains the
ledger's id. The leader updates the artifact in place, and only if the content has changed. So each
table has one row in Prefect's database, however long Daybook runs.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from http import HTTPStatus
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.exceptions import PrefectHTTPStatusError

from daybook.finding import Finding, Severity
from daybook.ledger.engine import Ledger

DUE_NEXT, NEEDS_ATTENTION = "daybook-due-next", "daybook-needs-attention"
_DESCRIPTIONS = {
    DUE_NEXT: "The jobs that are due next, as in `daybook status`.",
    NEEDS_ATTENTION: "The findings of `daybook status`; `daybook doctor` checks more.",
}
_NOTHING = {DUE_NEXT: {"job": "no job is due"}, NEEDS_ATTENTION: {"finding": "nothing"}}
MAX_DUE = 20
"""Maximum number of jobs in the table of due jobs."""

Row = dict[str, str]


@dataclass(frozen=True)
class Overview:
    """The content of the tables.

    ``due`` has the names and local due times of at most `MAX_DUE` jobs, earliest first.
    """

    due: list[tuple[str, str]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def that_count(self, names: Collection[str]) -> list[Finding]:
        """Return the findings with these ``names``; if ``names`` is empty, all but warnings."""
        return [
            each
            for each in self.findings
            if (each.check in names if names else each.severity is not Severity.WARNING)
        ]


ReadOverview = Callable[[], Awaitable[Overview]]


async def read_nothing() -> Overview:
    """Return an empty overview: the default for a keeper that receives no other function."""
    return Overview()


@dataclass
class TablesState:
    """State between two cycles: by artifact key, the artifact's id and the table's content."""

    written: dict[str, tuple[UUID, str]] = field(default_factory=dict)


async def show_tables(
    ledger: Ledger, client: PrefectClient, read: ReadOverview, memory: TablesState
) -> int:
    """Write to Prefect the tables whose content has changed; return their number."""
    overview = await read()
    tables: dict[str, list[Row]] = {
        DUE_NEXT: [{"job": job, "due": due} for job, due in overview.due],
        NEEDS_ATTENTION: [
            {
                "finding": each.check,
                "severity": each.severity,
                "what": each.message,
                "what to do": each.fix,
            }
            for each in overview.findings
        ],
    }
    return sum(
        [
            await _write(client, name, f"{name}-{ledger.id[:8]}", rows, memory)
            for name, rows in tables.items()
        ]
    )


async def _write(
    client: PrefectClient, name: str, key: str, rows: list[Row], memory: TablesState
) -> bool:
    data = json.dumps(rows or [_NOTHING[name]], ensure_ascii=False)
    if key not in memory.written:
        of_key = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
        for artifact in await client.read_artifacts(artifact_filter=of_key, limit=1):
            memory.written[key] = artifact.id, str(artifact.data)
    artifact_id, shown = memory.written.get(key, (None, None))
    if shown == data:
        return False
    if artifact_id is not None:
        try:
            await client.update_artifact(artifact_id, ArtifactUpdate(data=data))
        except PrefectHTTPStatusError as error:
            if error.response.status_code != HTTPStatus.NOT_FOUND:
                raise
            artifact_id = None  # a user has deleted it
    if artifact_id is None:
        made = ArtifactCreate(key=key, type="table", description=_DESCRIPTIONS[name], data=data)
        artifact_id = (await client.create_artifact(made)).id
    memory.written[key] = artifact_id, data
    return True
