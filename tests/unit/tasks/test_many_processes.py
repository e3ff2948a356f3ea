"""Twelve processes at one queue, and at one token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta

import pytest

from daybook.tasks import queue
from tests import side_by_side
from tests.unit.tasks import claimers
from tests.unit.tasks.conftest import Board

pytestmark = [pytest.mark.anyio, pytest.mark.dialect]

TWELVE = 12
ENDS = {"complete": "completed", "fail": "failed", "release": "queued"}


@pytest.fixture(scope="module", autouse=True)
def fork_server() -> Iterator[None]:
    """The process that all others are forked from: it has imported the ledger."""
    side_by_side.CONTEXT.set_forkserver_preload(["tests.unit.tasks.claimers"])
    yield
    from multiprocessing import forkserver

    forkserver._forkserver._stop()  # type: ignore[attr-defined]


async def test_twelve_claim_three_runs(board: Board) -> None:
    runs = {(await board.task(f"task {number}")).id for number in range(3)}
    names = [f"session {number}" for number in range(TWELVE)]
    ids = {(await board.session(name)).id: name for name in names}

    told = claimers.at_once(board.ledger.address, [("claim", name) for name in names], board.clock)

    assert len({each.pid for each in told}) == TWELVE
    won = {each.run_id: each.act[1] for each in told if each.run_id}
    assert won.keys() == runs
    lost = [each for each in told if not each.run_id]
    assert Counter(each.code for each in lost) == {"nothing_claimable": 9}
    assert {each.why for each in lost} == {"nothing is claimable: no task is queued"}
    rows = await board.runs()
    assert {row.id: ids[row.session_id or ""] for row in rows} == won
    assert [(row.status, row.fence) for row in rows] == [("claimed", 1)] * 3
    for run_id in runs:
        events = [event.event for event in await board.events(run_id)]
        assert events.count("claimed") == 1


async def test_twelve_claims_of_one_session_get_one_run(board: Board) -> None:
    for number in range(TWELVE):
        await board.task(f"task {number}")
    await board.session("one")

    told = claimers.at_once(board.ledger.address, [("claim", "one")] * TWELVE, board.clock)

    assert sum(bool(each.run_id) for each in told) == 1
    assert Counter(each.code for each in told) == {"": 1, "nothing_claimable": 11}
    statuses = Counter(row.status for row in await board.runs())
    assert statuses == {"claimed": 1, "queued": TWELVE - 1}


async def test_twelve_end_one_claim_and_one_of_them_did(board: Board) -> None:
    claimed = await board.claimed()
    acts = [(kind, claimed.run.id, claimed.token) for kind in ENDS for _ in range(TWELVE // 3)]

    told = claimers.at_once(board.ledger.address, acts, board.clock)

    (won,) = (each for each in told if each.run_id)
    assert Counter(each.code for each in told) == {"": 1, "token_refused": 11}
    row = await board.run(claimed.run.id)
    assert row.status == ENDS[won.act[0]]
    ends = [event.event for event in await board.events(row.id)]
    past = {"complete": "completed", "fail": "failed", "release": "released"}[won.act[0]]
    assert sorted(ends) == sorted(["added", "claimed", past])


@pytest.mark.slow
async def test_twelve_of_whom_eleven_come_with_tokens_that_are_over(board: Board) -> None:
    first = await board.claimed("one", "60s")
    board.clock.move(timedelta(seconds=60))
    assert await board.sweep() == [first.run.id]
    await board.session("two")
    second = await board.claim("two")
    await queue.recover(board.ledger, first.run.id)
    await board.session("three")
    third = await board.claim("three")
    assert {each.run.id for each in (first, second, third)} == {first.run.id}
    over = [("complete", first.run.id, each.token) for each in (first, second)] * 5
    acts = [*over, ("fail", first.run.id, first.token), ("complete", third.run.id, third.token)]

    told = claimers.at_once(board.ledger.address, acts, board.clock)

    (won,) = (each for each in told if each.run_id)
    assert won.act == acts[-1]
    row = await board.run(first.run.id)
    assert (row.status, row.done_by, row.fence) == ("completed", "three", 3)
