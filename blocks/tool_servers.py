"""Tool servers as Prefect blocks, whose settings can be viewed and edited in the Prefect UI."""

from __future__ import annotations

from prefect.blocks.core import Block

from daybook.tools import server_blocks
from daybook.tools.server_blocks import ToolServer, ToolServerSettings


# The settings are the first base; see agents.py.
class ToolServerBlock(ToolServerSettings, Block):
    """An MCP server whose tools jobs call: a program, or an address."""

    _block_type_name = server_blocks.TITLE
    _block_type_slug = server_blocks.SLUG
    _description = server_blocks.DESCRIPTION
    _code_example = """```python
from blocks.tool_servers import ToolServerBlock

await ToolServerBlock(command=["uvx", "mcp-server-time"]).asave("BLOCK_NAME")
```"""

    def get_server(self) -> ToolServer:
        """The server; raises `InvalidInput` where its settings are not legal."""
        fields = {name: getattr(self, name) for name in ToolServerSettings.model_fields}
        return server_blocks.build(self._block_document_name or "unsaved", fields)
