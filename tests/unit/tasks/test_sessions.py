"""Task sessions: there while they are heard of, one owner's, and one name once."""

from __future__ import annotations

from datetime import timedelta

import pytest

from daybook.errors import NotFound, NothingClaimable, Refused
from daybook.spec import owners
from daybook.tasks import claims, sessions
from tests.unit.tasks.conftest import AGENT, OTHER, Board

pytestmark = pytest.mark.anyio

INSTANT = timedelta(microseconds=1)


async def test_one_that_registers_is_idle_and_there_for_a_quarter_of_an_hour(board: Board) -> None:
    await sessions.register(
        board.ledger,
        " one ",
        agent="maria",
        type="terminal",
        workspace="garden",
        channel="mail",
        capabilities=["water", "dig", "dig"],
    )

    row = await board.of("one")

    assert (row.owner, row.agent, row.type) == ("user", "maria", "terminal")
    assert (row.workspace, row.channel, row.capabilities) == ("garden", "mail", ["dig", "water"])
    assert (row.state, row.prompting, row.idle_since) == ("idle", False, board.now())
    assert row.expires_at == board.now() + timedelta(minutes=15)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": " "},
        {"name": "two\nlines"},
        {"name": "x" * 101},
        {"agent": "a:b"},
        {"type": "x" * 101},
        {"workspace": "two\nlines"},
        {"channel": "\x00"},
        {"capabilities": ["has blanks"]},
        {"capabilities": [f"c{number}" for number in range(51)]},
    ],
)
async def test_what_is_wrong_is_refused_and_nothing_stored(
    board: Board, wrong: dict[str, object]
) -> None:
    with pytest.raises(Refused) as refused:
        await board.session(**{"name": "one", **wrong})  # type: ignore[arg-type]

    assert refused.value.field in wrong
    assert board.everything()["task_sessions"] == []


async def test_registered_again_it_is_the_same_with_its_run(board: Board) -> None:
    claimed = await board.claimed()
    first = await board.of()
    await sessions.report(board.ledger, "one", state="active", prompting=True)
    board.clock.move(timedelta(minutes=20))

    await board.session("one", capabilities=["dig"])

    row = await board.of()
    assert (row.id, row.registered_at) == (first.id, first.registered_at)
    assert (row.state, row.prompting, row.idle_since) == ("idle", False, board.now())
    assert (row.capabilities, row.expires_at) == (["dig"], board.now() + sessions.SILENT)
    assert (await board.run(claimed.run.id)).session_id == row.id


async def test_what_it_reports(board: Board) -> None:
    await board.session()
    began = board.now()
    steps = [
        ({"state": "active"}, ("active", False), began),
        ({"prompting": True}, ("active", True), began),
        ({"state": "idle"}, ("idle", True), began),
        ({"prompting": False}, ("idle", False), None),  # from then on it is idle
        ({}, ("idle", False), None),
    ]
    idle: object = began
    for says, (state, prompting), since in steps:
        board.clock.move(timedelta(seconds=1))
        row = await sessions.report(board.ledger, "one", **says)  # type: ignore[arg-type]
        if since is None and says:
            idle = board.now()
        assert (row.state, row.prompting, row.idle_since) == (state, prompting, idle)
        assert (await board.of()).expires_at == board.now() + sessions.SILENT
    with pytest.raises(Refused, match="legal: idle, active"):
        await sessions.report(board.ledger, "one", state="asleep")
    with pytest.raises(NotFound):
        await sessions.report(board.ledger, "nobody", state="idle")


async def test_one_that_is_silent_expires_exactly_at_the_end(board: Board) -> None:
    row = await board.session()
    await board.task()
    board.clock.set(row.expires_at)
    before = board.everything()
    with pytest.raises(NothingClaimable, match="silent since 2026-01-15T12:00:00"):
        await board.claim()
    assert board.everything() == before  # asking does not revive it

    await sessions.report(board.ledger, "one", state="idle")
    board.clock.set((await board.of()).expires_at - INSTANT)

    assert (await board.claim()).run.status == "claimed"


