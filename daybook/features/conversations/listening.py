"""The service of the keeper that listens to all accounts.

::

    leader ──► for each account:
               receive ──► store.put ──► confirm ──► receive …
                              │ handle             the service then delivers them no more
               the ends of runs, typing, and buttons that are no longer valid

Only the leader listens, so several keepers do not compete for an account. An account that does not
answer is tried again after a growing pause; its problem is recorded, and shown as a finding. A
change of the accounts starts all tasks anew.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, NoReturn

from daybook import home as homes
from daybook.delivery import buttons, pending
from daybook.errors import DaybookError, InvalidInput, Unreachable
from daybook.features.conversations import accounts, handling, store
from daybook.features.conversations.drafts import Drafts
from daybook.features.conversations.platform import (
    AccessRevoked,
    Account,
    AccountReplaced,
    Platform,
    PlatformError,
    UsedElsewhere,
)
from daybook.features.conversations.tables import SentRow
from daybook.keeper.services import Loop, Service
from daybook.ledger.engine import Ledger, sharing
from daybook.ledger.tables import OutboxRow
from daybook.resources.copied_documents import CopiedDocuments

log = logging.getLogger(__name__)

INTERVAL = timedelta(seconds=5)
"""Interval at which the accounts are read while there are none."""
CYCLE_SECONDS = 3_600.0
CHECK_SECONDS = 5.0
"""Interval at which the documents are checked for a change, and buttons for their validity."""
TYPING_SECONDS = 4.0
"""Interval at which a chat shows that an answer is being written, and the text so far."""
MIN_PAUSE_SECONDS = 1.0
MAX_PAUSE_SECONDS = 60.0
QUIET_POLLS = 12
"""Number of undisturbed polls, of up to half a minute, after which a conflict is over."""
MAX_CONFLICT_PAUSE_SECONDS = 900.0
"""Maximum pause while another program listens to the same account."""
SPREAD = 0.5
"""Random part of a pause, so that several accounts do not try at the same time."""


@dataclass
class ListeningState:
    """State between two cycles: the accounts as they were read last."""

    accounts: CopiedDocuments[Account] = field(
        default_factory=lambda: accounts.stored(homes.current_home())
    )


async def listen(ledger: Ledger, state: ListeningState) -> float | None:
    """Listen until the accounts change. Return at once if there are none."""
    stored = state.accounts
    await stored.update(ledger)
    await store.forget_accounts(ledger, stored.names)
    if not stored.built:
        return None
    listeners = (_Listener(ledger, each).run() for each in stored.built.values())
    with sharing(ledger), suppress(TimeoutError):
        async with asyncio.timeout(CYCLE_SECONDS):
            await _until_one_ends(_wait_for_change(ledger, stored), *listeners)
    return 0.0


async def _wait_for_change(ledger: Ledger, stored: CopiedDocuments[Account]) -> None:
    while True:
        await asyncio.sleep(CHECK_SECONDS)
        if await stored.update(ledger):
            return


async def _until_one_ends(*coroutines: Coroutine[Any, Any, object]) -> None:
    """Await the first end of a coroutine, and cancel the others. Raise its error, if any.

    A task group would raise an error of its tasks even if it was cancelled itself.
    """
    tasks = [asyncio.create_task(each) for each in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for each in done:
        each.result()


class _Listener:
    """Listens to one account. ``sleep`` waits for so many seconds after an error."""

    def __init__(
        self,
        ledger: Ledger,
        account: Account,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._ledger, self._account, self._sleep = ledger, account, sleep
        self._received, self._asked = asyncio.Event(), asyncio.Event()
        self._failures = self._conflicts = self._quiet = 0
        self._identity = ""
        self._is_connected, self._was_away, self._is_recorded = False, True, False

    async def run(self) -> None:
        """Listen until this task is cancelled; after an error, connect again after a pause.

        Return if the channel has another account by now, so that the accounts are read again.
        """
        while True:
            self._is_connected = False
            try:
                async with self._account.open() as platform:
                    await self._connected(platform)
            except AccountReplaced:
                return
            except (PlatformError, Unreachable, InvalidInput) as error:
                await self._pause(error)
            except Exception:
                log.exception(
                    "listening to %s failed", self._account.name, extra={"action": "pass_failed"}
                )
                await self._pause(DaybookError("an error of Daybook's, which its log has"))

    async def _connected(self, platform: Platform) -> None:
        """Do all work of a connection until one part of it fails; raise this error.

        If the account could not be reached before, messages that wait for it are sent now.
        """
        self._identity = await platform.identity()
        if not self._is_recorded:  # later, the channel may have another account, which stays
            await store.use_account(self._ledger, self._account)
            self._is_recorded = True
        self._is_connected = True
        if self._was_away:
            await pending.send_now(self._ledger, self._account.name)
            self._was_away = False
        parts = (self._receive, self._handle, self._follow, self._refresh_buttons)
        await _until_one_ends(*(each(platform) for each in parts))

    async def _receive(self, platform: Platform) -> NoReturn:
        name = self._account.name
        while True:
            async with self._ledger.read() as session:
                after = await store.position_of(
                    session, self._account, platform.position_lifetime, self._ledger.now()
                )
            updates = await platform.receive(after)
            if await store.put(self._ledger, name, updates, platform.position, self._account):
                self._received.set()
            await platform.confirm(updates)
            self._failures = 0
            self._quiet += 1
            if self._quiet >= QUIET_POLLS:
                self._conflicts = 0
            if not self._conflicts:
                await store.record_account(self._ledger, name, self._identity, "")

    async def _handle(self, platform: Platform) -> NoReturn:
        """Handle the stored updates, while others are received."""
        self._received.set()  # another leader may have stored some
        self._asked.set()  # and requested runs that have ended since
        while True:
            await self._received.wait()
            self._received.clear()
            if await handling.handle_new(self._ledger, self._account, platform):
                self._asked.set()

    async def _follow(self, platform: Platform) -> NoReturn:
        """Follow the requested runs to their ends; wait while there are none."""
        drafts = Drafts(self._ledger, platform)
        while True:
            await self._asked.wait()
            self._asked.clear()
            while True:
                if not await handling.finish_asked(self._ledger, self._account, platform, drafts):
                    break
                await asyncio.sleep(TYPING_SECONDS)

    async def _refresh_buttons(self, platform: Platform) -> NoReturn:
        while True:
            await remove_invalid_buttons(self._ledger, self._account, platform)
            await asyncio.sleep(CHECK_SECONDS)

    async def _pause(self, error: BaseException) -> None:
        """Record the problem, and wait, each time longer."""
        self._failures += 1
        self._was_away |= not self._is_connected
        problem = str(error)
        # A single failure, such as a lost connection, is no problem that a person has to know.
        if self._failures > 1 or isinstance(error, (AccessRevoked, UsedElsewhere, InvalidInput)):
            with suppress(Unreachable):
                await store.record_account(self._ledger, self._account.name, "", problem)
        log.log(
            logging.INFO if self._failures > 1 else logging.WARNING,
            "%s: %s",
            self._account.name,
            problem,
            extra={"action": "account_unreachable"},
        )
        pause = min(MIN_PAUSE_SECONDS * 2 ** min(self._failures - 1, 10), MAX_PAUSE_SECONDS)
        if isinstance(error, PlatformError):
            pause = max(pause, error.retry_after)
        if isinstance(error, AccessRevoked):
            pause = MAX_PAUSE_SECONDS
        elif isinstance(error, UsedElsewhere):
            # Two programs that poll with one token would end each other's polls for ever. So the
            # problem stays recorded until this one has polled undisturbed for a while.
            self._conflicts, self._quiet = self._conflicts + 1, 0
            pause = min(MAX_PAUSE_SECONDS * 2 ** (self._conflicts - 1), MAX_CONFLICT_PAUSE_SECONDS)
        await self._sleep(pause * (1 + SPREAD * random.random()))


async def remove_invalid_buttons(ledger: Ledger, account: Account, platform: Platform) -> None:
    """Remove the buttons of messages that have none any more, such as a decided question."""
    async with ledger.read() as session:
        shown = await store.with_buttons(session, account.name, ledger.now())
        invalid = list[SentRow]()
        for each in shown:
            message = await session.get(OutboxRow, each.outbox_id)
            if message is None or not await buttons.of(session, message):
                invalid.append(each)
    for each in invalid:
        try:
            await platform.remove_buttons(each.chat_id, each.message_id)
        except AccessRevoked:
            raise
        except PlatformError as error:
            if error.is_temporary:
                continue
        async with ledger.write() as session:
            await store.clear_buttons(session, each)


LOOPS = (
    Loop(
        interval=lambda: INTERVAL,
        services=(
            Service(
                "conversations",
                "hears what people write and press in chats, and answers",
                lambda context, _: partial(listen, context.ledger, ListeningState()),
                timeout=2 * CYCLE_SECONDS,
            ),
        ),
    ),
)
