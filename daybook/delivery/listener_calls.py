"""Calls to listeners: one call at a time for each listener, with a timeout.

::

    claim (lease, fence) ─► listener in a thread, with a timeout ─► record ─┬─ delivered
          ▲                                                                 ├─ failed: it raised
          └─ retry by `delivery.backoff`: `Temporary`, timeout, not loaded ─┘

No listener waits for another listener. Listeners are code of other authors, and in the keeper's
process they must not delay the renewal of leases. So each call runs in its own thread, and an
`async def` listener in its own event loop in that thread. In a program that uses
`daybook.listening` (``in_this_loop``), an `async def` listener runs in the program's event loop,
and any other listener in a thread. At its timeout, an asynchronous call is cancelled. If a call
still does not end, its thread is abandoned. If several calls in a row fail with an error that
allows a retry, the listener's queue is paused, like the queue of any destination that does not
respond. A listener receives its outcomes in order, but a retry may come after later outcomes.

If a process is stopped, it records the completed calls, and releases the rows that it claimed but
did not deliver. If a process is killed, its rows stay leased. When a lease expires, the listener is
called again. A listener that crashes its process is called at most `MAX_CRASHES` times for one
outcome, unless the operator retries the call.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any

from daybook import registry
from daybook.delivery import backoff, outbox
from daybook.delivery.dispatcher import dispatch
from daybook.delivery.outbox import QueueKind
from daybook.delivery.sending import DeliveryResult
from daybook.errors import Temporary
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Delivery
from daybook.ledger.tables import OutboxRow

log = logging.getLogger(__name__)

LISTENER_TIMEOUT_SECONDS = 30.0
"""Timeout of one call."""
CANCEL_GRACE_SECONDS = 1.0
"""Additional time for a cancelled call to end."""
MAX_CRASHES = 5
"""Maximum number of claims of one row without a recorded result, including released claims."""
MAX_ERROR_LENGTH = 2_000


class ListenerTimeout(Exception):
    """The listener did not end within its timeout."""


class TooManyCrashes(Exception):
    """Too many calls about this outcome had no result, so the listener is not called again."""


async def load_names() -> list[str]:
    """Import the modules in the setting `plugins`. Return the names of all listeners, sorted.

    Raise `InvalidInput` for an invalid setting, and `ListenerTimeout` if the imports do not end
    within `LISTENER_TIMEOUT_SECONDS`.
    """
    names: list[str] = []

    def collect() -> None:
        registry.find_listeners()
        names.extend(registry.known_names(registry.LISTENERS))

    await run_in_thread(collect, LISTENER_TIMEOUT_SECONDS)
    return names


async def call_listeners(
    ledger: Ledger,
    holder: str,
    names: Iterable[str],
    *,
    run_id: str | None = None,
    claims_for: float | None = None,
    within: float = LISTENER_TIMEOUT_SECONDS,
    in_this_loop: bool = False,
) -> int:
    """Call these listeners for all due outcomes, or only for the outcomes of the run ``run_id``.

    Return the number of recorded attempts. Start no call after ``claims_for`` seconds, and wait for
    a call at most ``within`` seconds. No listener waits for another listener. If no call is due,
    write nothing to the ledger. Raise `LedgerUnreachable`.
    """
    queues = {outbox.queue_of_listener(name) for name in names}
    called = await dispatch(
        ledger,
        holder,
        {QueueKind.LISTENER: ListenerSender(ledger.now, within, in_this_loop=in_this_loop)},
        accepts=queues.__contains__,
        run_id=run_id,
        claims_for=claims_for,
        # Each listener has one call at a time, so at most half are in use, and claims continue.
        most=2 * len(queues),
    )
    return called.delivered + called.failed + called.again


class ListenerSender:
    """Calls listeners with a timeout of ``within`` seconds. ``now`` returns the ledger's time.

    With ``in_this_loop``, an `async def` listener runs in the caller's event loop.
    """

    def __init__(self, now: Callable[[], datetime], within: float, *, in_this_loop: bool) -> None:
        self._now, self._within, self._in_this_loop = now, within, in_this_loop

    async def send(self, row: OutboxRow) -> DeliveryResult:
        """Call the row's listener with the outcome in the row."""
        started = time.perf_counter()
        error = await self._call(row)
        seconds = time.perf_counter() - started
        if error is None:
            return DeliveryResult(row.id, row.fence, Delivery.DELIVERED, None, seconds)
        problem = _error_text(error)
        log.warning(
            "Listener %s failed: %s",
            row.address,
            problem,
            extra={"action": "listener_failed", "listener": row.address},
        )
        # Any other error is the listener's own. The listener was called, and may accept the next
        # outcome.
        retried = isinstance(error, Temporary | ListenerTimeout | registry.UnusableFunction)
        asked = error.retry_after if isinstance(error, Temporary) else None
        return backoff.failed(row, self._now(), problem, seconds, final=not retried, asked=asked)

    async def _call(self, row: OutboxRow) -> BaseException | None:
        """Return the error that the listener raised, or that prevented the call.

        Return None if it succeeded.
        """
        if row.retried_at is None and row.fence - row.attempts > MAX_CRASHES:
            return TooManyCrashes(
                f"gave up: {MAX_CRASHES} calls ended without a result, because their process died "
                "or was stopped"
            )
        started, body = time.monotonic(), json.loads(row.body)
        functions: list[Callable[..., Any]] = []
        try:
            if not self._in_this_loop:
                # One thread and one timeout also include the import, which may be slow.
                await run_in_thread(lambda: _found(row.address)(body), self._within)
                return None
            await run_in_thread(lambda: functions.append(_found(row.address)), self._within)
            call = partial(functions[0], body)
            time_left = self._within - (time.monotonic() - started)
            if registry.is_async(functions[0]):
                return await _in_this_loop(call, time_left)
            await run_in_thread(call, time_left)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            return error
        return None


