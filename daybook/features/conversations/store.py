"""The rows of conversations: updates that were received, and messages that were sent."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, fields
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial

from sqlalchemy import delete, text, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.delivery import outbox
from daybook.features.conversations.platform import (
    Account,
    AccountReplaced,
    Update,
    UpdateKind,
)
from daybook.features.conversations.tables import (
    AccountRow,
    CodeRow,
    PersonRow,
    SentRow,
    UpdateRow,
)
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import OutboxRow, RunRow
from daybook.runs.claim_requests import request_key, session_request_key
from daybook.runs.restored import Restore
from daybook.runs.retention import BATCH_SIZE, RetentionLimits

EVENT = "chat"
"""The event of a message of Daybook's own in a chat, such as the answer to a command."""
AGAIN = "again:"
"""Beginning of the key of a message that a person has requested once more."""
MAX_AGE = timedelta(days=30)
"""Age from which updates and sent messages are deleted: a reply to such a message is a new one."""
BUTTONS_LIFETIME = timedelta(days=2)
"""Age from which the buttons of a message are no longer removed if they become invalid."""

_COLUMNS = frozenset(UpdateRow.model_fields)
_SHOWS_BUTTONS = text("buttons")
_UNFINISHED = text("state IN ('new', 'asked')")
"""Conditions of the partial indexes, which a parameter would not imply."""


class UpdateState(StrEnum):
    """The state of an update.

    =======  ================================================================
    state    next
    =======  ================================================================
    NEW      it was stored; `handling` is to do what it says
    ASKED    it has requested a run, whose end is still to come
    DONE     nothing; ``action`` says what was done
    =======  ================================================================
    """

    NEW = "new"
    ASKED = "asked"
    DONE = "done"


async def put(
    ledger: Ledger,
    channel: str,
    updates: Sequence[Update],
    position: int | None = None,
    account: Account | None = None,
) -> list[str]:
    """Store updates that are not stored yet, and the ``position``, in one transaction.

    Return the ids of the new updates. If ``account`` is given and the channel has it no longer,
    store nothing and raise `AccountReplaced`.
    """
    async with ledger.read() as session:
        row = await session.get(AccountRow, channel)
        is_known = position is None or (row is not None and row.position == position)
        if not updates and is_known:
            return []
    async with ledger.write() as session:
        if account is not None:
            await _check_account(session, account)
        ids = {each.id for each in updates}
        query = select(UpdateRow.id).where(
            col(UpdateRow.channel) == channel, col(UpdateRow.id).in_(ids)
        )
        known = set((await session.execute(query)).scalars())
        now, added = ledger.now(), list[str]()
        for each in updates:
            if each.id not in known:
                known.add(each.id)
                added.append(each.id)
                session.add(_row(channel, each, now))
        if position is not None:
            row = await session.get(AccountRow, channel)
            row = row or AccountRow(channel=channel, changed_at=now)
            row.position, row.position_at = position, now
            session.add(row)
        return added


def _row(channel: str, given: Update, now: datetime) -> UpdateRow:
    values = asdict(given)
    content = {name: value for name, value in values.items() if name not in _COLUMNS}
    columns = {name: value for name, value in values.items() if name in _COLUMNS}
    return UpdateRow(
        **columns, channel=channel, content=content, state=UpdateState.NEW, received_at=now
    )


def update_of(row: UpdateRow) -> Update:
    """Return the update that ``row`` stores."""
    known = {each.name for each in fields(Update)}
    values = {**row.model_dump(include=known), **row.content, "kind": UpdateKind(row.kind)}
    given = {name: value for name, value in values.items() if name in known}
    return Update(**{**given, "pictures": tuple(given.get("pictures", ()))})


async def _check_account(session: AsyncSession, account: Account) -> None:
    row = await session.get(AccountRow, account.name)
    if row is None or (row.account_id, row.place) != (account.account_id, account.place):
        raise AccountReplaced(account.name)


async def position_of(
    session: AsyncSession, account: Account, lifetime: timedelta | None, now: datetime
) -> int | None:
    """Return `last_position` of an account; raise `AccountReplaced` if the channel has another."""
    await _check_account(session, account)
    return await last_position(session, account.name, lifetime, now)


