"""Settings of the accounts with which people talk to agents."""

from __future__ import annotations

import re
from typing import Annotated

import httpx
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    field_validator,
)

from daybook.jobs.actions import DEFAULT_AGENT
from daybook.markers import Marker

Line = Annotated[str, StringConstraints(strip_whitespace=True, max_length=500)]
MAIL_ADDRESS = r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9.-]{1,189}"
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


def _checked_url(value: str) -> str:
    try:
        is_url = httpx.URL(value).scheme in ("http", "https") and bool(httpx.URL(value).host)
    except httpx.InvalidURL:
        is_url = False
    if value and not is_url:
        raise ValueError("is not a URL; use one such as http://localhost:8081, or none")
    return value.rstrip("/")


ApiUrl = Annotated[
    Line,
    AfterValidator(_checked_url),
    Marker(gets_secrets=True),
    Field(
        title="API URL",
        description="URL of the service's API; empty for the public one.",
        examples=["http://localhost:8081"],
    ),
]


class AccountSettings(BaseModel):
    """Settings that the accounts of all services have."""

    model_config = ConfigDict(extra="ignore")

    agent: Annotated[Line, Marker(names="agent")] = Field(
        default=DEFAULT_AGENT,
        title="Agent",
        description="Agent that answers messages that continue no other conversation.",
    )


class TelegramSettings(AccountSettings):
    """A Telegram bot that sends messages, and hears the people who are paired with it."""

    token: SecretStr = Field(
        title="Token",
        description="Token of the bot, from @BotFather: 123456789:AAE….",
    )
    api_url: ApiUrl = ""

    @field_validator("token")
    @classmethod
    def _is_token(cls, value: SecretStr) -> SecretStr:
        token = value.get_secret_value().strip()
        number, colon, rest = token.partition(":")
        if (
            not (number.isascii() and number.isdigit() and colon and rest)
            or not token.isprintable()
        ):
            raise ValueError("is not a bot's token; @BotFather shows it, such as 123456789:AAE…")
        if any(each.isspace() or each in "/?#" for each in token):
            raise ValueError("contains a character that no bot's token has; copy it again")
        return SecretStr(token)


class SlackSettings(AccountSettings):
    """A Slack app that sends messages, and hears the people who are paired with it."""

    token: SecretStr = Field(
        title="Bot token",
        description="Bot token of the app, from OAuth & Permissions: xoxb-….",
    )
    app_token: SecretStr = Field(
        title="App-level token",
        description="Token of the app with the scope connections:write, from Basic Information: "
        "xapp-….",
    )
    api_url: ApiUrl = ""

    @field_validator("token")
    @classmethod
    def _is_bot_token(cls, value: SecretStr) -> SecretStr:
        return _slack_token(value, "xoxb-", "bot token")

    @field_validator("app_token")
    @classmethod
    def _is_app_token(cls, value: SecretStr) -> SecretStr:
        return _slack_token(value, "xapp-", "app-level token")


def _slack_token(value: SecretStr, prefix: str, noun: str) -> SecretStr:
    token = value.get_secret_value().strip()
    if not token.startswith(prefix) or token == prefix:
        raise ValueError(f"is not an app's {noun}, which begins with {prefix}")
    if not all(each.isascii() and each.isprintable() and not each.isspace() for each in token):
        raise ValueError("contains a character that no token has; copy it again")
    return SecretStr(token)


class MailboxSettings(AccountSettings):
    """A mailbox of Daybook's own, with which people exchange letters."""

    address: Line = Field(
        title="Address",
        description="Address of the mailbox, to which people write.",
        examples=["daybook@example.org"],
    )
    password: SecretStr = Field(
        title="Password", description="Password of the mailbox, for IMAP and SMTP."
    )
    imap_host: Annotated[Line, Marker(gets_secrets=True, port="imap_port")] = Field(
        title="IMAP server",
        description="Server of the mailbox, by TLS.",
        examples=["imap.example.org"],
    )
    smtp_host: Annotated[Line, Marker(gets_secrets=True, port="smtp_port")] = Field(
        title="SMTP server",
        description="Server that sends, by TLS; by STARTTLS if its port is not 465.",
        examples=["smtp.example.org"],
    )
    user: Line = Field(
        default="", title="User", description="Name for the login, if it is not the address."
    )
    imap_port: int = Field(
        default=993, ge=1, le=65_535, title="IMAP port", description="Port of the IMAP server."
    )
    smtp_port: int = Field(
        default=465, ge=1, le=65_535, title="SMTP port", description="Port of the SMTP server."
    )
    folder: Line = Field(
        default="INBOX", title="Folder", description="Folder in which letters arrive."
    )
    authserv_id: Line = Field(
        default="",
        title="Name of the receiving server",
        description="First word of the header Authentication-Results that the mail server adds. "
        "Without it, only replies to Daybook's letters count, because a sender may be forged.",
        examples=["mx.google.com"],
    )
    plus_addressing: bool = Field(
        default=False,
        title="Plus addressing",
        description="Whether letters to NAME+CODE@… arrive too: people can then also begin a "
        "conversation by writing to the address to which they reply.",
    )

    @field_validator("address")
    @classmethod
    def _is_mail_address(cls, value: str) -> str:
        if not re.fullmatch(MAIL_ADDRESS, value):
            raise ValueError("is not an address; write one such as daybook@example.org")
        return value

    @field_validator("imap_host", "smtp_host")
    @classmethod
    def _is_host(cls, value: str) -> str:
        if not _HOST.fullmatch(value):
            raise ValueError("is not the name of a server; write one such as mail.example.org")
        return value

    @field_validator("user", "folder", "authserv_id")
    @classmethod
    def _is_printable(cls, value: str) -> str:
        if not value.isprintable():
            raise ValueError("contains a control character; leave it out")
        return value

    @field_validator("password")
    @classmethod
    def _is_password(cls, value: SecretStr) -> SecretStr:
        password = value.get_secret_value()
        if not password or not password.isprintable():
            raise ValueError("is empty or contains a control character; copy it again")
        return value
