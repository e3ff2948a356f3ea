"""Secrets in Prefect: each secret is a block document of Daybook's own block type.

Daybook sends a secret only to the hosts that may receive it, and Prefect's own `Secret` block has
no field for hosts. So Daybook's type has two fields: the value, which Prefect encrypts, and the
hosts. Users can edit both fields in Prefect's UI.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from daybook.errors import InvalidInput, UnknownName
from daybook.http.secrets import Secret
from daybook.resources.store import BlockStore, DocumentView

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

_HOST = re.compile(
    r"(tool:[^\s,]+|[a-z][a-z-]*:(?=[0-9-]*[a-z])[a-z0-9-]+|\[[0-9a-f:.]+\](:\d{1,5})?|(?=[0-9a-f.]*:[0-9a-f.]*:)[0-9a-f:.]+|"
    r"[a-z0-9_.-]+(:\d{1,5})?)\Z"
)


class SecretSettings(BaseModel):
    """Value of a secret, and the hosts that may receive it."""

    model_config = ConfigDict(extra="ignore")

    value: SecretStr = Field(description="Value that replaces {{secret:name}}.")
    hosts: list[str] = Field(
        description="Hosts that may receive it, such as api.example.org or "
        "api.example.org:8443. Without a host: tool:name, agent:name, channel:name, hook:name.",
    )

    @field_validator("value")
    @classmethod
    def _one_line(cls, value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        if not text or text != text.strip():
            raise ValueError(
                "is empty, or begins or ends with a space or a line break; use the value without "
                "them"
            )
        return value

    @field_validator("hosts")
    @classmethod
    def _known_hosts(cls, value: list[str]) -> list[str]:
        hosts = [each.strip().lower().removesuffix(".") for each in value]
        if not hosts or not all(map(_HOST.match, hosts)):
            raise ValueError(
                "is empty, or has an entry that is not a host; use names such as api.example.org, "
                "without scheme, path or *"
            )
        return hosts


class SecretInfo(DocumentView, frozen=True):
    """A stored secret, without its value.

    ``problem`` is the reason why the stored settings are invalid, None if they are valid. In
    invalid settings, ``hosts`` may be any JSON value.
    """

    name: str
    hosts: Any
    problem: str | None


STORE = BlockStore(
    slug="daybook-secret",
    title="Daybook secret",
    noun="secret",
    model=SecretSettings,
)


def build(name: str, data: Mapping[str, Any]) -> Secret:
    """Build the secret from stored settings; raise `InvalidInput` if they are invalid."""
    settings = STORE.parse(name, data)
    return Secret(name, settings.value.get_secret_value(), tuple(settings.hosts))


async def list_secrets(client: PrefectClient) -> list[SecretInfo]:
    """Return all secrets, sorted by name, without their values."""
    documents = await STORE.documents(client)
    return [SecretInfo.of(STORE, str(each.name), each.data) for each in documents]


class PrefectSecretStore:
    """Implementation of `SecretStore` in Prefect. Connection errors of the client propagate."""

    def __init__(self, client: PrefectClient) -> None:
        self._client = client

    async def read(self, name: str) -> Secret:
        fix = f"add it with `daybook secrets add {name}`"
        try:
            document = await STORE.read(self._client, name, include_secrets=True, fix=fix)
        except UnknownName:
            await self._refuse_prefect_secret(name)
            raise
        return build(name, document.data)

    async def _refuse_prefect_secret(self, name: str) -> None:
        """Raise `InvalidInput` if a block of Prefect's own type `Secret` has this name."""
        from prefect.exceptions import ObjectNotFound

        with suppress(ObjectNotFound):
            await self._client.read_block_document_by_name(name, "secret", include_secrets=False)
            problem = f'"{name}" is a block of Prefect\'s own type Secret, which has no hosts'
            raise InvalidInput(
                "secret", problem, f'create a block of the type "{STORE.title}" instead'
            )
