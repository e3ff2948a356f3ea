"""Prefect block types of the systems that jobs use, each with one ``get_…()`` that returns a port.

`daybook up` and the deploy step of `prefect.yaml` register them; by hand, from the repository's
root::

    python -m prefect block register -m blocks
"""

from __future__ import annotations

from typing import TYPE_CHECKING

# Relative imports, unlike in the other Prefect entry points: if another package is called `blocks`,
# this file is loaded by its path, under another name.
from .agents import CommandAgentBlock, ModelAgentBlock, OfflineAgentBlock
from .channels import ChannelBlock
from .endpoints import DestinationBlock, SecretBlock
from .tool_servers import ToolServerBlock

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

__all__ = [
    "ChannelBlock",
    "CommandAgentBlock",
    "DestinationBlock",
    "ModelAgentBlock",
    "OfflineAgentBlock",
    "SecretBlock",
    "ToolServerBlock",
    "register",
]


async def register(client: PrefectClient | None = None) -> None:
    """Register the block types in Prefect or update them; idempotent."""
    from prefect.exceptions import ObjectAlreadyExists

    for block in (
        OfflineAgentBlock,
        CommandAgentBlock,
        ModelAgentBlock,
        SecretBlock,
        ToolServerBlock,
        DestinationBlock,
        ChannelBlock,
    ):
        try:
            await block.aregister_type_and_schema(client=client)
        except ObjectAlreadyExists:  # another process has just registered it
            await block.aregister_type_and_schema(client=client)