async def test_its_expiry_does_not_end_its_lease(board: Board) -> None:
    claimed = await board.claimed(lease="1h")
    board.clock.move(timedelta(minutes=59))
    assert (await board.of()).expires_at <= board.now()
    assert await board.sweep() == []

    await claims.complete(board.ledger, claimed.run.id, claimed.token)

    assert (await board.of()).expires_at == board.now() + sessions.SILENT


async def test_removed_its_run_is_queued_again(board: Board) -> None:
    claimed = await board.claimed()
    board.clock.move(timedelta(seconds=5))

    await sessions.remove(board.ledger, "one")

    with pytest.raises(NotFound):
        await board.of()
    row = await board.run(claimed.run.id)
    assert (row.status, row.session_id, row.queued_at) == ("queued", None, board.now())
    event = (await board.events(row.id))[-1]
    assert (event.event, event.session, event.reason) == (
        "recovered",
        "one",
        "its session was removed",
    )
    await board.session("two")
    assert (await board.claim("two")).run.id == row.id
    with pytest.raises(NotFound):
        await sessions.remove(board.ledger, "one")


async def test_one_that_somebody_is_connected_to_is_there(board: Board) -> None:
    one, two = await board.session("one"), await board.session("two")
    board.clock.move(timedelta(minutes=14))
    until = board.now() + timedelta(seconds=45)

    await sessions.connected(board.ledger, [one.id, "nobody"], until)

    row = await board.of("one")
    assert (row.connected_until, row.expires_at) == (until, board.now() + sessions.SILENT)
    other = await board.of("two")
    assert (other.connected_until, other.expires_at) == (None, two.expires_at)
    heard = row.expires_at
    board.clock.move(timedelta(seconds=1))
    await sessions.connected(board.ledger, [one.id], board.now())  # it hung up
    row = await board.of("one")
    assert (row.connected_until, row.expires_at) == (board.now(), heard)


# --- whose they are


async def test_an_agent_registers_sessions_of_its_own_only(board: Board) -> None:
    with owners.acting_as(AGENT):
        row = await board.session("mine")
        assert (row.owner, row.agent) == ("agent:maria", "maria")
        assert (await board.session("mine", agent="maria")).id == row.id
        for other in ("otto", ""):
            with pytest.raises(Refused, match="is not yours"):
                await board.session("another", agent=other)


async def test_an_agent_sees_and_touches_its_own(board: Board) -> None:
    with owners.acting_as(OTHER):
        theirs = await board.session("theirs")
    with owners.acting_as(AGENT):
        await board.session("mine")
        before = board.everything()
        async with board.ledger.read() as session:
            assert [row.name for row in await sessions.every(session)] == ["mine"]
            with pytest.raises(NotFound):
                await sessions.find(session, "theirs")
        with pytest.raises(NotFound):
            await sessions.report(board.ledger, "theirs", state="active")
        with pytest.raises(NotFound):
            await sessions.remove(board.ledger, "theirs")
        await sessions.connected(board.ledger, [theirs.id], board.now() + timedelta(minutes=1))
        assert board.everything() == before

    async with board.ledger.read() as session:
        assert [row.name for row in await sessions.every(session)] == ["mine", "theirs"]
    await sessions.report(board.ledger, "theirs", state="active")
    assert (await board.of("theirs")).state == "active"


async def test_a_name_is_one_owners_until_it_is_expired_and_holds_nothing(board: Board) -> None:
    with owners.acting_as(OTHER):
        first = await board.session("one")
        await board.task()
        claimed = await board.claim("one", "1h")
    with owners.acting_as(AGENT):
        with pytest.raises(Refused, match='"one" is taken'):
            await board.session("one")
        board.clock.set(first.expires_at + timedelta(minutes=1))
        with pytest.raises(Refused, match='"one" is taken'):  # it holds a run
            await board.session("one")
    await claims.complete(board.ledger, claimed.run.id, claimed.token)
    board.clock.move(sessions.SILENT - INSTANT)
    with owners.acting_as(AGENT):
        with pytest.raises(Refused, match='"one" is taken'):
            await board.session("one")
        board.clock.move(INSTANT)

        row = await board.session("one")

    assert row.owner == "agent:maria"
    assert row.id != first.id
    with owners.acting_as(OTHER), pytest.raises(NotFound):
        await sessions.report(board.ledger, "one", state="idle")