async def last_position(
    session: AsyncSession, channel: str, lifetime: timedelta | None, now: datetime
) -> int | None:
    """Return the stored position; None if there is none, or if it is older than ``lifetime``."""
    row = await session.get(AccountRow, channel)
    if row is None or row.position_at is None:
        return None
    is_old = lifetime is not None and row.position_at <= now - lifetime
    return None if is_old else row.position


async def has_position(ledger: Ledger, channel: str) -> bool:
    """Return whether it is stored after which position the account is read next."""
    async with ledger.read() as session:
        return await last_position(session, channel, None, ledger.now()) is not None


async def in_state(session: AsyncSession, channel: str, state: UpdateState) -> list[UpdateRow]:
    """Return the updates in this state, in their order; not those that are `DONE`."""
    query = (
        select(UpdateRow)
        .where(col(UpdateRow.channel) == channel, col(UpdateRow.state) == state, _UNFINISHED)
        .order_by(col(UpdateRow.position), col(UpdateRow.id))
    )
    return list((await session.execute(query)).scalars())


async def get_update(session: AsyncSession, channel: str, id_: str) -> UpdateRow | None:
    return await session.get(UpdateRow, (channel, id_))


async def update_of_run(session: AsyncSession, run_id: str) -> UpdateRow | None:
    """Return the update that has requested this run; None if no update has."""
    query = select(UpdateRow).where(col(UpdateRow.run_id) == run_id).limit(1)
    return (await session.execute(query)).scalar_one_or_none()


async def requested_runs(session: AsyncSession, updates: Sequence[UpdateRow]) -> dict[str, RunRow]:
    """Return the runs that these updates have requested, by their id."""
    ids = [each.run_id for each in updates if each.run_id]
    query = select(RunRow).where(col(RunRow.id).in_(ids))
    found = (await session.execute(query)).scalars() if ids else ()
    return {each.id: each for each in found}


# --- messages of Daybook's own, and sent messages


def answer_key(channel: str, update_id: str) -> str:
    """Return the key of the outbox row that answers an update."""
    return f"{EVENT}:{channel}:{update_id}"


async def enqueue(session: AsyncSession, row: UpdateRow, text: str, now: datetime) -> None:
    """Enqueue the answer to an update in its chat, unless it was enqueued before."""
    await outbox.enqueue_message(
        session,
        key=answer_key(row.channel, row.id),
        purpose=outbox.MESSAGE,
        event=EVENT,
        channel=row.channel,
        chat_id=row.chat_id,
        subject="",
        body=text,
        now=now,
    )


async def answered(session: AsyncSession, row: OutboxRow) -> UpdateRow | None:
    """Return the update that an outbox row answers; None if it answers none.

    It is the answer of the update's run, or a message of Daybook's own.
    """
    if row.event == EVENT:
        _, channel, id_ = row.key.split(":", 2)
        return await get_update(session, channel, id_)
    if row.run_id is None:
        return None
    if (update_ := await update_of_run(session, row.run_id)) is not None:
        return update_
    # The update has the run's id only after the run was requested, perhaps much later.
    run = await session.get(RunRow, row.run_id)
    return await _requester(session, run, row.address, session_request_key) if run else None


async def _requester(
    session: AsyncSession, run: RunRow, channel: str, key: Callable[[str], str]
) -> UpdateRow | None:
    """Return the update of the channel that has requested ``run`` under ``key``; None if none."""
    beginning = key(answer_key(channel, ""))
    if not run.occurrence.startswith(beginning):
        return None
    return await get_update(session, channel, run.occurrence.removeprefix(beginning))


async def requested_by(session: AsyncSession, row: OutboxRow, channel: str, chat_id: str) -> bool:
    """Return whether a person has requested the message ``row`` in this chat.

    It answers an update, or is about a run that the update has requested.
    """
    if row.key.startswith(AGAIN):
        return True
    update_ = await answered(session, row)
    run = await session.get(RunRow, row.run_id) if row.run_id else None
    if update_ is None and run is not None and run.job_id:
        update_ = await _requester(session, run, channel, partial(request_key, run.job_id))
    return update_ is not None and (update_.channel, update_.chat_id) == (channel, chat_id)


