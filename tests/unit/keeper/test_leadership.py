"""Leadership of a keeper: after a release, another keeper leads (promise 16)."""

from __future__ import annotations

import pytest
from sqlalchemy.exc import SQLAlchemyError

from daybook.keeper import leader_lease
from daybook.keeper.leadership import Leadership
from tests.world import World

pytestmark = pytest.mark.anyio


async def test_a_leader_that_released_its_lease_to_rest_lets_another_lead(world: World) -> None:
    one, two = Leadership(world.ledger, "one"), Leadership(world.ledger, "two")
    leading = []
    await one._turn()
    leading.append((one.fence, two.fence))

    await one.release(rest=60.0)

    assert 0 < await one._turn() <= 60.0
    await two._turn()
    leading.append((one.fence, two.fence))
    assert leading == [(1, None), (None, 2)]


async def test_a_leader_stops_leading_even_if_the_ledger_cannot_store_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def release(*args: object) -> None:
        raise SQLAlchemyError("broken")

    monkeypatch.setattr(leader_lease, "release", release)
    leadership = Leadership(world.ledger, "one")
    await leadership._turn()
    assert leadership.fence == 1
    await leadership.release()
    assert leadership.fence is None
