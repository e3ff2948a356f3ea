"""Channels as Prefect blocks: where jobs send answers and alerts, viewed and edited in the UI."""

from __future__ import annotations

from prefect.blocks.core import Block

from daybook.delivery.channels import apprise
from daybook.delivery.channels.apprise import ChannelSettings
from daybook.delivery.channels.base import Channel


# The settings are the first base; see agents.py.
class ChannelBlock(ChannelSettings, Block):
    """Recipient of answers and alerts: any service that apprise supports, by its URL."""

    _block_type_name = apprise.TITLE
    _block_type_slug = apprise.SLUG
    _description = apprise.DESCRIPTION
    _code_example = """```python
from blocks.channels import ChannelBlock

await ChannelBlock(url="ntfy://my-topic").asave("BLOCK_NAME")
```"""

    def get_channel(self) -> Channel:
        """The channel; raises `InvalidInput` where its settings are not legal."""
        fields = {name: getattr(self, name) for name in ChannelSettings.model_fields}
        return apprise.build(self._block_document_name or "unsaved", fields)
