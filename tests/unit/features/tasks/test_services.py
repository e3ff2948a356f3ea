"""The service of the keeper that runs the cycles of the task scheduler."""

from __future__ import annotations

from typing import Any, cast

import pytest

from daybook.features.tasks.services import LOOPS
from daybook.keeper.keeper import Keeper
from daybook.keeper.term import Context, Term
from tests.world import World

pytestmark = pytest.mark.anyio
NOTHING = cast("Any", None)


@pytest.mark.floor("D", "WithInterval sets the interval")
async def test_the_next_cycle_comes_after_the_interval(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_TASKS", '{"interval": "7s"}')
    keeper, (loop,) = Keeper(world.ledger, "here:1:a"), LOOPS
    context = Context(world.ledger, NOTHING, "here:1", NOTHING, {})
    assert await keeper.cycle(loop, loop.start(context, Term())) == 7.0


async def test_the_last_valid_policy_applies_also_in_the_next_term(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_TASKS", '{"interval": "8s"}')
    keeper, (loop,) = Keeper(world.ledger, "here:1:a"), LOOPS
    context = Context(world.ledger, NOTHING, "here:1", NOTHING, {})
    await keeper.cycle(loop, loop.start(context, Term(1)))
    monkeypatch.setenv("DAYBOOK_TASKS", '{"interval": "soon"}')
    assert await keeper.cycle(loop, loop.start(context, Term(2))) == 8.0


async def test_a_standby_keeps_the_policy_that_was_valid_at_its_start(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_TASKS", '{"interval": "9s"}')
    keeper, (loop,) = Keeper(world.ledger, "here:1:a"), LOOPS
    assert loop.prepare is not None
    loop.prepare()
    monkeypatch.setenv("DAYBOOK_TASKS", '{"interval": "soon"}')
    loop.prepare()
    context = Context(world.ledger, NOTHING, "here:1", NOTHING, {})
    assert await keeper.cycle(loop, loop.start(context, Term(1))) == 9.0
