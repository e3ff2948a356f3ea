"""Secrets in Prefect: one block document each, of Daybook's own block type.

Prefect's own `Secret` block has no field for hosts, and a secret without hosts is sent nowhere. So
our type holds both, and Prefect's UI shows and edits them. Prefect encrypts the value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from daybook.errors import InvalidInput, UnknownName
from daybook.http.secrets import Secret
from daybook.resources.store import BlockStore

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

_HOST = re.compile(
    r"(tool:[^\s,]+|\[[0-9a-f:.]+\](:\d{1,5})?|(?=[0-9a-f.]*:[0-9a-f.]*:)[0-9a-f:.]+|"
    r"[a-z0-9_.-]+(:\d{1,5})?)\Z"
)


class SecretSettings(BaseModel):
    """One secret."""

    model_config = ConfigDict(extra="ignore")

    value: SecretStr = Field(description="Text that replaces {{secret:name}}.")
    hosts: list[str] = Field(
        description="Hosts that may receive it: api.example.org, or with a port "
        "api.example.org:8443; tool:name for a tool without a host.",
    )

    @field_validator("value")
    @classmethod
    def _one_line(cls, value: SecretStr) -> SecretStr:
        text = value.get_secret_value()
        if not text or text != text.strip():
            raise ValueError("is empty, or begins or ends with a space or a line break")
        return value

    @field_validator("hosts")
    @classmethod
    def _known_hosts(cls, value: list[str]) -> list[str]:
        hosts = [each.strip().lower().removesuffix(".") for each in value]
        if not hosts or not all(map(_HOST.match, hosts)):
            raise ValueError("name each host, without scheme, path or *: api.example.org")
        return hosts


STORE = BlockStore(
    slug="daybook-secret",
    title="Daybook secret",
    noun="secret",
    model=SecretSettings,
)


def build(name: str, data: Mapping[str, Any]) -> Secret:
    """Return the secret of stored settings; raise `InvalidInput` if they are invalid."""
    settings = STORE.parse(name, data)
    return Secret(name, settings.value.get_secret_value(), tuple(settings.hosts))


async def list_secrets(client: PrefectClient) -> list[dict[str, Any]]:
    """Return all secrets by name, without values: `{"name", "hosts", "problem"}`."""
    return [
        {"name": each.name, "hosts": each.data.get("hosts"), "problem": STORE.check(each.data)[1]}
        for each in await STORE.documents(client)
    ]


async def add(
    client: PrefectClient, name: str, value: str, hosts: Sequence[str], *, replace: bool = False
) -> None:
    """Save a secret; raise `InvalidInput` for a bad or taken name, bad hosts or a bad value."""
    settings = STORE.validate({"value": value, "hosts": list(hosts)})
    await STORE.save(client, name, settings, replace=replace)


class PrefectSecretStore:
    """`SecretStore` that uses Prefect's async client; its connection errors propagate."""

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
        """Raise `InvalidInput` if Prefect's own type of secrets has one with this name."""
        from prefect.exceptions import ObjectNotFound

        with suppress(ObjectNotFound):
            await self._client.read_block_document_by_name(name, "secret", include_secrets=False)
            problem = (
                f'"{name}" is one of Prefect\'s own Secret blocks, which are bound to no hosts'
            )
            raise InvalidInput(
                "secret", problem, f'create a block of the type "{STORE.title}" instead'
            )