async def parts_sent(session: AsyncSession, outbox_id: str) -> set[int]:
    """Return the parts of the outbox row that were sent."""
    query = select(SentRow.part).where(col(SentRow.outbox_id) == outbox_id)
    return set((await session.execute(query)).scalars())


async def last_note(session: AsyncSession, row: OutboxRow, channel: str, chat_id: str) -> str:
    """Return the message in the chat with the last note of the same event and run; "" if none."""
    query = (
        select(SentRow.message_id)
        .join(OutboxRow, col(OutboxRow.id) == col(SentRow.outbox_id))
        .where(
            col(SentRow.run_id) == row.run_id,
            col(SentRow.channel) == channel,
            col(SentRow.chat_id) == chat_id,
            col(OutboxRow.event) == row.event,
        )
        .order_by(col(SentRow.sent_at).desc())
        .limit(1)
    )
    return (await session.execute(query)).scalar_one_or_none() or ""


async def find_sent(
    session: AsyncSession, channel: str, chat_id: str, message_id: str
) -> SentRow | None:
    return await session.get(SentRow, (channel, chat_id, message_id))


async def find_in_thread(
    session: AsyncSession, channel: str, chat_id: str, thread_id: str
) -> SentRow | None:
    """Return the message in a thread that a person who writes there answers, if any.

    It is the newest that shows buttons, else the newest of a run, else the newest.
    """
    id_ = col(SentRow.message_id)
    query = (
        select(SentRow)
        .where(
            col(SentRow.channel) == channel,
            col(SentRow.chat_id) == chat_id,
            (id_ == thread_id) | id_.startswith(f"{thread_id}/", autoescape=True),
        )
        .order_by(
            col(SentRow.buttons).desc(), col(SentRow.run_id).is_(None), col(SentRow.sent_at).desc()
        )
        .limit(1)
    )
    return (await session.execute(query)).scalar_one_or_none()


async def is_sending(session: AsyncSession, channel: str, now: datetime) -> bool:
    """Return whether a process is sending a message to the channel."""
    query = select(OutboxRow.id).where(
        outbox.PENDING,
        col(OutboxRow.address) == channel,
        col(OutboxRow.lease_until) > now,
    )
    return (await session.execute(query.limit(1))).first() is not None


async def with_buttons(session: AsyncSession, channel: str, now: datetime) -> list[SentRow]:
    """Return the recent messages that show buttons which may become invalid, oldest first."""
    query = (
        select(SentRow)
        .where(
            col(SentRow.channel) == channel,
            _SHOWS_BUTTONS,
            col(SentRow.sent_at) > now - BUTTONS_LIFETIME,
        )
        .order_by(col(SentRow.sent_at))
    )
    return list((await session.execute(query)).scalars())


async def clear_buttons(session: AsyncSession, row: SentRow) -> None:
    statement = (
        update(SentRow)
        .where(
            col(SentRow.channel) == row.channel,
            col(SentRow.chat_id) == row.chat_id,
            col(SentRow.message_id) == row.message_id,
        )
        .values(buttons=False)
    )
    await session.execute(statement)


# --- accounts


async def record_account(ledger: Ledger, channel: str, identity: str, problem: str) -> None:
    """Record the state of an account, if it has changed. An empty ``identity`` keeps the name."""
    async with ledger.read() as session:
        row = await session.get(AccountRow, channel)
        if row and row.problem == problem and identity in ("", row.identity):
            return
    async with ledger.write() as session:
        row = await session.get(AccountRow, channel)
        row = row or AccountRow(channel=channel, changed_at=ledger.now())
        row.identity = identity or row.identity
        row.problem, row.changed_at = problem, ledger.now()
        session.add(row)


async def accounts(session: AsyncSession) -> list[AccountRow]:
    query = select(AccountRow).order_by(col(AccountRow.channel))
    return list((await session.execute(query)).scalars())


