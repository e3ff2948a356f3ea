"""Drafts: the text so far of an answer, as one message of its own, while the agent writes.

::

    "" ──► `SENDING` ──► sent: its id ──► edited ──► deleted, when the run has ended
              │ one transaction before
              └── killed, or not sent: no draft for this answer; the final answer comes as always

The outbox sends the answer itself, which never edits a draft. So an edit that comes late, such as
that of an earlier leader, finds no message, and cannot replace an answer. A draft ends with `MARK`:
if its process is killed before it has stored the id, the draft stays, but does not look finished.

A draft is the text of a running request to a model, without secrets, as the pages show it
(`steps.texts_being_written`). A service that sends letters shows none. An answer that a person has
to approve first has none, and one whose last line is or begins a marker of silence has none either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from daybook.delivery.channels.text import length as text_length
from daybook.features.conversations import splitting, store
from daybook.features.conversations.platform import AccessRevoked, Platform, PlatformError, Post
from daybook.features.conversations.store import UpdateState
from daybook.features.conversations.tables import UpdateRow
from daybook.jobs.notify import may_become_silent
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Status
from daybook.ledger.tables import RunRow
from daybook.policies.policy import ANSWER
from daybook.processes.ending import wait_shielded
from daybook.runs import steps

MARK = "✍ … I am still writing."
SENDING = "?"
"""`UpdateRow.draft` from before the draft is sent until its id is known."""
MIN_CHARACTERS = 40
"""Length of a text from which it is shown."""


class Drafts:
    """The drafts of one connection. Each chat gets at most one request in each call of `show`."""

    def __init__(self, ledger: Ledger, platform: Platform) -> None:
        self._ledger, self._platform = ledger, platform
        self._shown: dict[str, str] = {}
        self._rests_until: datetime | None = None

    async def show(self, answering: Sequence[UpdateRow]) -> None:
        """Send or edit the drafts of updates whose run is running, oldest first."""
        now = self._ledger.now()
        is_resting = self._rests_until is not None and now < self._rests_until
        if self._platform.is_letter or is_resting or not answering:
            return
        async with self._ledger.read() as session:  # some may have ended since the caller looked
            runs = await store.requested_runs(session, answering)
            texts = await steps.texts_being_written(session, runs)
        chats = set[str]()
        for row in answering:
            run, text = runs.get(row.run_id or ""), texts.get(row.run_id or "", "").strip()
            is_shown = run is not None and _is_writing(run) and ANSWER not in run.policy.approve
            is_new = text != self._shown.get(row.id) and len(text) >= MIN_CHARACTERS
            if run is None or not is_shown or not is_new:
                continue
            if row.chat_id in chats or row.draft == SENDING:
                continue
            chats.add(row.chat_id)
            try:
                await self._update(row, run, text)
            except AccessRevoked:
                raise
            except PlatformError as error:
                self._rest(error)
                if error.retry_after:
                    return

    async def _update(self, row: UpdateRow, run: RunRow, text: str) -> None:
        """Send, edit or delete the draft of one update."""
        if may_become_silent(text):
            if row.draft and await self.remove(row):
                await self._note(row, row.draft, "")
            return
        self._shown[row.id] = text
        if row.draft:
            await self._platform.edit(row.draft, self._post(row, text))
        else:  # a cancellation must not separate the message from its id
            await wait_shielded(asyncio.create_task(self._send(row, run, text)))

    async def remove(self, row: UpdateRow) -> bool:
        """Delete the draft of an update. Return False if this has to be tried again."""
        self._shown.pop(row.id, None)
        if row.draft in ("", SENDING):
            return True
        if self._rests_until is not None and self._ledger.now() < self._rests_until:
            return False
        try:
            await self._platform.delete(row.chat_id, row.draft)
        except AccessRevoked:
            raise
        except PlatformError as error:
            self._rest(error)
            return not error.is_temporary
        return True

    def _post(self, row: UpdateRow, text: str) -> Post:
        room = self._platform.max_characters - text_length(MARK) - 4
        shown = splitting.split(text, room)[-1]
        return Post(row.chat_id, shown, MARK, reply_to=row.message_id, is_draft=True)

    async def _send(self, row: UpdateRow, run: RunRow, text: str) -> None:
        if not await self._note(row, "", SENDING, run):
            return
        message_id = await self._platform.send(self._post(row, text))
        is_stored = False
        try:
            is_stored = await self._note(row, SENDING, message_id)
        finally:
            if not is_stored:  # the update is done, or the ledger does not answer
                with suppress(PlatformError):
                    await self._platform.delete(row.chat_id, message_id)

    async def _note(
        self, row: UpdateRow, before: str, draft: str, writer: RunRow | None = None
    ) -> bool:
        """Store the draft of an update that still waits. Return whether it was stored.

        With ``writer``, only if this attempt of the run still runs: its answer is not sent yet.
        """
        async with self._ledger.write() as session:
            if writer is not None:
                run = await session.get(RunRow, writer.id)
                if run is None or not _is_writing(run) or run.fence != writer.fence:
                    return False
            stored = await store.get_update(session, row.channel, row.id)
            if stored is None or (stored.state, stored.draft) != (UpdateState.ASKED, before):
                return False
            stored.draft = draft
            session.add(stored)
            return True

    def _rest(self, error: PlatformError) -> None:
        if error.retry_after:
            self._rests_until = self._ledger.now() + timedelta(seconds=error.retry_after)


def _is_writing(run: RunRow) -> bool:
    return run.state is Status.RUNNING
