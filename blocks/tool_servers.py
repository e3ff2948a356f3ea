"""Prefect blocks of tool servers, whose settings can be viewed and edited in Prefect's UI."""

from __future__ import annotations

from prefect.blocks.core import Block

from daybook.tools import server_blocks
from daybook.tools.server_blocks import ToolServer
from daybook.tools.server_settings import ToolServerSettings


# The settings are the first base; see agents.py.
class ToolServerBlock(ToolServerSettings, Block):
    """MCP server whose tools jobs and agents call: a program or a URL."""

    _block_type_name = server_blocks.STORE.title
    _block_type_slug = server_blocks.STORE.slug
    _code_example = """```python
from blocks.tool_servers import ToolServerBlock

await ToolServerBlock(command=["uvx", "mcp-server-time"]).asave("BLOCK_NAME")
```"""

    def get_server(self) -> ToolServer:
        """Return the server; raise `InvalidInput` if its settings are invalid."""
        return server_blocks.build(*server_blocks.STORE.read_block(self))
