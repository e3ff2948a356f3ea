"""Operations on conversations: connect an account, pair and unpair people, and what was heard."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from pydantic import BaseModel
from sqlmodel import col, select

from daybook import api
from daybook.api import authorization
from daybook.api.documents import Documents
from daybook.clock import SYSTEM_CLOCK
from daybook.delivery.channels import registry
from daybook.errors import InvalidInput, NotFound
from daybook.features.conversations import accounts, people, quiet_hours, store
from daybook.features.conversations.people import PairedPerson, PairingCode, Role
from daybook.features.conversations.platform import (
    AccessRevoked,
    Account,
    AccountReplaced,
    PlatformError,
)
from daybook.features.conversations.tables import AccountRow, UpdateRow
from daybook.instants import UtcTime
from daybook.ledger.engine import open_ledger, reading
from daybook.ledger.views import columns
from daybook.prefect import client as prefect
from daybook.resources.store import DocumentView

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import BlockDocument

MAX_HEARD = 20


class AccountView(DocumentView, frozen=True):
    """An account as operations return it, without its token."""

    name: str
    problem: str | None
    agent: str


class ConnectedAccount(BaseModel, frozen=True):
    """An account that was stored, its name at the service, and a code for its first person."""

    channel: str
    service: str
    identity: str
    code: PairingCode


class TriedAccount(NamedTuple):
    """The name of an account at its service, and its `Platform.position`."""

    identity: str
    position: int | None


class AccountState(BaseModel, frozen=True):
    """An account that listens. ``problem`` is None if it works, and ``identity`` its name."""

    channel: str
    identity: str
    problem: str | None
    changed_at: UtcTime

    @classmethod
    def of(cls, row: AccountRow) -> Self:
        return cls(**{**columns(cls, row), "problem": row.problem or None})


class HeardUpdate(BaseModel, frozen=True):
    """What a person has done in a chat, and what Daybook did about it."""

    channel: str
    id: str
    chat_id: str
    person_name: str
    kind: str
    state: str
    action: str
    run_id: str | None
    received_at: UtcTime

    @classmethod
    def of(cls, row: UpdateRow) -> Self:
        return cls.model_validate(columns(cls, row))


class _Accounts(Documents[AccountView]):
    """The documents of the accounts of one service."""

    async def more(
        self, client: PrefectClient, documents: Sequence[BlockDocument]
    ) -> Callable[[str, Mapping[str, Any]], Mapping[str, Any]]:
        """Return a function of a document's name that returns its problem.

        The caller's ``documents`` have masked tokens, which are not valid.
        """
        found = await self.store.documents(client, include_secrets=True)
        problems = {each.name: self.store.check(each.data)[1] for each in found}
        return lambda name, data: {"problem": problems.get(name)}

    async def users(self, client: PrefectClient, name: str) -> list[str]:
        return [
            each.row.name
            for each in await api.documents.stored_jobs()
            if each.job.notify.channel == name
        ]


DOCUMENTS = {each.word: _Accounts(each.store, AccountView) for each in accounts.KINDS}
"""The documents of each service."""


async def connect(
    service: str, name: str, settings: dict[str, Any], *, replace: bool = False
) -> ConnectedAccount:
    """Try the account, store it as a channel, and return it with a code for its operator.

    With ``replace``, the agent of the stored account stays if none is given, and the same folder of
    a mailbox is read on from where it was. Raise `InvalidInput`, also if the service refuses the
    account; then nothing was stored.
    """
    authorization.require_operator()
    kind = accounts.kind_of(service)
    kind.store.check_name(name)
    documents = DOCUMENTS[service]
    checked = documents.validate(settings)
    async with prefect.answering() as client:
        stored: Mapping[str, Any] = {}
        if replace:
            with suppress(NotFound):
                stored = (await kind.store.get(client, name)).data
        if "agent" in stored and "agent" not in settings:
            checked = documents.validate({**settings, "agent": stored["agent"]})
        account = kind.build(name, checked)
        await registry.check_new(client, registry.kinds()[kind.store.slug], name, checked)
        tried = await try_account(kind, account)
        await kind.store.save(client, name, checked, replace=replace)
    async with open_ledger() as ledger:
        if not replace:
            await store.forget_people(ledger, name)
        if tried.position is not None:
            await store.use_account(ledger, account)
            await store.record_account(ledger, name, tried.identity, "")
            if not replace or not await store.has_position(ledger, name):
                with suppress(AccountReplaced):  # the next listener begins at the newest letter
                    await store.put(ledger, name, (), tried.position, account)
    code = await people.make_code(name, Role.OPERATOR)
    return ConnectedAccount(channel=name, service=kind.title, identity=tried.identity, code=code)


async def try_account(kind: accounts.AccountKind, account: Account) -> TriedAccount:
    """Return what an account is at its service. Raise `InvalidInput` if it does not work."""
    try:
        async with account.open() as platform:
            return TriedAccount(await platform.identity(), platform.position)
    except PlatformError as error:
        is_refused = isinstance(error, AccessRevoked) or not error.is_temporary
        hint = "copy it again" if is_refused else "try again"
        field = kind.secret if is_refused else "account"
        raise InvalidInput(field, f"does not work: {error}", hint) from None


async def try_stored(kind: accounts.AccountKind, name: str) -> AccountState:
    """Try a stored account; return its name at the service, or the problem. Raise `NotFound`."""
    authorization.require_operator()
    async with prefect.answering() as client:
        document = await kind.store.get(client, name, include_secrets=True)
    identity, problem = "", None
    try:
        account = accounts.build(kind.store.slug, name, dict(document.data))
        identity = (await try_account(kind, account)).identity
    except InvalidInput as error:
        problem = str(error)
    return AccountState(
        channel=name, identity=identity, problem=problem, changed_at=SYSTEM_CLOCK.now()
    )


async def channels() -> list[str]:
    """Return the names of the channels that hear."""
    found = [await api.documents.names(kind.store.noun) for kind in accounts.KINDS]
    return sorted(name for names in found for name in names)


async def make_code(channel: str, role: str = Role.OPERATOR) -> PairingCode:
    """Return a code with which a person pairs. Raise `InvalidInput` for an unknown account."""
    authorization.require_operator()
    names = await channels()
    if channel not in names:
        hint = f"known: {', '.join(names)}" if names else "connect one: daybook channels connect"
        raise InvalidInput("channel", f'"{channel}" hears nothing', hint)
    return await people.make_code(channel, role)


async def list_people(channel: str = "") -> list[PairedPerson]:
    """Return the paired people of one channel, or of all."""
    return await people.list_people(channel)


async def unpair(ref: str) -> PairedPerson:
    """End what a person may do, at once. ``ref`` is an id, its beginning, or a name.

    What waits for the end of the person's quiet hours is sent. Raise `NotFound`, `Ambiguous`, and
    `InvalidInput` for an agent.
    """
    authorization.require_operator()
    async with open_ledger() as ledger, ledger.write() as session:
        person = await people.find_paired(session, ref)
        await quiet_hours.release(session, person, ledger.now())
        await session.delete(person)
        return PairedPerson.of(person)


async def set_quiet_hours(ref: str, text: str) -> PairedPerson:
    """Set the quiet hours of a person, such as `22:00-07:00 Europe/Berlin`, or `off`.

    Without a zone, it is the zone of the settings. What waits for the end of the old ones is
    checked again. Raise `NotFound`, `Ambiguous`, and `InvalidInput`, also for an agent.
    """
    authorization.require_operator()
    async with open_ledger() as ledger, ledger.write() as session:
        person = await people.find_paired(session, ref)
        await quiet_hours.change(session, person, text, ledger.now())
        return PairedPerson.of(person)


async def states() -> list[AccountState]:
    """Return the accounts that have listened. Raise `InvalidInput` for an agent."""
    authorization.require_operator()
    async with reading() as session:
        return [AccountState.of(each) for each in await store.accounts(session)]


async def heard(channel: str = "", limit: int = MAX_HEARD) -> list[HeardUpdate]:
    """Return what was heard last, newest first. Raise `InvalidInput` for an agent."""
    authorization.require_operator()
    async with reading() as session:
        query = select(UpdateRow).order_by(
            col(UpdateRow.received_at).desc(), col(UpdateRow.position).desc()
        )
        if channel:
            query = query.where(col(UpdateRow.channel) == channel)
        return [
            HeardUpdate.of(each) for each in (await session.execute(query.limit(limit))).scalars()
        ]
