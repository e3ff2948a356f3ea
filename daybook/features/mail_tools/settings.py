"""The settings of the tools for mail."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, Field, field_validator

from daybook import settings

DEFAULT_PORT = 993
EXAMPLE = "imaps://me%40example.org@imap.example.org"


class MailSettings(BaseModel):
    """The settings of the tools for mail."""

    imap_url: str = Field(
        default="",
        description="Mailbox that the tools `mailbox` read, as imaps://USER@HOST; an @ in USER is "
        f"%40, such as {EXAMPLE}. Its password is the secret `imap`.",
    )

    @field_validator("imap_url")
    @classmethod
    def _is_mailbox(cls, value: str) -> str:
        if not value:
            return value
        try:
            parts = urlsplit(value)
            is_address = parts.scheme == "imaps" and bool(parts.hostname) and parts.port != 0
        except ValueError:  # the port is no number
            is_address = False
        if not is_address:  # do not repeat it, because it may contain a password
            raise ValueError(f"is no address of IMAP over TLS; write {EXAMPLE}")
        if parts.password is not None:
            raise ValueError("contains a password; save it: daybook secrets add imap --host HOST")
        if not parts.username or "@" in parts.username or parts.path.strip("/"):
            raise ValueError(f"has no user, or a folder; write {EXAMPLE}")
        if not unquote(parts.username).isprintable():
            raise ValueError("contains a control character; leave it out")
        return value


def load() -> MailSettings:
    """Return the settings of this process; raise the errors of `daybook.settings.load`."""
    return settings.part(MailSettings)
