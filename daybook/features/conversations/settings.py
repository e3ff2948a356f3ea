"""Settings of the accounts with which people talk to agents."""

from __future__ import annotations

from typing import Annotated

import httpx
from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, field_validator

from daybook.jobs.actions import DEFAULT_AGENT
from daybook.markers import Marker

Line = Annotated[str, StringConstraints(strip_whitespace=True, max_length=500)]


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
    api_url: Annotated[Line, Marker(gets_secrets=True)] = Field(
        default="",
        title="API URL",
        description="URL of a Bot API server of your own; empty for Telegram's.",
        examples=["http://localhost:8081"],
    )

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

    @field_validator("api_url")
    @classmethod
    def _is_url(cls, value: str) -> str:
        try:
            is_url = httpx.URL(value).scheme in ("http", "https") and bool(httpx.URL(value).host)
        except httpx.InvalidURL:
            is_url = False
        if value and not is_url:
            raise ValueError("is not a URL; use one such as http://localhost:8081, or none")
        return value.rstrip("/")
