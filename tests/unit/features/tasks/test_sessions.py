"""Task sessions: registration, reports, expiry, connections and owners."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from daybook import owners
from daybook.errors import InvalidInput, NotFound, NothingClaimable
from daybook.features.tasks import claims, sessions
from tests import rows
from tests.world import World
from tests.world.tasks import AGENT, OTHER

pytestmark = pytest.mark.anyio

INSTANT = timedelta(microseconds=1)


@pytest.mark.floor("D", "SessionSnapshot: agent, workspace, channel, type, capabilities")
async def test_a_registered_session_is_idle_and_expires_after_15_minutes(world: World) -> None:
    await sessions.register(
        world.ledger,
        " one ",
        agent="maria",
        type="terminal",
        workspace="garden",
        channel="mail",
        capabilities=["water", "dig", "dig"],
    )

    row = await world.tasks.session("one")

    assert (row.owner, row.agent, row.type) == ("user", "maria", "terminal")
    assert (row.workspace, row.channel, row.capabilities) == ("garden", "mail", ["dig", "water"])
    assert (row.state, row.prompting, row.idle_since) == ("idle", False, world.ledger.now())
    assert row.expires_at == world.ledger.now() + timedelta(minutes=15)


INVALID: list[dict[str, Any]] = [
    {"name": " "},
    {"name": "two\nlines"},
    {"name": "x" * 101},
    {"agent": "a:b"},
    {"type": "x" * 101},
    {"workspace": "two\nlines"},
    {"channel": "\x00"},
    {"capabilities": ["has blanks"]},
    {"capabilities": [f"c{number}" for number in range(51)]},
]


async def test_a_session_with_an_invalid_field_is_refused_and_not_stored(world: World) -> None:
    for wrong, row in rows.each(INVALID):
        with row:
            with pytest.raises(InvalidInput) as refused:
                await world.tasks.register(**{"name": "one", **wrong})
            assert refused.value.field in wrong
            assert world.tasks.everything()["task_sessions"] == []


async def test_a_session_that_registers_again_keeps_its_id_and_its_run(world: World) -> None:
    claimed = await world.tasks.claimed()
    first = await world.tasks.session()
    await sessions.report(world.ledger, "one", state="active", prompting=True)
    world.clock.move(timedelta(minutes=20))

    await world.tasks.register("one", capabilities=["dig"])

    row = await world.tasks.session()
    assert (row.id, row.registered_at) == (first.id, first.registered_at)
    assert (row.state, row.prompting, row.idle_since) == ("idle", False, world.ledger.now())
    assert (row.capabilities, row.expires_at) == (
        ["dig"],
        world.ledger.now() + sessions.SESSION_TIMEOUT,
    )
    assert (await world.tasks.run(claimed.run.id)).session_id == row.id


@pytest.mark.floor("D", "SessionSnapshot.State and .Prompting are reported")
async def test_a_report_sets_the_state_and_renews_the_session(world: World) -> None:
    await world.tasks.register()
    began = world.ledger.now()
    steps = [
        ({"state": "active"}, ("active", False), began),
        ({"prompting": True}, ("active", True), began),
        ({"state": "idle"}, ("idle", True), began),
        ({"prompting": False}, ("idle", False), None),  # idle from here on
        ({}, ("idle", False), None),
    ]
    idle: object = began
    for says, (state, prompting), since in steps:
        world.clock.move(timedelta(seconds=1))
        row = await sessions.report(world.ledger, "one", **says)  # type: ignore[arg-type]
        if since is None and says:
            idle = world.ledger.now()
        assert (row.state, row.prompting, row.idle_since) == (state, prompting, idle)
        assert (
            await world.tasks.session()
        ).expires_at == world.ledger.now() + sessions.SESSION_TIMEOUT
    with pytest.raises(InvalidInput, match="use idle or active"):
        await sessions.report(world.ledger, "one", state="asleep")
    with pytest.raises(NotFound):
        await sessions.report(world.ledger, "nobody", state="idle")


async def test_a_silent_session_expires_exactly_at_its_end(world: World) -> None:
    row = await world.tasks.register()
    await world.tasks.add()
    world.clock.set(row.expires_at)
    before = world.tasks.everything()
    with pytest.raises(NothingClaimable, match="silent since 2026-01-15T12:00:00"):
        await world.tasks.claim()
    assert world.tasks.everything() == before  # a claim does not renew an expired session

    await sessions.report(world.ledger, "one", state="idle")
    world.clock.set((await world.tasks.session()).expires_at - INSTANT)

    assert (await world.tasks.claim()).run.status == "claimed"


async def test_an_expired_session_keeps_its_lease(world: World) -> None:
    claimed = await world.tasks.claimed(lease="1h")
    world.clock.move(timedelta(minutes=59))
    assert (await world.tasks.session()).expires_at <= world.ledger.now()
    assert await world.tasks.sweep() == []

    await claims.complete(world.ledger, claimed.run.id, claimed.token)

    assert (await world.tasks.session()).expires_at == world.ledger.now() + sessions.SESSION_TIMEOUT


async def test_the_run_of_a_removed_session_is_queued_again(world: World) -> None:
    claimed = await world.tasks.claimed()
    world.clock.move(timedelta(seconds=5))

    await sessions.remove(world.ledger, "one")

    with pytest.raises(NotFound):
        await world.tasks.session()
    row = await world.tasks.run(claimed.run.id)
    assert (row.status, row.session_id, row.queued_at) == ("queued", None, world.ledger.now())
    event = (await world.tasks.events(row.id))[-1]
    assert (event.event, event.session, event.reason) == (
        "recovered",
        "one",
        "its session was removed",
    )
    await world.tasks.register("two")
    assert (await world.tasks.claim("two")).run.id == row.id
    with pytest.raises(NotFound):
        await sessions.remove(world.ledger, "one")


async def test_a_connection_renews_the_session(world: World) -> None:
    one, two = await world.tasks.register("one"), await world.tasks.register("two")
    world.clock.move(timedelta(minutes=14))
    until = world.ledger.now() + timedelta(seconds=45)

    await sessions.set_connected(world.ledger, [one.id, "nobody"], until)

    row = await world.tasks.session("one")
    assert (row.connected_until, row.expires_at) == (
        until,
        world.ledger.now() + sessions.SESSION_TIMEOUT,
    )
    other = await world.tasks.session("two")
    assert (other.connected_until, other.expires_at) == (None, two.expires_at)
    expires_at = row.expires_at
    world.clock.move(timedelta(seconds=1))
    await sessions.set_connected(world.ledger, [one.id], world.ledger.now())  # closed
    row = await world.tasks.session("one")
    assert (row.connected_until, row.expires_at) == (world.ledger.now(), expires_at)


# --- owners


async def test_an_agent_registers_only_its_own_sessions(world: World) -> None:
    with owners.acting_as(AGENT):
        row = await world.tasks.register("mine")
        assert (row.owner, row.agent) == ("agent:maria", "maria")
        assert (await world.tasks.register("mine", agent="maria")).id == row.id
        for other in ("otto", ""):
            with pytest.raises(InvalidInput, match="is another agent"):
                await world.tasks.register("another", agent=other)


async def test_an_agent_sees_and_changes_only_its_own_sessions(world: World) -> None:
    with owners.acting_as(OTHER):
        theirs = await world.tasks.register("theirs")
    with owners.acting_as(AGENT):
        await world.tasks.register("mine")
        before = world.tasks.everything()
        async with world.ledger.read() as session:
            assert [row.name for row in await sessions.visible_sessions(session)] == ["mine"]
            with pytest.raises(NotFound):
                await sessions.find(session, "theirs")
            with pytest.raises(NotFound, match=r'"theirz" not found$'):
                await sessions.find(session, "theirz")
        with pytest.raises(NotFound):
            await sessions.report(world.ledger, "theirs", state="active")
        with pytest.raises(NotFound):
            await sessions.remove(world.ledger, "theirs")
        await sessions.set_connected(
            world.ledger, [theirs.id], world.ledger.now() + timedelta(minutes=1)
        )
        assert world.tasks.everything() == before

    async with world.ledger.read() as session:
        assert [row.name for row in await sessions.visible_sessions(session)] == ["mine", "theirs"]
        with pytest.raises(NotFound, match=r'"theirz" not found \(did you mean "theirs"\?\)'):
            await sessions.find(session, "theirz")
    await sessions.report(world.ledger, "theirs", state="active")
    assert (await world.tasks.session("theirs")).state == "active"


async def test_a_session_name_is_free_once_its_session_expired_and_holds_no_run(
    world: World,
) -> None:
    with owners.acting_as(OTHER):
        first = await world.tasks.register("one")
        await world.tasks.add()
        claimed = await world.tasks.claim("one", "1h")
    with owners.acting_as(AGENT):
        with pytest.raises(InvalidInput, match='"one" is taken'):
            await world.tasks.register("one")
        world.clock.set(first.expires_at + timedelta(minutes=1))
        with pytest.raises(InvalidInput, match='"one" is taken'):  # it holds a run
            await world.tasks.register("one")
    await claims.complete(world.ledger, claimed.run.id, claimed.token)
    world.clock.move(sessions.SESSION_TIMEOUT - INSTANT)
    with owners.acting_as(AGENT):
        with pytest.raises(InvalidInput, match='"one" is taken'):
            await world.tasks.register("one")
        world.clock.move(INSTANT)

        row = await world.tasks.register("one")

    assert row.owner == "agent:maria"
    assert row.id != first.id
    with owners.acting_as(OTHER), pytest.raises(NotFound):
        await sessions.report(world.ledger, "one", state="idle")
