"""Channels of our own block type: any service that apprise knows, by its URL.

For what Prefect has no block of: e-mail, Telegram, ntfy, Matrix and a hundred more. The whole URL
is secret, and Prefect encrypts it. Where `{chat_id}` stands in it, one block serves many chats, and
a job says which.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from daybook.delivery.channels import apprise_plugins, threads
from daybook.delivery.channels.base import Message, NotDelivered
from daybook.delivery.channels.prefect_blocks import scrubbed, secrets
from daybook.errors import InvalidInput, UnknownName
from daybook.resources import documents
from daybook.resources.documents import BlockType

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

SLUG = "daybook-channel"
TITLE = "Daybook channel"
DESCRIPTION = "Where jobs send their answers and alerts: any service that apprise knows."
TYPE = BlockType(SLUG, TITLE, "channel")

CHAT_ID = "{chat_id}"
"""What a job's chat id is put in the place of."""

LEGAL = (
    "an address of apprise's, such as mailto://user:password@mail.example.org?to=me@example.org, "
    "tgram://token/{chat_id} or ntfy://topic"
)

# What the services take: Telegram's ids are numbers, those of Slack words.
_SAMPLES = ("100200300", "general")

# One step of a path, one value of a query: nothing that leads elsewhere on the same host. And one
# recipient: apprise takes several of what has a comma, a semicolon, a space or a bracket in it, and
# also two addresses of e-mail, or two numbers that begin with +, however they are joined.
_CHAT = re.compile(
    r"(?!\.+\Z)(?!.*@.*@)(?=\+?[^+]+(\+[^+]*@.*)?\Z)"  # no . or ..; one @; + first or in a name@
    r"[\w.:@!+$~=*-]+\Z"
)

_LEGAL_CHAT = "one recipient, of letters, digits and .:@!+$~=*-_, such as -1001 or me@example.org"

_TYPES = {
    "completed": "success",
    "recovered": "success",
    "failed": "failure",
    "paused": "failure",
    "missed": "warning",
    "cancelled": "warning",
    "overdue": "warning",
    "undelivered": "warning",
}


class ChannelSettings(BaseModel):
    """One channel."""

    model_config = ConfigDict(extra="ignore")

    url: SecretStr = Field(
        title="URL",
        description="Where messages go, as apprise writes it: "
        "mailto://user:password@mail.example.org?to=me@example.org, tgram://token/{chat_id}, "
        "ntfy://topic. {chat_id} stands for the chat that a job names.",
    )

    @field_validator("url")
    @classmethod
    def _understood(cls, value: SecretStr) -> SecretStr:
        url = value.get_secret_value()
        if url != url.strip() or "://" not in url:
            raise ValueError(f"is none; legal is {LEGAL}")
        if CHAT_ID in re.split("[/?#]", url.partition("://")[2])[0]:
            raise ValueError(f"{CHAT_ID} cannot be the host; write it behind, host/{CHAT_ID}")
        with threads.silently():
            if not any(_client(url, each) for each in _SAMPLES):
                raise ValueError(f"apprise does not understand it; legal is {LEGAL}")
        asked = (each.partition("=")[0] for each in re.split("[?&;]", url)[1:])
        if "format" in {unquote(each).strip().lower() for each in asked}:
            raise ValueError(
                "has ?format=, by which apprise sends what a model wrote as the service's markup; "
                "leave it out: each service gets the format that it takes best"
            )
        return value


def check_chat_id(chat_id: str) -> None:
    """Raise `InvalidInput` for what cannot stand in the place of `{chat_id}`."""
    if not _CHAT.match(chat_id):
        raise InvalidInput("chat_id", f'"{chat_id}" is none', _LEGAL_CHAT)


def build(name: str, data: Mapping[str, Any]) -> OurChannel:
    """The channel of stored settings; raises `InvalidInput` when they are not legal.

    A block edited in the Prefect UI is not checked by the server, so this is where it shows.
    """
    return OurChannel(name, _settings(name, data).url.get_secret_value())


