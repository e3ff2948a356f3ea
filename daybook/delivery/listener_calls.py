"""Telling listeners of outcomes: each by itself, in order, and with an end (requirement 35).

::

    claim (lease, fence) ─► the listener, in a thread, `WITHIN` ─► record ─┬─ delivered
          ▲                                                                ├─ failed: it raised
          └── later, by `outbox.backoff`: `Temporary`, no end, not loaded ─┘

A listener is somebody's program in the keeper's process: it must not hold up what renews leases.
So it has a thread of its own, an `async def` a loop of its own in that; one that does not end is
left behind there, and its lane is paused as that of any destination that does not answer. A program
that listens itself has them called in its own loop (``at_home``). Who is stopped writes down what
was told, and gives back what was claimed and not told; who is killed leaves a lease, and the
listener is told again after it. One that ends whoever tells it does so `DEATHS` times.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from functools import partial
from typing import Any

from daybook import registry
from daybook.delivery import backoff, listeners, outbox, sending
from daybook.delivery.sending import Tried
from daybook.errors import Temporary, Unreachable
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Delivery
from daybook.ledger.tables import OutboxRow
from daybook.processes.ending import to_its_end

log = logging.getLogger(__name__)

WITHIN = 30.0
"""Seconds for one listener and outcome."""
GRACE = 1.0
"""Seconds more in which one that was cancelled may end."""
DEATHS = 5
"""So often it is begun to tell one outcome without an end that is known."""
LOOK = 1.0
"""Seconds between two looks at the other listeners while some are at work."""
LAST_WORDS = 5.0
"""Seconds in which who is stopped writes down what was told, and gives back what was not."""
LONGEST_ERROR = 2_000


class NoEnd(Exception):
    """It did not end in its time."""


class GivenUp(Exception):
    """It is not told any more."""


async def here() -> list[str]:
    """The names of all listeners of this process, sorted; it imports the modules of `plugins`."""
    found: list[str] = []

    def look() -> None:
        registry.look()
        found.extend(registry.here(registry.LISTENERS))

    await apart(look, WITHIN)
    return found


async def listen(
    ledger: Ledger,
    holder: str,
    names: Iterable[str],
    *,
    run_id: str | None = None,
    claims_for: float | None = None,
    within: float = WITHIN,
    at_home: bool = False,
) -> int:
    """Tell these listeners what is due, all or that of one run; returns how often one was told.

    After ``claims_for`` seconds none is begun; each ends ``within`` seconds. None waits for
    another. Where nothing can be told nothing is written. Raises `LedgerUnreachable`.
    """
    ends = None if claims_for is None else time.monotonic() + claims_for
    telling = _Telling(ledger, holder, run_id, ends, within, at_home=at_home)
    left, at_work = list(names), dict[str, asyncio.Task[bool]]()
    try:
        while True:
            if telling.goes_on():
                free = [name for name in left if name not in at_work]
                for name in await listeners.due(ledger, free):
                    at_work[name] = asyncio.create_task(telling.follow(name))
            if not at_work:
                return telling.told
            await asyncio.wait(at_work.values(), timeout=LOOK, return_when=asyncio.FIRST_COMPLETED)
            for name in [name for name, task in at_work.items() if task.done()]:
                if not await at_work.pop(name):
                    left.remove(name)  # another process was faster, or it is about other runs
    finally:
        telling.ends = 0.0  # a listener may take no notice of being cancelled
        for task in at_work.values():
            task.cancel()
        await asyncio.gather(*at_work.values(), return_exceptions=True)


class _Telling:
    """One pass over some listeners."""

    def __init__(
        self,
        ledger: Ledger,
        holder: str,
        run_id: str | None,
        ends: float | None,
        within: float,
        *,
        at_home: bool,
    ) -> None:
        self.told, self.ends = 0, ends
        self._ledger, self._holder, self._run_id = ledger, holder, run_id
        self._within, self._at_home = within, at_home

    def goes_on(self) -> bool:
        """Whether anyone is still begun to be told."""
        return self.ends is None or time.monotonic() < self.ends

    async def follow(self, name: str) -> bool:
        """Tell one listener what is due, one outcome after the other; whether anything was."""
        lane, told = outbox.lane_of_listener(name), False
        while self.goes_on() and await self._next(lane):
            told = True
        return told

    async def _next(self, lane: str) -> bool:
        rows: list[OutboxRow] = []
        try:
            await _written(self._claim(lane, rows))
            if not rows:
                return False
            tried = await self._tried(rows[0])
        except BaseException:
            if rows:
                await to_its_end(asyncio.create_task(self._give_back(rows)))
            raise
        self.told += 1
        await _written(sending.record(self._ledger, [tried]))
        return True

    async def _claim(self, lane: str, rows: list[OutboxRow]) -> None:
        rows += await sending.claim(
            self._ledger, self._holder, most=1, run_id=self._run_id, wanted=lane.__eq__
        )

    async def _give_back(self, rows: list[OutboxRow]) -> None:
        with suppress(TimeoutError, Unreachable):
            async with asyncio.timeout(LAST_WORDS):
                await sending.release(self._ledger, rows)

    async def _tried(self, row: OutboxRow) -> Tried:
        began = time.perf_counter()
        error = await self._called(row)
        seconds = time.perf_counter() - began
        if error is None:
            return Tried(row.id, row.fence, Delivery.DELIVERED, None, seconds)
        told = _words(error)
        log.warning(
            "the listener %s failed: %s",
            row.address,
            told,
            extra={"action": "listener_failed", "listener": row.address},
        )
        if not isinstance(error, Temporary | NoEnd | registry.Unusable):
            # It was told. What it made of it is its own affair, and says nothing of the next one.
            return Tried(
                row.id, row.fence, Delivery.FAILED, None, seconds, error=told, went_out=False
            )
        asked = error.retry_after if isinstance(error, Temporary) else None
        again = backoff.next_try(row, self._ledger.now(), asked, backoff.TRIES)
        status = Delivery.FAILED if again is None else Delivery.PENDING
        return Tried(row.id, row.fence, status, again, seconds, error=told)

    async def _called(self, row: OutboxRow) -> BaseException | None:
        """What it raised, if anything, or why it was not called."""
        if row.retried_at is None and row.fence - row.attempts > DEATHS:
            return GivenUp(f"given up: {DEATHS} times nobody lived to say what became of it")
        began, body, found = time.monotonic(), json.loads(row.body), list[Callable[..., Any]]()
        try:
            if not self._at_home:  # one thread and one time: to import it may last as well
                await apart(lambda: _found(row.address)(body), self._within)
                return None
            await apart(lambda: found.append(_found(row.address)), self._within)
            call, left = partial(found[0], body), self._within - (time.monotonic() - began)
            if registry.is_async(found[0]):
                return await _at_home(call, left)
            await apart(call, left)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            return error
        return None


async def _written(work: Coroutine[Any, Any, None]) -> None:
    """Let it be done to its end; where this is stopped, for `LAST_WORDS` from then on."""
    task, later = asyncio.create_task(work), asyncio.get_running_loop().call_later
    await to_its_end(task, cancelled=lambda: later(LAST_WORDS, task.cancel))


def _found(name: str) -> Callable[..., Any]:
    """The listener of that name, which may have to be imported; raises `Unusable`."""
    function = registry.find(registry.LISTENERS, name)
    if function is None:
        raise registry.Unusable("it is not registered here")
    return function


async def _at_home(call: Callable[[], Any], within: float) -> BaseException | None:
    try:
        await _awaited(call(), within)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return error  # its own
    except Exception as error:
        return error
    return None


async def _awaited(work: Any, within: float) -> None:
    try:
        async with asyncio.timeout(within) as ends:
            await work
    except TimeoutError as error:
        if ends.expired():
            raise NoEnd(f"no end within {within:g} s; it was cancelled") from error
        raise


async def apart(call: Callable[[], Any], within: float) -> None:
    """Let ``call`` be done in a thread of its own, and what it returns be awaited there.

    Raises what it raises; what would end a thread, or a task, as a `RuntimeError`. Raises `NoEnd`
    where it does not end: then it is left behind, and ends with the process.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[BaseException | None] = loop.create_future()

    def tell(error: BaseException | None) -> None:
        if not ended.done():
            ended.set_result(error)

    def run() -> None:
        error: BaseException | None = None
        try:
            if inspect.isawaitable(found := call()):
                asyncio.run(_awaited(found, within))
        except Exception as wrong:
            error = wrong
        except BaseException as wrong:
            error = RuntimeError(_words(wrong))
        with suppress(RuntimeError):  # the loop is closed: nobody asks any more
            loop.call_soon_threadsafe(tell, error)

    threading.Thread(target=run, name="daybook-listener", daemon=True).start()
    try:
        async with asyncio.timeout(within + GRACE):
            error = await ended
    except TimeoutError:
        raise NoEnd(f"no end within {within:g} s; it runs on in a thread") from None
    if error is not None:
        raise error


def _words(error: BaseException) -> str:
    if isinstance(error, NoEnd | GivenUp | registry.Unusable):
        return str(error)
    return f"{type(error).__name__}: {error}"[:LONGEST_ERROR]
