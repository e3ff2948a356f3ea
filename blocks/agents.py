"""Prefect blocks of agents, whose settings can be viewed and edited in Prefect's UI.

The fields are the settings in `daybook.agents`; `get_agent` returns the agent.
"""

from __future__ import annotations

from prefect.blocks.core import Block

from daybook.agents import kinds
from daybook.agents.base import Agent
from daybook.agents.command import CommandSettings
from daybook.agents.model_settings import ModelSettings
from daybook.agents.offline import OfflineSettings


def _example(block: str) -> str:
    # Prefect's generated example would use the name under which this module was loaded.
    return f"""```python
from blocks.agents import {block}

block = await {block}.aload("BLOCK_NAME")
agent = block.get_agent()
```"""


# The settings are the first base, which keeps their validators. Block is the last, because the last
# base's model configuration applies, and Prefect needs its own. Prefect's UI shows the first
# sentence of the docstring as the description.
class OfflineAgentBlock(OfflineSettings, Block):
    """Agent without a network or a model; its answer says so."""

    _block_type_name = kinds.OFFLINE.title
    _block_type_slug = kinds.OFFLINE.slug
    _code_example = _example("OfflineAgentBlock")

    def get_agent(self) -> Agent:
        """Return the agent with these settings; raise `AgentMisconfigured` if they are invalid."""
        return kinds.build(kinds.OFFLINE.slug, *kinds.OFFLINE.read_block(self))


class CommandAgentBlock(CommandSettings, Block):
    """Agent that runs a program with the prompt as its input; the output is the answer."""

    _block_type_name = kinds.COMMAND.title
    _block_type_slug = kinds.COMMAND.slug
    _code_example = _example("CommandAgentBlock")

    def get_agent(self) -> Agent:
        """Return the agent with these settings; raise `AgentMisconfigured` if they are invalid."""
        return kinds.build(kinds.COMMAND.slug, *kinds.COMMAND.read_block(self))


class ModelAgentBlock(ModelSettings, Block):
    """Agent that asks a model, of any provider or at an OpenAI-compatible URL."""

    _block_type_name = kinds.MODEL.title
    _block_type_slug = kinds.MODEL.slug
    _code_example = _example("ModelAgentBlock")

    def get_agent(self) -> Agent:
        """Return the agent with these settings; raise `AgentMisconfigured` if they are invalid."""
        return kinds.build(kinds.MODEL.slug, *kinds.MODEL.read_block(self))
