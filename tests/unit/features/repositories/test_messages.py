"""The message about a change that waits: once for each change, to the operator."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlmodel import col, select

from daybook.delivery import outbox
from daybook.features.repositories import messages, operations
from daybook.features.repositories.tables import ChangeStatus
from daybook.ledger.tables import OutboxRow
from tests.unit.features.attempts import Started
from tests.unit.features.repositories.projects import at, changed
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("daybook_home")]


@pytest.fixture
def project(project: Path) -> Path:
    """Return the user's repository, in which main is checked out."""
    at(project, "switch", "-q", "main")
    return project


async def bodies(world: World) -> list[str]:
    query = select(OutboxRow.body).where(col(OutboxRow.event) == messages.EVENT)
    async with world.ledger.read() as session:
        return [*(await session.execute(query)).scalars()]


async def test_a_change_that_cannot_land_is_reported_once(
    world: World, running: Started, project: Path
) -> None:
    granted = await running("Nightly fix", repo=str(project), land="auto", verify=("true",))
    await changed(world, granted, a="two\n")  # main is checked out, so it does not move
    (body,) = await bodies(world)
    first, why, *_ = body.splitlines()
    assert first == f"Nightly fix has changed {project}: 1 file changed (+1 −1)."
    assert why.startswith("It has not landed on main: ")
    assert f"daybook land {granted.run_id[:12]}" in body

    assert (await operations.land(granted.run_id)).status == ChangeStatus.WAITING
    assert len(await bodies(world)) == 1


async def test_a_change_that_lands_is_not_reported(
    world: World, running: Started, project: Path
) -> None:
    at(project, "switch", "-q", "mine")
    granted = await running(repo=str(project), ref="main", land="auto", verify=("true",))
    await changed(world, granted, a="two\n")
    assert (await operations.show(granted.run_id)).status == ChangeStatus.LANDED
    assert await bodies(world) == []


async def test_a_change_that_is_decided_before_its_message_is_sent_is_not_reported(
    world: World, running: Started, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "operator_channel", lambda: "telegram")
    granted = await running(repo=str(project), ref="main")
    await changed(world, granted, a="two\n")
    statuses = select(OutboxRow.status).where(col(OutboxRow.event) == messages.EVENT)
    for expected in (["pending"], ["suppressed"]):
        async with world.ledger.read() as session:
            assert [*(await session.execute(statuses)).scalars()] == expected
        await operations.discard(granted.run_id)
