"""The people who may speak in a channel: they pair with a code, and have a role.

::

    operator: code of 8 characters, 10 minutes ──► the person writes it to the account, in private
                                                      │ right, in time, not tried too often
                                                      ▼
                                                    PersonRow: operator | reader
    anyone else ──► one sentence a day; nothing else happens

============  =======================================================================
role          may
============  =======================================================================
operator      everything that a person may do on the pages, in words and with buttons
reader        answer messages that were delivered to the chat; each call of a tool then
              waits for an operator
stranger      nothing
============  =======================================================================
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Self

from pydantic import BaseModel
from sqlalchemy import delete, func, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.api import authorization
from daybook.errors import Ambiguous, InvalidInput, NotFound
from daybook.features.conversations.platform import Update
from daybook.features.conversations.tables import CodeRow, PersonRow
from daybook.instants import UtcTime
from daybook.ledger.engine import open_ledger, reading
from daybook.ledger.views import columns
from daybook.names import hidden_character

CODE_LENGTH = 8
CODE_LIFETIME = timedelta(minutes=10)
MAX_NAME = 80
MAX_TRIES = 10
"""Number of wrong codes in a channel after which its codes are invalid."""
STRANGER_INTERVAL = timedelta(days=1)
"""Interval in which a stranger gets at most one answer."""
MAX_STRANGERS = 500
"""Number of strangers in a channel above which no further stranger gets an answer."""

_ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
"""Characters of codes: without those that look alike."""


class Role(StrEnum):
    """What a person may do."""

    OPERATOR = "operator"
    READER = "reader"
    STRANGER = "stranger"


class PairedPerson(BaseModel, frozen=True):
    """A person who may speak in a channel."""

    id: str
    channel: str
    name: str
    role: Role
    person_id: str
    paired_by: str
    paired_at: UtcTime
    used_at: UtcTime
    quiet_hours: str

    @classmethod
    def of(cls, row: PersonRow) -> Self:
        return cls.model_validate(columns(cls, row))


class PairingCode(BaseModel, frozen=True):
    """A code that one person writes to the account of the ``channel`` until ``expires_at``."""

    code: str
    channel: str
    role: Role
    expires_at: UtcTime


async def make_code(channel: str, role: str = Role.OPERATOR) -> PairingCode:
    """Return a new code for the channel. Raise `InvalidInput` for a role, or for an agent."""
    authorization.require_operator()
    checked = check_role(role)
    code = "".join(secrets.choice(_ALPHABET) for _ in range(CODE_LENGTH))
    async with open_ledger() as ledger, ledger.write() as session:
        now = ledger.now()
        await session.execute(delete(CodeRow).where(col(CodeRow.expires_at) <= now))
        row = CodeRow(
            digest=_digest(channel, code),
            channel=channel,
            role=checked,
            made_by=authorization.person(),
            expires_at=now + CODE_LIFETIME,
        )
        session.add(row)
        shown = f"{code[:4]}-{code[4:]}"
        return PairingCode(code=shown, channel=channel, role=checked, expires_at=row.expires_at)


def check_role(role: str) -> Role:
    """Return the role of a paired person. Raise `InvalidInput`."""
    if role not in (Role.OPERATOR, Role.READER):
        raise InvalidInput("role", f'"{role}" is unknown', "use operator or reader")
    return Role(role)


def code_in(text: str) -> str:
    """Return the code that a text, or its first paragraph, consists of; "" if it is no code."""
    found = text.strip().partition("\n\n")[0].upper().replace("-", "").replace(" ", "")
    is_code = len(found) == CODE_LENGTH and all(each in _ALPHABET for each in found)
    return found if is_code else ""


def is_code(text: str) -> bool:
    """Return whether a text is a code as it is shown, which a word such as `well-kept` is not."""
    return re.fullmatch(f"[{_ALPHABET}]{{4}}-[{_ALPHABET}]{{4}}", text.strip()) is not None


def clean_name(name: str) -> str:
    """Return the name that a person has chosen, without control and invisible characters."""
    shown = "".join(each for each in name if each.isprintable() and not hidden_character(each))
    return " ".join(shown.split())[:MAX_NAME] or "a person"


async def pair(session: AsyncSession, channel: str, given: Update, now: datetime) -> Role | None:
    """Pair the person who has written a code; a person may pair again. Return the role.

    Return None for a wrong or expired code, or after `MAX_TRIES` wrong ones. A code pairs one
    person.
    """
    code = await session.get(CodeRow, _digest(channel, code_in(given.text)))
    if code is None or code.channel != channel or code.expires_at <= now:
        of_channel = col(CodeRow.channel) == channel
        await session.execute(
            update(CodeRow).where(of_channel).values(tries=col(CodeRow.tries) + 1)
        )
        await session.execute(delete(CodeRow).where(of_channel, col(CodeRow.tries) >= MAX_TRIES))
        return None
    row = await find(session, channel, given.person_id)
    row = row or PersonRow(
        channel=channel,
        person_id=given.person_id,
        chat_id="",
        name="",
        role="",
        paired_at=now,
        used_at=now,
    )
    if row.role != code.role:  # the operator who was paired first gets the messages
        row.paired_at = now
    row.chat_id, row.name, row.role = given.chat_id, clean_name(given.person_name), code.role
    row.paired_by, row.used_at = code.made_by, now
    session.add(row)
    await session.delete(code)
    return Role(row.role)


async def find(session: AsyncSession, channel: str, person_id: str) -> PersonRow | None:
    """Return the row of a person or stranger, if any."""
    query = select(PersonRow).where(
        col(PersonRow.channel) == channel, col(PersonRow.person_id) == person_id
    )
    return (await session.execute(query)).scalar_one_or_none()


def role_of(row: PersonRow | None) -> Role:
    return Role(row.role) if row else Role.STRANGER


async def may_answer_stranger(
    session: AsyncSession, channel: str, given: Update, now: datetime
) -> bool:
    """Return whether a stranger gets an answer now, and record it.

    A paired person gets none: such an update is not verified, so another person may have sent it.
    """
    row = await find(session, channel, given.person_id)
    if role_of(row) is not Role.STRANGER:
        return False
    if row is not None and row.used_at > now - STRANGER_INTERVAL:
        return False
    is_stranger = (col(PersonRow.channel) == channel) & (col(PersonRow.role) == Role.STRANGER)
    await session.execute(
        delete(PersonRow).where(is_stranger, col(PersonRow.used_at) <= now - STRANGER_INTERVAL)
    )
    count = select(func.count()).select_from(PersonRow).where(is_stranger)
    if (await session.execute(count)).scalar_one() >= MAX_STRANGERS:
        return False
    session.add(
        PersonRow(
            channel=channel,
            person_id=given.person_id,
            chat_id=given.chat_id,
            name=clean_name(given.person_name),
            role=Role.STRANGER,
            paired_at=now,
            used_at=now,
        )
    )
    return True


async def first_operator(session: AsyncSession, channel: str) -> PersonRow | None:
    """Return the operator of the channel who was paired first: the chat of its messages."""
    query = (
        select(PersonRow)
        .where(col(PersonRow.channel) == channel, col(PersonRow.role) == Role.OPERATOR)
        .order_by(col(PersonRow.paired_at), col(PersonRow.id))
        .limit(1)
    )
    return (await session.execute(query)).scalar_one_or_none()


async def list_people(channel: str = "") -> list[PairedPerson]:
    """Return the paired people of one channel or of all. Raise `InvalidInput` for an agent."""
    authorization.require_operator()
    async with reading() as session:
        return [PairedPerson.of(each) for each in await _paired(session, channel)]


async def find_paired(session: AsyncSession, ref: str) -> PersonRow:
    """Return a paired person. ``ref`` is an id, its beginning, or a name.

    Raise `NotFound` and `Ambiguous`.
    """
    paired = await _paired(session, "")
    found = [each for each in paired if each.name == ref or each.id.startswith(ref)]
    if not found or not ref:
        raise NotFound("person", ref, known=[each.name for each in paired])
    if len(found) > 1:
        raise Ambiguous("person", ref, [each.id[:12] for each in found])
    return found[0]


async def _paired(session: AsyncSession, channel: str) -> Sequence[PersonRow]:
    query = select(PersonRow).where(col(PersonRow.role) != Role.STRANGER)
    if channel:
        query = query.where(col(PersonRow.channel) == channel)
    query = query.order_by(col(PersonRow.channel), col(PersonRow.paired_at))
    return (await session.execute(query)).scalars().all()


def _digest(channel: str, code: str) -> str:
    return hashlib.sha256(f"{channel}\n{code}".encode()).hexdigest()
