"""The accounts: settings documents, read from their copies in the ledger, so without Prefect."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, SecretStr

from daybook.errors import InvalidInput
from daybook.features.conversations import store
from daybook.features.conversations.mailbox import MailboxAccount
from daybook.features.conversations.platform import Account
from daybook.features.conversations.settings import (
    MailboxSettings,
    SlackSettings,
    TelegramSettings,
)
from daybook.features.conversations.slack import MANIFEST, SlackAccount
from daybook.features.conversations.telegram import TelegramAccount
from daybook.home import Home
from daybook.json_text import JsonObject
from daybook.ledger.engine import reading
from daybook.resources.copied_documents import CopiedDocuments
from daybook.resources.store import BlockStore

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

TELEGRAM = BlockStore(
    slug="daybook-telegram",
    title="Daybook Telegram bot",
    noun="telegram bot",
    model=TelegramSettings,
    field="channel",
)
SLACK = BlockStore(
    slug="daybook-slack",
    title="Daybook Slack app",
    noun="slack app",
    model=SlackSettings,
    field="channel",
)

MAIL = BlockStore(
    slug="daybook-mailbox",
    title="Daybook mailbox",
    noun="mail account",
    model=MailboxSettings,
    field="channel",
)


@dataclass(frozen=True)
class AccountKind:
    """A messaging service: the word for it, the store of its accounts, and their class.

    ``about`` are sentences about where the tokens come from, and ``to_paste`` is a text that they
    mention, if any.
    """

    word: str
    title: str
    store: BlockStore[Any]
    build: Callable[[str, Any], Account]
    about: str
    to_paste: str = ""

    @property
    def secrets(self) -> dict[str, str]:
        """Return the titles of the secrets that an account needs, by field."""
        fields = self.store.model.model_fields
        return {
            name: each.title or name
            for name, each in fields.items()
            if each.annotation is SecretStr and each.is_required()
        }

    @property
    def secret(self) -> str:
        """Return the first field of the `secrets`."""
        return next(iter(self.secrets))


KINDS = (
    AccountKind(
        "telegram",
        "Telegram",
        TELEGRAM,
        TelegramAccount,
        "Open Telegram and write /newbot to @BotFather. It asks for a name, and then shows the "
        "bot's token. Anyone who knows this token is the bot, so keep it secret.",
    ),
    AccountKind(
        "slack",
        "Slack",
        SLACK,
        SlackAccount,
        "On https://api.slack.com/apps, create an app from the manifest that `daybook channels "
        "connect slack` prints, and install it in your workspace: OAuth & Permissions then shows "
        "its bot token. Under Basic Information, generate an app-level token with the scope "
        "connections:write. Anyone who knows these tokens is the app, so keep them secret.",
        to_paste=MANIFEST,
    ),
    AccountKind(
        "mail",
        "E-mail",
        MAIL,
        MailboxAccount,
        "Use a mailbox of its own, because every mail in it is for Daybook. Many providers need an "
        "app password.",
    ),
)
"""All services, the first of which is the default."""


def kind_of(word: str) -> AccountKind:
    """Return the service with this word. Raise `InvalidInput`."""
    found = next((each for each in KINDS if each.word == word), None)
    if found is None:
        known = ", ".join(each.word for each in KINDS)
        raise InvalidInput("service", f'"{word}" is unknown', f"known: {known}")
    return found


KIND_BY_SLUG = {each.store.slug: each for each in KINDS}


async def check(client: PrefectClient, kind: AccountKind, name: str, settings: Any) -> None:
    """Raise `InvalidInput` if another channel has the account with these settings."""
    account_id = kind.build(name, settings).account_id
    async with reading() as session:
        others = {await store.channel_of_account(session, account_id)}
    for each in await kind.store.documents(client, include_secrets=True):
        found, _ = kind.store.check(each.data)
        if found is not None and kind.build(str(each.name), found).account_id == account_id:
            others.add(str(each.name))
    if other := min(others - {"", name}, default=""):
        raise InvalidInput(kind.secret, f'is that of the channel "{other}"', "use another account")


def build(slug: str, name: str, data: JsonObject) -> Account:
    """Return the account with these stored settings. Raise `InvalidInput` if they are invalid."""
    kind = KIND_BY_SLUG[slug]
    settings: BaseModel = kind.store.parse(name, data)
    return kind.build(name, settings)


def stored(home: Home) -> CopiedDocuments[Account]:
    """Return the accounts; they have to be updated before they are used."""
    return CopiedDocuments(home, {slug: partial(build, slug) for slug in KIND_BY_SLUG})