async def use_account(ledger: Ledger, account: Account) -> None:
    """Record which account a channel has, and its place. Forget what belongs to another account.

    These are its people, its sent messages and drafts, whose numbers another account repeats, its
    position, and its updates that were not handled. Of another place, forget the position.
    """
    channel, account_id, place = account.name, account.account_id, account.place
    async with ledger.read() as session:
        row = await session.get(AccountRow, channel)
        if row is not None and (row.account_id, row.place) == (account_id, place):
            return
    async with ledger.write() as session:
        row = await session.get(AccountRow, channel)
        is_other = row is not None and row.account_id not in ("", account_id)
        row = row or AccountRow(channel=channel, changed_at=ledger.now())
        if is_other or row.place != place:
            row.position = row.position_at = None
        row.account_id, row.place = account_id, place
        if is_other:
            await session.execute(delete(PersonRow).where(col(PersonRow.channel) == channel))
            await session.execute(delete(SentRow).where(col(SentRow.channel) == channel))
            of_other = update(UpdateRow).where(col(UpdateRow.channel) == channel)
            await session.execute(of_other.where(_UNFINISHED).values(draft=""))
            await _give_up(session, "the channel has another account", channel)
        session.add(row)


async def _give_up(session: AsyncSession, why: str, channel: str = "") -> None:
    """Mark the new updates, of one channel or of all, as done without doing anything."""
    new = update(UpdateRow).where(col(UpdateRow.state) == UpdateState.NEW)
    if channel:
        new = new.where(col(UpdateRow.channel) == channel)
    await session.execute(new.values(state=UpdateState.DONE, action=f"not handled: {why}"))


async def channel_of_account(session: AsyncSession, account_id: str) -> str:
    """Return the channel that has this account; "" if none has."""
    query = select(AccountRow.channel).where(col(AccountRow.account_id) == account_id).limit(1)
    return (await session.execute(query)).scalar_one_or_none() or ""


async def forget_people(ledger: Ledger, channel: str) -> None:
    """Delete the people and the codes of a channel."""
    async with ledger.write() as session:
        for table in (PersonRow, CodeRow):
            await session.execute(delete(table).where(col(table.channel) == channel))


async def forget_accounts(ledger: Ledger, known: Collection[str]) -> None:
    """Delete the people and the state of channels that were removed, so not among ``known``."""
    async with ledger.read() as session:
        gone = [each.channel for each in await accounts(session) if each.channel not in known]
    if gone:
        async with ledger.write() as session:
            for table in (PersonRow, CodeRow, AccountRow):
                await session.execute(delete(table).where(col(table.channel).in_(gone)))


async def forget_new(session: AsyncSession, restore: Restore) -> None:
    """Handle no update of a restored ledger: it was probably handled after the backup.

    Delete all people and codes: some may have been unpaired since the backup.
    """
    await _give_up(session, "the ledger was restored")
    for table in (PersonRow, CodeRow):
        await session.execute(delete(table))


# --- retention


async def delete_old(ledger: Ledger, limits: RetentionLimits) -> int:
    """Delete one batch of old updates and sent messages. Return their number."""
    before = ledger.now() - MAX_AGE
    old_updates = select(UpdateRow.channel, UpdateRow.id).where(
        col(UpdateRow.received_at) <= before,
        col(UpdateRow.state) == UpdateState.DONE,
    )
    old_sent = select(SentRow.channel, SentRow.chat_id, SentRow.message_id).where(
        col(SentRow.sent_at) <= before
    )
    async with ledger.read() as session:
        found = [(await session.execute(each.limit(1))).first() for each in (old_updates, old_sent)]
        if not any(found):
            return 0
    async with ledger.write() as session:
        count = 0
        for channel, id_ in (await session.execute(old_updates.limit(BATCH_SIZE))).tuples():
            is_row = (col(UpdateRow.channel) == channel) & (col(UpdateRow.id) == id_)
            await session.execute(delete(UpdateRow).where(is_row))
            count += 1
        for channel, chat_id, message_id in (
            await session.execute(old_sent.limit(BATCH_SIZE))
        ).tuples():
            is_row = (
                (col(SentRow.channel) == channel)
                & (col(SentRow.chat_id) == chat_id)
                & (col(SentRow.message_id) == message_id)
            )
            await session.execute(delete(SentRow).where(is_row))
            count += 1
        return count