def _found(name: str) -> Callable[..., Any]:
    """Return the listener with this name; import it if necessary. Raise `UnusableFunction`."""
    function = registry.find(registry.LISTENERS, name)
    if function is None:
        raise registry.UnusableFunction("it is not registered in this process")
    return function


async def _in_this_loop(call: Callable[[], Any], within: float) -> BaseException | None:
    try:
        await _awaited(call(), within)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return error  # the listener itself raised this error
    except Exception as error:
        return error
    return None


async def _awaited(work: Any, within: float) -> None:
    try:
        async with asyncio.timeout(within) as ends:
            await work
    except TimeoutError as error:
        if ends.expired():
            raise ListenerTimeout(
                f"it did not end within {within:g} s and was cancelled"
            ) from error
        raise


async def run_in_thread(call: Callable[[], Any], within: float) -> None:
    """Run ``call`` in its own thread. If its result is awaitable, await the result there.

    Raise the error of ``call``. An error that would end a thread or task is converted to a
    `RuntimeError`. Raise `ListenerTimeout` if ``call`` does not end within ``within`` seconds. If
    its thread cannot be cancelled, the thread is abandoned and ends with the process.
    """
    loop = asyncio.get_running_loop()
    result: asyncio.Future[BaseException | None] = loop.create_future()

    def set_result(error: BaseException | None) -> None:
        if not result.done():
            result.set_result(error)

    def run() -> None:
        error: BaseException | None = None
        try:
            if inspect.isawaitable(returned := call()):
                asyncio.run(_awaited(returned, within))
        except Exception as raised:
            error = raised
        except BaseException as raised:
            error = RuntimeError(_error_text(raised))
        with suppress(RuntimeError):  # the loop is closed, so no caller waits any more
            loop.call_soon_threadsafe(set_result, error)

    threading.Thread(target=run, name="daybook-listener", daemon=True).start()
    try:
        async with asyncio.timeout(within + CANCEL_GRACE_SECONDS):
            error = await result
    except TimeoutError:
        raise ListenerTimeout(
            f"it did not end within {within:g} s and still runs in a thread"
        ) from None
    if error is not None:
        raise error


def _error_text(error: BaseException) -> str:
    if isinstance(error, ListenerTimeout | TooManyCrashes | registry.UnusableFunction):
        return str(error)
    return f"{type(error).__name__}: {error}"[:MAX_ERROR_LENGTH]
