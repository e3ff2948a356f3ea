"""Prefect block types of agents, tool servers, channels, secrets, destinations and features.

Each block type has a method ``get_…``, which builds the object that the settings describe.
`daybook up` and the deploy step of `prefect.yaml` register the types. To register them by hand, in
the repository's root::

    python -m prefect block register -m blocks
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefect.blocks.core import Block

from daybook import feature

# `register` and Prefect's own command register every block class that these modules define.
# The imports are relative, unlike in the other Prefect entry points: if another package is called
# `blocks`, this file is loaded by its path, under another name.
from .agents import *  # noqa: F403
from .channels import *  # noqa: F403
from .endpoints import *  # noqa: F403
from .tool_servers import *  # noqa: F403

# A class is an attribute of this module, as `blocks.HookBlock`.
globals().update({each.__name__: each for each in feature.loaded("blocks")})

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient


async def register(client: PrefectClient | None = None) -> None:
    """Register the block types in Prefect, or update them. A second call changes nothing.

    Without ``client``, open one.
    """
    from prefect.exceptions import ObjectAlreadyExists

    for block in tuple(globals().values()):
        if not Block.is_block_class(block) or block.__module__.startswith("prefect."):
            continue
        try:
            await block.aregister_type_and_schema(client=client)
        except ObjectAlreadyExists:  # another process has just registered it
            await block.aregister_type_and_schema(client=client)
