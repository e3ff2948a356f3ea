"""A thousand callbacks to a receiver that fails in every way, from senders that are killed."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from multiprocessing.process import BaseProcess

import pytest

from daybook.delivery import destinations, sending
from daybook.home import Home
from tests.e2e.delivery import senders
from tests.e2e.delivery.conftest import ReceiverProcess, ask, callbacks, pending, tries
from tests.unit.delivery.rows import OLD, signature
from tests.waiting import becomes_true
from tests.world.prefect_world import PrefectWorld

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(400)]

LANES, EACH = 20, 50
SENDERS = 3
HANGING = 200
"""More requests than one process sends at a time: without a limit for each queue they fill it."""
PATIENCE = 60.0


@pytest.fixture(scope="module", autouse=True)
def fork_server() -> Iterator[None]:
    """Preload the senders' modules in the process that forks them, and stop it at the end."""
    senders.CONTEXT.set_forkserver_preload(["tests.e2e.delivery.senders"])
    yield
    from multiprocessing import forkserver

    forkserver._forkserver._stop()  # type: ignore[attr-defined]


class Senders:
    """Three sender processes; `kill_one` kills a random one and starts a new one."""

    def __init__(self, world: PrefectWorld, home: Home, seed: int) -> None:
        self._world, self._home, self._chance = world, home, random.Random(seed)
        self._all = [self._begin() for _ in range(SENDERS)]
        self.killed = 0

    def _begin(self) -> BaseProcess:
        return senders.begin(self._world.ledger.address, self._world.clock, self._home.path)

    def kill_one(self) -> None:
        number = self._chance.randrange(SENDERS)
        self._end(number)
        self._all[number] = self._begin()

    def _end(self, number: int) -> None:
        self._all[number].kill()
        self._all[number].join()
        self.killed += 1

    def end(self) -> None:
        for number in range(SENDERS):
            self._end(number)


async def test_every_callback_is_delivered_after_the_receiver_recovers(
    world: PrefectWorld, receiver: ReceiverProcess, daybook_home: Home
) -> None:
    await destinations.add(world.client, "storm", receiver.address, secret=OLD, timeout=1)
    paths = [f"/{number}/{'gone' if number == 0 else 'hook'}" for number in range(LANES)]
    ids = await ask(world, *(f"{receiver.address}{path}" for path in paths * EACH))
    refused_ids = set(ids[::LANES])
    crew = Senders(world, daybook_home, seed=7)
    try:
        for mode in ("dead", "500", "hang", "429", "mixed"):
            await receiver.kill()
            receiver.says(mode)
            if mode != "dead":
                await receiver.start()
            if mode == "429":
                await destinations.rotate(world.client, "storm", world.ledger.now())
            for _ in range(3):
                before = await tries(world)
                world.passes(minutes=12)

                async def tried(before: int = before) -> bool:
                    return await tries(world) >= before + LANES // 2

                assert await becomes_true(tried, PATIENCE), (mode, before, await tries(world))
                crew.kill_one()
        receiver.says("well")
        for _ in range(60):
            with suppress(AssertionError):
                assert await becomes_true(lambda: _none(world), 3.0)
                break
            crew.kill_one()
            world.passes(minutes=12)
    finally:
        crew.end()
    assert crew.killed > 15

    rows = await callbacks(world)
    assert {id_ for id_, row in rows.items() if row.status == "delivered"} == set(ids) - refused_ids
    assert {id_ for id_, row in rows.items() if row.status == "failed"} == refused_ids
    assert {row.tries[-1]["status_code"] for id_, row in rows.items() if id_ in refused_ids} == {
        410
    }

    taken, numbers = set[str](), defaultdict[str, set[str]](set)
    times = defaultdict[str, set[str]](set)
    for each in receiver.got():
        headers = each["headers"]
        id_, stamp = headers["webhook-id"], headers["webhook-timestamp"]
        numbers[each["body"] + each["path"]].add(id_)
        times[id_].add(stamp)
        assert each["body"] == rows[id_].body
        if each["answer"] == "well":
            taken.add(id_)
            made = signature(OLD, id_, stamp, each["body"].encode())
            assert made in headers["webhook-signature"].split()
    assert taken == set(ids) - refused_ids
    assert all(len(same) == 1 for same in numbers.values())  # one id for each callback
    assert len(numbers) == len(ids)
    # Each try is stamped with its own time, by the ledger's clock.
    assert max(map(len, times.values())) > 1
    first = min(row.created_at for row in rows.values())
    for stamps in times.values():
        for stamp in stamps:
            assert datetime.fromtimestamp(int(stamp) + 1, UTC) >= first
            assert datetime.fromtimestamp(int(stamp), UTC) <= world.ledger.now()


async def _none(world: PrefectWorld) -> bool:
    return not await pending(world)


async def test_a_hanging_destination_does_not_delay_nineteen_others(
    world: PrefectWorld, receiver: ReceiverProcess, daybook_home: Home
) -> None:
    """The other callbacks are all delivered before the first try at the hanging one ends."""
    await destinations.add(world.client, "storm", receiver.address, timeout=45)
    hanging = await ask(world, *[f"{receiver.address}/hang"] * HANGING)
    sender = senders.begin(world.ledger.address, world.clock, daybook_home.path)

    async def hangs() -> bool:  # as many requests as one queue may have in flight
        return len(receiver.got()) >= sending.MAX_IN_FLIGHT_PER_QUEUE

    async def done() -> bool:
        return await pending(world) == HANGING

    try:
        assert await becomes_true(hangs, PATIENCE)
        paths = [f"/{number}/hook" for number in range(1, LANES)]
        others = await ask(world, *(f"{receiver.address}{path}" for path in paths * 20))
        assert await becomes_true(done, 40.0)
        rows = await callbacks(world)
        assert {rows[id_].attempts for id_ in hanging} == {0}
        assert {rows[id_].status for id_ in others} == {"delivered"}
    finally:
        sender.kill()
        sender.join()


async def test_a_callback_whose_sender_was_killed_is_sent_again_with_the_same_id(
    world: PrefectWorld, receiver: ReceiverProcess, daybook_home: Home
) -> None:
    receiver.says("hang")
    [id_] = await ask(world, f"{receiver.address}/hook")
    sender = senders.begin(world.ledger.address, world.clock, daybook_home.path)

    async def came(times: int = 1) -> bool:
        return len(receiver.got()) == times

    assert await becomes_true(came, PATIENCE)
    sender.kill()
    sender.join()
    receiver.says("well")
    sender = senders.begin(world.ledger.address, world.clock, daybook_home.path)
    try:
        world.passes(seconds=20)  # the killed sender's lease is still valid
        other = senders.begin(world.ledger.address, world.clock, daybook_home.path)
        other.kill()
        other.join()
        assert (await callbacks(world))[id_].attempts == 0
        world.passes(seconds=100)
        assert await becomes_true(lambda: _none(world), PATIENCE)
    finally:
        sender.kill()
        sender.join()
    assert [each["headers"]["webhook-id"] for each in receiver.got()] == [id_, id_]
    assert (await callbacks(world))[id_].attempts == 1