async def every(client: PrefectClient) -> list[tuple[str, str]]:
    """The type slug and the name of each, by name."""
    return [(SLUG, str(each.name)) for each in await documents.every(client, TYPE)]


async def read(client: PrefectClient, name: str) -> OurChannel:
    """The channel of that name; raises `UnknownName`, and `InvalidInput` for bad settings."""
    from prefect.exceptions import ObjectNotFound

    try:
        document = await client.read_block_document_by_name(name, SLUG, include_secrets=True)
    except ObjectNotFound:
        raise UnknownName("channel", name, (each for _, each in await every(client))) from None
    # Apart: apprise is imported with all its plugins, which is work of a tenth of a second.
    return await threads.done(lambda _: build(name, document.data))


async def add(client: PrefectClient, name: str, url: str, *, replace: bool = False) -> OurChannel:
    """Keep a channel; raises `InvalidInput` for a bad or taken name, and for a bad URL."""
    made = await threads.done(lambda _: checked(name, url))
    await documents.keep(client, TYPE, name, {"url": url}, replace=replace)
    return made


def checked(name: str, url: str) -> OurChannel:
    """What would be kept; raises `InvalidInput`, whose words do not hold the URL."""
    documents.check_name(TYPE, name)
    try:
        settings = ChannelSettings.model_validate({"url": url})
    except ValidationError as error:
        raise InvalidInput("url", documents.problem(error)[1]) from None
    return OurChannel(name, settings.url.get_secret_value())


async def remove(client: PrefectClient, name: str) -> None:
    """Forget a channel of ours; raises `NotFound`."""
    await documents.forget(client, TYPE, name)


class OurChannel:
    """One of them."""

    def __init__(self, name: str, url: str) -> None:
        self._what = f'the channel "{name}"'
        self._url = url
        self.needs_chat_id = CHAT_ID in url
        with threads.silently():
            self.limit = max(
                apprise_plugins.prepared(made).limit
                for each in _SAMPLES
                if (made := _client(url, each)) is not None
            )

    async def send(self, message: Message) -> None:
        if self.needs_chat_id:
            try:
                check_chat_id(message.chat_id)
            except InvalidInput as error:
                raise NotDelivered(f"{self._what}: {error}", temporary=False) from None
        await threads.done(lambda heard: self._send(message, heard))

    def _send(self, message: Message, heard: list[str]) -> None:
        client = _client(self._url, message.chat_id)
        if client is None:
            told = f'with the chat id "{message.chat_id}" apprise does not understand the URL'
            raise NotDelivered(f"{self._what}: {told}")
        subject, body = apprise_plugins.prepared(client).filled(message)
        kind = _TYPES.get(message.event, "info")
        try:
            arrived = client.notify(body=body, title=subject, notify_type=kind)
        except Exception as error:
            heard.append(f"{type(error).__name__}: {error}")
            arrived = False
        if not arrived:
            why = "; ".join(heard) or "apprise says that it failed, and not why"
            secret = secrets({"url": self._url}, ["url"])
            raise NotDelivered(f"{self._what}: {scrubbed(why, secret)}")


def _client(url: str, chat_id: str) -> Any | None:
    """An `Apprise` that sends there; None where it does not understand the URL."""
    from apprise import Apprise, AppriseAsset

    asset = AppriseAsset(app_id="Daybook", app_desc="Daybook", app_url="")
    plugin = Apprise.instantiate(url.replace(CHAT_ID, quote(chat_id, safe="")), asset=asset)
    if plugin is None:
        return None
    client = Apprise(asset=asset)
    client.add(plugin)
    return client


def _settings(name: str, data: Mapping[str, Any]) -> ChannelSettings:
    try:
        return ChannelSettings.model_validate(dict(data))
    except ValidationError as error:
        told = f'"{name}": url: {documents.problem(error)[1]}'
        raise InvalidInput("channel", told, "mend the block") from None
