"""Channels of Daybook's own block type. A channel has a URL of any service that apprise supports.

These channels are for services without a Prefect block: e-mail, Telegram, ntfy, Matrix and many
more. The whole URL is secret, and Prefect encrypts it. If the URL contains `{chat_id}`, many chats
can use one block, and each job names its chat.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from daybook.delivery.channels import apprise_plugins, threads
from daybook.delivery.channels.base import Message, NotDelivered
from daybook.delivery.channels.prefect_blocks import secret_texts
from daybook.errors import InvalidInput
from daybook.redaction import redact
from daybook.resources.store import BlockStore

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

CHAT_ID = "{chat_id}"
"""The placeholder for a job's chat id."""

LEGAL_URL = (
    "an apprise URL such as mailto://user:password@mail.example.org?to=me@example.org, "
    "tgram://token/{chat_id} or ntfy://topic"
)

# Sample chat ids. Those of Telegram are numbers, and those of Slack are words.
_SAMPLE_CHAT_IDS = ("100200300", "general")

# A chat id is one path segment or query value, so that it cannot select another place on the host.
# It is also one recipient. Apprise splits a text at a comma, semicolon, space or bracket. It also
# splits two e-mail addresses, or two numbers that begin with +, whatever is between them.
_CHAT = re.compile(
    # The text is not `.` or `..`. It has at most one @. A + is its first character, or is before an
    # @.
    r"(?!\.+\Z)(?!.*@.*@)(?=\+?[^+]+(\+[^+]*@.*)?\Z)"
    r"[\w.:@!+$~=*-]+\Z"
)

_LEGAL_CHAT_ID = (
    "use one recipient: letters, digits and .:@!+$~=*-_, such as -1001 or me@example.org"
)

_NOTIFY_TYPES = {
    "completed": "success",
    "recovered": "success",
    "failed": "failure",
    "paused": "failure",
    "missed": "warning",
    "cancelled": "warning",
    "overdue": "warning",
    "undelivered": "warning",
    "budget": "warning",
}


class ChannelSettings(BaseModel):
    """Settings of a channel."""

    model_config = ConfigDict(extra="ignore")

    url: SecretStr = Field(
        title="URL",
        description="URL of the service, in apprise's form: "
        "mailto://user:password@mail.example.org?to=me@example.org, tgram://token/{chat_id}, "
        "ntfy://topic. {chat_id} is replaced by the chat that a job names.",
    )

    @field_validator("url")
    @classmethod
    def _understood(cls, value: SecretStr) -> SecretStr:
        url = value.get_secret_value()
        if url != url.strip() or "://" not in url:
            raise ValueError(f"is not a URL; use {LEGAL_URL}")
        if CHAT_ID in re.split("[/?#]", url.partition("://")[2])[0]:
            raise ValueError(
                f"{CHAT_ID} cannot be the host; write it after the host: host/{CHAT_ID}"
            )
        with threads.capture_logs():
            if not any(_client(url, each) for each in _SAMPLE_CHAT_IDS):
                raise ValueError(f"apprise does not understand it; use {LEGAL_URL}")
        parameters = (each.partition("=")[0] for each in re.split("[?&;]", url)[1:])
        if "format" in {unquote(each).strip().lower() for each in parameters}:
            raise ValueError(
                "contains ?format=, which would let a model's text act as the service's markup; "
                "remove it: each service gets its best format anyway"
            )
        return value


STORE = BlockStore(
    slug="daybook-channel",
    title="Daybook channel",
    noun="channel",
    model=ChannelSettings,
)


def check_chat_id(chat_id: str) -> None:
    """Raise `InvalidInput` if the chat id cannot replace `{chat_id}`."""
    if not _CHAT.match(chat_id):
        raise InvalidInput("chat_id", f'"{chat_id}" is not a chat id', _LEGAL_CHAT_ID)


def build(name: str, data: Mapping[str, Any]) -> AppriseChannel:
    """Return the channel with these stored settings. Raise `InvalidInput` if they are invalid."""
    return AppriseChannel(name, STORE.parse(name, data))


async def read(client: PrefectClient, name: str) -> AppriseChannel:
    """Return the channel ``name``. Raise `UnknownName`, or `InvalidInput` for invalid settings.

    Raise `NotDelivered` if apprise does not load in time.
    """
    document = await STORE.read(client, name, include_secrets=True)
    # Use a thread, because importing apprise with all its plugins takes a tenth of a second.
    return await threads.run_capturing_logs(lambda _: build(name, document.data))


def validate(name: str, url: str) -> AppriseChannel:
    """Return a channel that can be stored.

    Raise `InvalidInput`; its text does not contain the URL.
    """
    STORE.check_name(name)
    return AppriseChannel(name, STORE.validate({"url": url}))


async def add(
    client: PrefectClient, name: str, url: str, *, replace: bool = False
) -> AppriseChannel:
    """Save a channel, and a copy in the ledger; return the channel.

    Raise `InvalidInput` for an invalid URL or name, or a name in use (without ``replace``),
    `LedgerUnreachable`, and `NotDelivered` if apprise does not load in time.
    """
    channel = await threads.run_capturing_logs(lambda _: validate(name, url))
    await STORE.save(client, name, channel.settings, replace=replace)
    return channel


class AppriseChannel:
    """A channel that sends through apprise."""

    def __init__(self, name: str, settings: ChannelSettings) -> None:
        self._what = f'the channel "{name}"'
        self.settings = settings
        self._url = url = settings.url.get_secret_value()
        self.needs_chat_id = CHAT_ID in url
        with threads.capture_logs():
            clients = [_client(url, each) for each in _SAMPLE_CHAT_IDS]
            forms = [apprise_plugins.prepare(each) for each in clients if each is not None]
        self.limit = max(each.limit for each in forms)
        self.carries_files = all(each.carries_files for each in forms)

    async def send(self, message: Message) -> None:
        if self.needs_chat_id:
            try:
                check_chat_id(message.chat_id)
            except InvalidInput as error:
                raise NotDelivered(f"{self._what}: {error}", temporary=False) from None
        await threads.run_capturing_logs(lambda logged: self._send(message, logged), sends=True)

    def _send(self, message: Message, logged: list[str]) -> None:
        client = _client(self._url, message.chat_id)
        if client is None:
            problem = f'apprise does not understand the URL with the chat id "{message.chat_id}"'
            raise NotDelivered(f"{self._what}: {problem}")
        sent = apprise_plugins.prepare(client).render(message)
        notify_type = _NOTIFY_TYPES.get(message.event, "info")
        try:
            with apprise_plugins.plain_part(sent):
                arrived = client.notify(
                    body=sent.body,
                    title=sent.subject,
                    notify_type=notify_type,
                    attach=apprise_plugins.attach(message.attachments),
                    body_format=sent.format,
                )
        except Exception as error:
            logged.append(f"{type(error).__name__}: {error}")
            arrived = False
        if not arrived:
            why = "; ".join(logged) or "apprise reported a failure without a reason"
            secret = secret_texts({"url": self._url}, ["url"])
            raise NotDelivered(f"{self._what}: {redact(why, secret)}")


def _client(url: str, chat_id: str) -> Any | None:
    """Return an `Apprise` for the URL. Return None if apprise does not support the URL."""
    from apprise import Apprise, AppriseAsset

    asset = AppriseAsset(app_id="Daybook", app_desc="Daybook", app_url="")
    plugin = Apprise.instantiate(url.replace(CHAT_ID, quote(chat_id, safe="")), asset=asset)
    if plugin is None:
        return None
    client = Apprise(asset=asset)
    client.add(plugin)
    return client
