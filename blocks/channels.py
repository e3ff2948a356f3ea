"""Channels as Prefect blocks: where jobs send answers and alerts, viewed and edited in the UI."""

from __future__ import annotations

from prefect.blocks.core import Block

from daybook.delivery.channels import apprise
from daybook.delivery.channels.apprise import ChannelSettings
from daybook.delivery.channels.base import Channel


# The settings are the first base; see agents.py.
class ChannelBlock(ChannelSettings, Block):
    """Where jobs send their answers and alerts: any service that apprise knows, by its URL."""

    _block_type_name = apprise.STORE.title
    _block_type_slug = apprise.STORE.slug
    _description = apprise.STORE.description
    _code_example = """```python
from blocks.channels import ChannelBlock

await ChannelBlock(url="ntfy://my-topic").asave("BLOCK_NAME")
```"""

    def get_channel(self) -> Channel:
        """The channel; raises `InvalidInput` if its settings are invalid."""
        return apprise.build(*apprise.STORE.read_block(self))
