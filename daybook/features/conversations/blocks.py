"""The Prefect blocks of the accounts."""

from __future__ import annotations

from prefect.blocks.core import Block

from daybook.features.conversations import accounts
from daybook.features.conversations.platform import Account
from daybook.features.conversations.settings import (
    MailboxSettings,
    SlackSettings,
    TelegramSettings,
)


class TelegramBlock(TelegramSettings, Block):
    """A Telegram bot that sends messages, and hears the people who are paired with it."""

    _block_type_name = accounts.TELEGRAM.title
    _block_type_slug = accounts.TELEGRAM.slug
    _code_example = """```python
from blocks import TelegramBlock

await TelegramBlock(token="123456789:AAE…").asave("BLOCK_NAME")
```"""

    def get_account(self) -> Account:
        """Return the account; raise `InvalidInput` if its settings are invalid."""
        return accounts.build(accounts.TELEGRAM.slug, *accounts.TELEGRAM.read_block(self))


class SlackBlock(SlackSettings, Block):
    """A Slack app that sends messages, and hears the people who are paired with it."""

    _block_type_name = accounts.SLACK.title
    _block_type_slug = accounts.SLACK.slug
    _code_example = """```python
from blocks import SlackBlock

await SlackBlock(token="xoxb-…", app_token="xapp-…").asave("BLOCK_NAME")
```"""

    def get_account(self) -> Account:
        """Return the account; raise `InvalidInput` if its settings are invalid."""
        return accounts.build(accounts.SLACK.slug, *accounts.SLACK.read_block(self))


class MailboxBlock(MailboxSettings, Block):
    """A mailbox of Daybook's own, with which people exchange letters."""

    _block_type_name = accounts.MAIL.title
    _block_type_slug = accounts.MAIL.slug
    _code_example = """```python
from blocks import MailboxBlock

await MailboxBlock(
    address="daybook@example.org",
    password="…",
    imap_host="imap.example.org",
    smtp_host="smtp.example.org",
).asave("BLOCK_NAME")
```"""

    def get_account(self) -> Account:
        """Return the account; raise `InvalidInput` if its settings are invalid."""
        return accounts.build(accounts.MAIL.slug, *accounts.MAIL.read_block(self))
