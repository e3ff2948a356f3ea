"""Delivery results that the keeper shows in Prefect."""

from __future__ import annotations

from typing import Any, cast

import httpx
import pytest

from daybook.execution import delivery
from daybook.keeper.deliveries import DeliveriesState, send_due
from tests.world import World

pytestmark = pytest.mark.anyio


async def test_results_that_prefect_does_not_accept_are_shown_in_a_later_cycle(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown, is_reachable, memory = list[str](), False, DeliveriesState()

    async def publish(ledger: object, client: object, run_id: str) -> None:
        if not is_reachable:
            raise httpx.ConnectError("away")
        shown.append(run_id)

    monkeypatch.setattr(delivery, "publish_delivery", publish)
    memory.note(["first", "second"])
    with pytest.raises(httpx.ConnectError):
        await send_due(world.ledger, cast(Any, None), "here:1", memory)
    is_reachable = True
    await send_due(world.ledger, cast(Any, None), "here:1", memory)
    assert (shown, memory.some()) == (["first", "second"], [])
