"""The tables in Prefect of what is due next and what needs attention."""

from __future__ import annotations

import json
from uuid import UUID

import pytest
from prefect.client.schemas.filters import ArtifactCollectionFilter, ArtifactCollectionFilterKey

from daybook.finding import warning
from daybook.keeper.overview import Overview, TablesState, show_tables
from tests.world.prefect_world import PrefectWorld

pytestmark = pytest.mark.e2e


async def table(world: PrefectWorld, name: str) -> tuple[UUID, str, list[dict[str, str]]]:
    """Return the id, the type and the rows of the table, as Prefect's list of artifacts has it."""
    key = ArtifactCollectionFilterKey(any_=[f"{name}-{world.ledger.id[:8]}"])
    of_key = ArtifactCollectionFilter(key=key)
    (found,) = await world.prefect.ui.read_latest_artifacts(artifact_filter=of_key)
    return found.latest_id, str(found.type), json.loads(str(found.data))


async def test_each_table_is_one_artifact_that_changes_only_with_its_content(
    world: PrefectWorld,
) -> None:
    shown = Overview([("brief", "2026-11-25 09:00:00+01:00")])

    async def read() -> Overview:
        return shown

    async def cycle(state: TablesState) -> int:
        return await show_tables(world.ledger, world.client, read, state)

    state = TablesState()
    assert await cycle(state) == 2
    due_id, kind, rows = await table(world, "daybook-due-next")
    assert (kind, rows) == ("table", [{"job": "brief", "due": "2026-11-25 09:00:00+01:00"}])
    attention_id, _, rows = await table(world, "daybook-needs-attention")
    assert rows == [{"finding": "nothing"}]

    world.prefect.traffic.requests.clear()
    assert await cycle(state) == 0
    assert not world.prefect.traffic.requests
    assert await cycle(TablesState()) == 0  # of the next leader, which reads them once

    shown = Overview(shown.due, [warning("jobs", "brief failed", "daybook show brief")])
    assert await cycle(state) == 1
    assert await table(world, "daybook-needs-attention") == (
        attention_id,
        "table",
        [
            {"finding": "jobs", "severity": "warning", "what": "brief failed"}
            | {"what to do": "daybook show brief"}
        ],
    )

    await world.prefect.ui.delete_artifact(due_id)
    shown = Overview()
    assert await cycle(state) == 2
    new_id, _, rows = await table(world, "daybook-due-next")
    assert (new_id != due_id, rows) == (True, [{"job": "no job is due"}])
