"""Leadership of a keeper: after a release, another keeper leads (promise 16)."""

from __future__ import annotations

import pytest

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
