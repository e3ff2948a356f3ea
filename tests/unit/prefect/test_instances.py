"""Detection of two Prefect servers on one ledger, by work pool and address."""

from __future__ import annotations

from datetime import timedelta

import pytest

from daybook.prefect import instances
from tests.world import World

pytestmark = pytest.mark.anyio

ONE, OTHER = "http://127.0.0.1:4200/api", "http://10.0.0.2:4200/api"


async def _in_use(world: World) -> list[str]:
    async with world.ledger.read() as session:
        found = await instances.in_use(session, world.clock.now())
    return [each.api_url for each in found]


async def test_one_server_with_two_addresses_is_no_conflict(world: World) -> None:
    await instances.record(world.ledger, "pool-1", ONE, "here:1:a")
    servers = await instances.record(world.ledger, "pool-1", OTHER, "there:2:b")

    assert [(each.api_url, each.holder) for each in servers] == [(OTHER, "there:2:b")]
    assert instances.conflict(servers) == ""


async def test_two_servers_are_named_with_their_processes(world: World) -> None:
    await instances.record(world.ledger, "pool-1", f"{ONE}/", "here:1:a")
    servers = await instances.record(world.ledger, "pool-2", OTHER, "there:2:b")

    conflict = instances.conflict(servers)

    for part in ("2 Prefect servers", ONE, OTHER, "here:1:a", "there:2:b"):
        assert part in conflict
    assert await _in_use(world) == [OTHER, ONE]


async def test_a_server_that_no_process_uses_any_more_is_no_conflict(world: World) -> None:
    await instances.record(world.ledger, "pool-1", ONE, "here:1:a")
    world.clock.move(instances.IN_USE_AGE)
    assert len(await instances.record(world.ledger, "pool-2", OTHER, "here:1:a")) == 2

    world.clock.move(timedelta(microseconds=1))

    assert await _in_use(world) == [OTHER]


async def test_a_server_whose_work_pool_was_recreated_is_the_same_server(world: World) -> None:
    await instances.record(world.ledger, "pool-1", ONE, "here:1:a")
    again = await instances.record(world.ledger, "pool-2", ONE, "here:1:a")
    assert [each.pool_id for each in again] == ["pool-2"]

    # The same address on another machine is another server.
    elsewhere = await instances.record(world.ledger, "pool-3", ONE, "there:2:b")
    assert instances.conflict(elsewhere)


async def test_a_process_that_ends_leaves_no_record(world: World) -> None:
    await instances.record(world.ledger, "pool-1", ONE, "here:1:a")
    await instances.record(world.ledger, "pool-2", OTHER, "here:2:b")

    await instances.forget(world.ledger, "here:1:a")

    assert await _in_use(world) == [OTHER]


async def test_a_recorded_address_contains_no_password(world: World) -> None:
    with_password = "https://me:secret@prefect.example.org/api"
    (server,) = await instances.record(world.ledger, "pool-1", with_password, "here:1:a")

    assert server.api_url == "https://prefect.example.org/api"
