"""Drafts: the text so far of an answer, as one message of its own, while the agent writes.

::

    "" ──► `SENDING` ──► sent: its id ──► edited ──► deleted, when the run has ended
              │ one transaction before
              └── killed, or not sent: no draft for this answer; the final answer comes as always

The outbox sends the answer itself, which never edits a draft. So an edit that comes late, such as
that of an earlier leader, finds no message, and cannot replace an answer. A draft ends with `MARK`:
if its process is killed before it has stored the id, the draft stays, but does not look finished.

A draft is the text that the pages show, without secrets (`steps.partial_answers`). A service that
sends letters shows none, and an answer that a person has to approve first has none.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from daybook.delivery.channels.text import length as text_length
from daybook.features.conversations import splitting, store
from daybook.features.conversations.platform import Platform, PlatformError, Post
from daybook.features.conversations.store import UpdateState
from daybook.features.conversations.tables import UpdateRow
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import RunRow
from daybook.policies.policy import ANSWER
from daybook.processes.ending import wait_shielded
from daybook.runs import steps

MARK = "✍ … I am still writing."
SENDING = "?"
"""`UpdateRow.draft` from before the draft is sent until its id is known."""
MIN_CHARACTERS = 40
"""Length of a text from which it is shown. A shorter one may be a marker of silence."""


class Drafts:
    """The drafts of one connection. Each chat gets at most one request in each call of `show`."""

    def __init__(self, ledger: Ledger, platform: Platform) -> None:
        self._ledger, self._platform = ledger, platform
        self._shown: dict[str, str] = {}
        self._rests_until: datetime | None = None

    async def show(self, answering: Sequence[tuple[UpdateRow, RunRow]]) -> None:
        """Send or edit the drafts of updates whose run is running, oldest first."""
        shown = [each for each in answering if ANSWER not in each[1].policy.approve]
        now = self._ledger.now()
        is_resting = self._rests_until is not None and now < self._rests_until
        if self._platform.is_letter or is_resting or not shown:
            return
        async with self._ledger.read() as session:
            texts = await steps.partial_answers(session, [run for _, run in shown])
        chats = set[str]()
        for row, run in shown:
            text = texts.get(run.id, "").strip()
            is_new = text != self._shown.get(row.id) and len(text) >= MIN_CHARACTERS
            if not is_new or row.chat_id in chats or row.draft == SENDING:
                continue
            chats.add(row.chat_id)
            self._shown[row.id] = text
            try:
                if row.draft:
                    await self._platform.edit(row.draft, self._post(row, text))
                else:  # a cancellation must not separate the message from its id
                    await wait_shielded(asyncio.create_task(self._send(row, text)))
            except PlatformError as error:
                self._rest(error)
                if error.retry_after:
                    return

    async def remove(self, row: UpdateRow) -> bool:
        """Delete the draft of an update. Return False if this has to be tried again."""
        self._shown.pop(row.id, None)
        if row.draft in ("", SENDING):
            return True
        if self._rests_until is not None and self._ledger.now() < self._rests_until:
            return False
        try:
            await self._platform.delete(row.chat_id, row.draft)
        except PlatformError as error:
            self._rest(error)
            return not error.is_temporary
        return True

    def _post(self, row: UpdateRow, text: str) -> Post:
        room = self._platform.max_characters - text_length(MARK) - 4
        return Post(row.chat_id, splitting.split(text, room)[-1], MARK, reply_to=row.message_id)

    async def _send(self, row: UpdateRow, text: str) -> None:
        if not await self._note(row, "", SENDING):
            return
        message_id = await self._platform.send(self._post(row, text))
        if not await self._note(row, SENDING, message_id):  # the run has ended meanwhile
            with suppress(PlatformError):
                await self._platform.delete(row.chat_id, message_id)

    async def _note(self, row: UpdateRow, before: str, draft: str) -> bool:
        """Store the draft of an update that still waits. Return whether it was stored."""
        async with self._ledger.write() as session:
            stored = await store.get_update(session, row.channel, row.id)
            if stored is None or (stored.state, stored.draft) != (UpdateState.ASKED, before):
                return False
            stored.draft = draft
            session.add(stored)
            return True

    def _rest(self, error: PlatformError) -> None:
        if error.retry_after:
            self._rests_until = self._ledger.now() + timedelta(seconds=error.retry_after)
