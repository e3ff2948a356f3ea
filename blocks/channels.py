"""Channels as Prefect blocks: where jobs send answers and alerts, seen and edited in the UI."""

from __future__ import annotations

from prefect.blocks.core import Block

from daybook.channels import ours
from daybook.channels.base import Channel
from daybook.channels.ours import ChannelSettings


# The settings come first among the bases, as in agents.py.
class ChannelBlock(ChannelSettings, Block):
    """Where jobs send their answers and alerts: any service that apprise knows, by its URL."""

    _block_type_name = ours.TITLE
    _block_type_slug = ours.SLUG
    _description = ours.DESCRIPTION
    _code_example = """```python
from blocks.channels import ChannelBlock

await ChannelBlock(url="ntfy://my-topic").asave("BLOCK_NAME")
```"""

    def get_channel(self) -> Channel:
        """The channel; raises `InvalidInput` where its settings are not legal."""
        fields = {name: getattr(self, name) for name in ChannelSettings.model_fields}
        return ours.build(self._block_document_name or "unsaved", fields)
