"""Handling of stored updates: each is handled once, in the order of its channel.

::

    NEW ──► decide ──► do it, under the update's id ──► DONE, and the answer in the outbox
                          │ asks an agent                          one transaction
                          └──────────────────────────► ASKED ──► the run ends ──► DONE

What is done is idempotent for the update's id: a run is requested with it, a button gets it, and
the answer has it in its key. So after a `kill -9` at any line, the next leader handles the update
again, and neither a run nor an answer exists twice. A run that ends without an answer for the chat,
because it was cancelled or its agent wrote nothing, gets one here.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook import api, owners
from daybook.delivery import buttons, outbox
from daybook.delivery.buttons import Press
from daybook.errors import DaybookError, InvalidInput, NotFound, Unreachable
from daybook.features.conversations import (
    chat_commands,
    people,
    pictures,
    quiet_hours,
    store,
    words,
)
from daybook.features.conversations.drafts import Drafts
from daybook.features.conversations.people import Role
from daybook.features.conversations.platform import Account, Platform, PlatformError, Update
from daybook.features.conversations.store import UpdateState
from daybook.features.conversations.tables import SentRow, UpdateRow
from daybook.features.conversations.words import Action, Answered, Intent
from daybook.ledger.engine import Ledger
from daybook.ledger.states import TERMINAL, Status
from daybook.ledger.tables import OutboxRow, RunRow
from daybook.names import Id
from daybook.owners import Actor
from daybook.policies.policy import EVERY_TOOL
from daybook.runs import rows
from daybook.runs.claim_requests import session_request_key
from daybook.short_text import one_line

log = logging.getLogger(__name__)

MAX_ACTION = 200
MAX_ERROR = 1_000
BEGAN = "began: "
"""Beginning of the action of an update whose button is being pressed."""
VIA = "chat"
"""`Actor.via` of the people in chats. It is no name of a channel, which could be `mcp` or `run`."""
_BRACES = re.compile(r"\{(?=\{)")
MAX_ATTEMPTING = timedelta(hours=1)
"""Age from which an update is no longer handled again because a server does not answer."""
MAX_READING = timedelta(minutes=2)
"""The same because its pictures cannot be read from the service; other messages wait for it."""
MAX_RECORDING = timedelta(seconds=10)
"""Maximum time for which an update waits for the record of the message that it answers."""
RECORDING_CHECK_SECONDS = 0.1

_ENDS = {
    Status.CANCELLED: "Stopped.",
    Status.SUCCEEDED: "The agent has nothing to say.",
}


@dataclass(frozen=True)
class Handled:
    """What was done: a text for the chat ("" for none), for a record, and the requested run."""

    text: str = ""
    action: str = ""
    run_id: str | None = None
    notice: str = ""


async def handle_new(ledger: Ledger, account: Account, platform: Platform) -> int:
    """Handle the new updates of an account. Return how many have requested a run.

    Raise `Unreachable` if Prefect or the ledger does not answer, and `PlatformError` if the service
    does not give a picture now; the update stays new.
    """
    async with ledger.read() as session:
        rows = await store.in_state(session, account.name, UpdateState.NEW)
    asked = 0
    for row in rows:
        asked += await _handle(ledger, account, platform, row)
    return asked


async def _handle(ledger: Ledger, account: Account, platform: Platform, row: UpdateRow) -> bool:
    """Handle one update. Return whether it has requested a run."""
    press_id, result, decision = "", Handled(), Intent(Action.IGNORE)
    handler: _Handler | None = None
    try:
        update = store.update_of(row)
        press_id = update.press_id
        handler = await _prepared(ledger, account, platform, row, update)
        decision = words.decide(update, handler.role, handler.answered)
        if decision.action is Action.ASK:
            with suppress(PlatformError):
                await platform.show_typing(row.chat_id, row.message_id)
        with owners.acting_as(Actor(user_id=handler.name, via=VIA)):
            result = await handler.do(decision)
    except DaybookError as error:
        limit = _max_attempting(error)
        if limit and row.received_at > ledger.now() - limit:
            raise
        result = await _failed(ledger, row, decision, str(error), f"{decision.action}: {error}")
    except Exception as error:  # one update must not stop the others
        log.exception("an update was not handled", extra={"action": "update_failed"})
        result = await _failed(
            ledger, row, decision, "", f"{decision.action}: {type(error).__name__}"
        )
    if press_id:
        with suppress(PlatformError):
            await platform.acknowledge(press_id, result.notice or result.text)
    is_person = handler is not None and handler.role is not Role.STRANGER
    await _finish(ledger, row, decision, result, is_person=is_person)
    return result.run_id is not None


def _max_attempting(error: DaybookError) -> timedelta | None:
    """Return the age up to which an update is handled again after an error; None if it is not."""
    if isinstance(error, PlatformError) and error.is_temporary:
        return MAX_READING
    return MAX_ATTEMPTING if isinstance(error, Unreachable) else None


async def _prepared(
    ledger: Ledger, account: Account, platform: Platform, row: UpdateRow, update: Update
) -> _Handler:
    async with ledger.read() as session:
        person = await people.find(session, row.channel, row.person_id)
    person = person if update.is_verified else None
    role = people.role_of(person)
    answered = message = None
    if role is not Role.STRANGER:
        await _wait_until_recorded(ledger, row, update)
        async with ledger.read() as session:
            answered, message = await _answered(session, row, update)
    name = person.name if person else ""
    return _Handler(ledger, account, platform, row, update, role, name, answered, message)


async def _failed(
    ledger: Ledger, row: UpdateRow, decision: Intent, why: str, action: str
) -> Handled:
    """Return the result of an update that failed; of the run that it may have requested before."""
    if decision.action is Action.ASK:
        async with ledger.read() as session:
            key = session_request_key(store.answer_key(row.channel, row.id))
            run = await rows.find(session, None, key)
        if run is not None:
            return Handled("", action, run.id)
    return Handled(f"That did not work: {why}" if why else "That did not work.", action)


async def _finish(
    ledger: Ledger, row: UpdateRow, decision: Intent, result: Handled, *, is_person: bool
) -> None:
    async with ledger.write() as session:
        stored = await store.get_update(session, row.channel, row.id)
        if stored is None or stored.state != UpdateState.NEW:
            return
        now = ledger.now()
        stored.state = UpdateState.ASKED if result.run_id else UpdateState.DONE
        stored.run_id, stored.handled_at = result.run_id, now
        stored.action = one_line(result.action or decision.action, MAX_ACTION)
        if decision.action in (Action.IGNORE, Action.STRANGER, Action.PAIR):
            stored.content = {}  # a text that is not for Daybook, or a code
        session.add(stored)
        if result.text:
            await store.enqueue(session, stored, result.text, now)
        person = await people.find(session, row.channel, row.person_id)
        if is_person and person is not None:
            person.used_at = now
            session.add(person)


async def _wait_until_recorded(ledger: Ledger, row: UpdateRow, update: Update) -> None:
    """Wait until the message that the person answers is recorded.

    A person may answer a message before its sender has recorded it.
    """
    if not (update.answers or update.thread_id):
        return
    end = ledger.now() + MAX_RECORDING
    while ledger.now() < end:
        async with ledger.read() as session:
            if await _find_sent(session, row, update):
                return
            if not await store.is_sending(session, row.channel, ledger.now()):
                return
        await asyncio.sleep(RECORDING_CHECK_SECONDS)


async def _find_sent(session: AsyncSession, row: UpdateRow, update: Update) -> SentRow | None:
    if update.answers:
        return await store.find_sent(session, row.channel, row.chat_id, update.answers)
    if update.thread_id:
        return await store.find_in_thread(session, row.channel, row.chat_id, update.thread_id)
    return None


async def _answered(
    session: AsyncSession, row: UpdateRow, update: Update
) -> tuple[Answered | None, OutboxRow | None]:
    """Return the message that an update answers or whose button it presses; None if unknown."""
    sent = await _find_sent(session, row, update)
    message = await session.get(OutboxRow, sent.outbox_id) if sent else None
    if message is None:
        return None, None
    run = await session.get(RunRow, message.run_id) if message.run_id else None
    found = await buttons.of(session, message)
    has_session = bool(run and run.session_id)
    return Answered(found, has_session, sent.words.split() if sent else ()), message


@dataclass
class _Handler:
    """Does what a decision about one update says."""

    ledger: Ledger
    account: Account
    platform: Platform
    row: UpdateRow
    update: Update
    role: Role
    name: str
    answered: Answered | None
    message: OutboxRow | None

    async def do(self, decision: Intent) -> Handled:
        does: dict[Action, Callable[[Intent], Awaitable[Handled]]] = {
            Action.PAIR: self._pair,
            Action.STRANGER: self._stranger,
            Action.REFUSE: self._refuse,
            Action.PRESS: self._press,
            Action.COMMAND: self._command,
            Action.STOP: self._stop,
            Action.ASK: self._ask,
        }
        return await does[decision.action](decision) if decision.action in does else Handled()

    @property
    def request_id(self) -> str:
        return store.answer_key(self.row.channel, self.row.id)

    async def _pair(self, decision: Intent) -> Handled:
        async with self.ledger.write() as session:
            now = self.ledger.now()
            role = await people.pair(session, self.row.channel, self.update, now)
            if role is not None:
                # In the transaction that uses the code up: a second attempt would find none.
                text = f"You are paired as {role}. Write /help to see what you can do."
                await store.enqueue(session, self.row, text, now)
                return Handled("", f"paired as {role}")
        if self.role is not Role.STRANGER:
            return Handled("This code is wrong or too old.", "wrong code")
        return replace(await self._stranger(decision), action="wrong code")

    async def _stranger(self, decision: Intent) -> Handled:
        async with self.ledger.write() as session:
            now = self.ledger.now()
            if not await people.may_answer_stranger(session, self.row.channel, self.update, now):
                return Handled("", "stranger")
            await store.enqueue(session, self.row, words.STRANGER_TEXT, now)
        return Handled("", "stranger")

    async def _refuse(self, decision: Intent) -> Handled:
        return Handled(decision.text, f"refused: {decision.text}")

    async def _press(self, decision: Intent) -> Handled:
        button = self.answered.button(decision.word) if self.answered else None
        if button is None or self.message is None:
            if self.row.action.startswith(BEGAN):  # the process died after the button was pressed
                done = self.row.action.removeprefix(BEGAN)
                return Handled(f"Done: {done}", done, notice="Done.")
            gone = "This is no longer possible: it was decided, or it has changed."
            return Handled("" if self.update.press_id else gone, "button gone", notice=gone)
        what = f"{button.label}: {self.message.subject}"
        async with self.ledger.write() as session:
            stored = await store.get_update(session, self.row.channel, self.row.id)
            if stored is not None:
                stored.action = one_line(f"{BEGAN}{what}", MAX_ACTION)
                session.add(stored)
        by = f"{self.name} ({self.row.channel})"
        press = Press(self.request_id, by, self.row.channel, self.row.chat_id, decision.text)
        return Handled(await button.press(press), what, notice=button.label)

    async def _command(self, decision: Intent) -> Handled:
        if decision.word == "quiet":
            return await self._quiet(decision)
        text = await chat_commands.answer(decision.word, decision.text, self.request_id, self.role)
        return Handled(text, f"/{decision.word} {decision.text}")

    async def _quiet(self, decision: Intent) -> Handled:
        """Set or show the quiet hours of the person who writes."""
        async with self.ledger.write() as session:
            person = await people.find(session, self.row.channel, self.row.person_id)
            assert person is not None
            if decision.text:
                await quiet_hours.change(session, person, decision.text, self.ledger.now())
            hours = person.quiet_hours
        text = f"Quiet hours: {hours}." if hours else "There are no quiet hours."
        return Handled(text, f"/quiet {decision.text}")

    async def _stop(self, decision: Intent) -> Handled:
        """Cancel the runs that this chat waits for: a reader only those of the reader."""
        async with self.ledger.read() as session:
            asked = await store.in_state(session, self.row.channel, UpdateState.ASKED)
        mine = [each for each in asked if each.chat_id == self.row.chat_id]
        if self.role is not Role.OPERATOR:
            mine = [each for each in mine if each.person_id == self.row.person_id]
        stopped = 0
        for each in mine:
            with suppress(InvalidInput, NotFound):  # it has just ended
                await api.runs.cancel(Id(str(each.run_id)), within=0.0)
                stopped += 1
        return Handled("" if stopped else "Nothing is being answered here.", f"stopped {stopped}")

    async def _ask(self, decision: Intent) -> Handled:
        # A person's message is a text, and no template that could read other jobs' answers.
        prompt = _BRACES.sub("{ ", decision.text)
        if self.update.pictures:
            found = await pictures.read(self.ledger, self.platform, self.request_id, self.update)
            prompt = "\n\n".join(filter(None, (prompt, "\n".join(each.note for each in found))))
        place = {"channel": self.row.channel, "chat_id": self.row.chat_id}
        # Each call of a tool then waits for an operator.
        approve = () if self.role is Role.OPERATOR else (EVERY_TOOL,)
        if decision.continues and self.message is not None and self.message.run_id:
            async with self.ledger.read() as session:
                asked = await session.get_one(RunRow, self.message.run_id)
            run = await api.sessions.reply(
                str(asked.session_id), prompt, request_id=self.request_id, approve=approve, **place
            )
        else:
            run = await api.sessions.start(
                prompt,
                agent=self.account.agent,
                request_id=self.request_id,
                continues_chat=decision.word != "ask",
                **place,
            )
        return Handled("", f"asked {run.agent or self.account.agent}", run.id)


# --- the ends of runs


async def finish_asked(ledger: Ledger, account: Account, platform: Platform, drafts: Drafts) -> int:
    """Finish the updates whose run has ended; show that the others are being answered.

    Return the number of updates that are not finished.
    """
    async with ledger.read() as session:
        rows = await store.in_state(session, account.name, UpdateState.ASKED)
        runs = await store.requested_runs(session, rows)
    answering, waiting = list[UpdateRow](), 0
    for row in rows:
        run = runs.get(row.run_id or "")
        if run is not None and run.state not in TERMINAL:
            waiting += 1
            if run.state is Status.RUNNING:
                answering.append(row)
        else:
            is_done = await drafts.remove(row)
            await _end(ledger, row, run, is_done=is_done)
            waiting += not is_done
    for chat_id, message_id in dict.fromkeys((row.chat_id, row.message_id) for row in answering):
        with suppress(PlatformError):
            await platform.show_typing(chat_id, message_id)
    await drafts.show(answering)
    return waiting


async def _end(ledger: Ledger, row: UpdateRow, run: RunRow | None, *, is_done: bool) -> None:
    """Enqueue the message about the end of a run that has no answer; finish the update if done."""
    async with ledger.write() as session:
        stored = await store.get_update(session, row.channel, row.id)
        if stored is None or stored.state != UpdateState.ASKED:
            return
        if is_done:
            stored.state = UpdateState.DONE
            session.add(stored)
        if run is None:
            await store.enqueue(session, stored, "The answer was deleted.", ledger.now())
            return
        sends = select(OutboxRow.id).where(
            col(OutboxRow.run_id) == run.id,
            col(OutboxRow.purpose) == outbox.MESSAGE,
            col(OutboxRow.event).in_(("completed", "failed")),
        )
        if (await session.execute(sends.limit(1))).first() is None:
            why = one_line(run.error or run.reason, MAX_ERROR)
            text = _ENDS.get(run.state) or f"There is no answer: {why or run.status}"
            await store.enqueue(session, stored, text, ledger.now())
