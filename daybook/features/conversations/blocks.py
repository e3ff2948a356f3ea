"""The Prefect blocks of the accounts."""

from __future__ import annotations

from prefect.blocks.core import Block

from daybook.features.conversations import accounts
from daybook.features.conversations.platform import Account
from daybook.features.conversations.settings import TelegramSettings


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
