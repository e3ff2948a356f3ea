"""Storage of tool servers in Prefect. Each server is one block document (`STORE`).

This module does not need the block class, which is a Prefect entry point, because the data of a
document are the settings. Headers refer to secrets by name, so a document contains no secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from daybook.feature import features
from daybook.http.secrets import SecretStore
from daybook.resources.secrets import PrefectSecretStore
from daybook.resources.store import BlockStore, DocumentInfo
from daybook.tools.server_settings import ToolServerSettings

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient


OWN_TOOLS = "daybook"
"""The word for the tools that schedule, `agents.base.OWN_TOOLS`."""


def _names_of_tools() -> set[str]:
    """Return the words by which an agent's setting `tools` names tools of Daybook."""
    return {OWN_TOOLS, *(word for each in features() for word, _ in each.agent_tools)}


STORE = BlockStore(
    slug="daybook-tool-server",
    title="Daybook tool server",
    noun="tool server",
    model=ToolServerSettings,
    field="tool",
    whole="command and url",
    reserved=_names_of_tools,
)


@dataclass(frozen=True)
class ToolServer:
    """A saved server."""

    name: str
    settings: ToolServerSettings


class ToolServers(Protocol):
    """Storage of saved servers. ``secrets`` resolves the references in their headers."""

    @property
    def secrets(self) -> SecretStore: ...

    async def names(self) -> list[str]:
        """Return all names, sorted."""
        ...

    async def read(self, name: str) -> ToolServer:
        """Return the server. Raise `UnknownName`, and `InvalidInput` for invalid settings."""
        ...


def build(name: str, data: Mapping[str, Any]) -> ToolServer:
    """Build the server from stored settings. Raise `InvalidInput` if the settings are invalid."""
    return ToolServer(name, STORE.parse(name, data))


class PrefectServers:
    """Implementation of `ToolServers` in Prefect. It raises the connection errors of its client."""

    def __init__(self, client: PrefectClient) -> None:
        self._client = client
        self.secrets: SecretStore = PrefectSecretStore(client)

    async def names(self) -> list[str]:
        return await STORE.names(self._client)

    async def read(self, name: str) -> ToolServer:
        return build(name, (await STORE.read(self._client, name)).data)

    async def every(self) -> list[DocumentInfo]:
        """Return all servers for display, sorted by name, including those with invalid settings."""
        documents = await STORE.documents(self._client)
        return [DocumentInfo.of(STORE, str(each.name), each.data) for each in documents]
