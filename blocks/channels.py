"""Prefect blocks of channels, whose settings can be viewed and edited in Prefect's UI."""

from __future__ import annotations

from prefect.blocks.core import Block

from daybook.delivery.channels import apprise
from daybook.delivery.channels.apprise import ChannelSettings
from daybook.delivery.channels.base import Channel


# The settings are the first base; see agents.py.
class ChannelBlock(ChannelSettings, Block):
    """Service that receives the answers and alerts of jobs, given by its apprise URL."""

    _block_type_name = apprise.STORE.title
    _block_type_slug = apprise.STORE.slug
    _code_example = """```python
from blocks.channels import ChannelBlock

await ChannelBlock(url="ntfy://my-topic").asave("BLOCK_NAME")
```"""

    def get_channel(self) -> Channel:
        """Return the channel; raise `InvalidInput` if its settings are invalid."""
        return apprise.build(*apprise.STORE.read_block(self))
