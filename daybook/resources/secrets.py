"""Secrets in Prefect: one block document each, of Daybook's own block type.

Prefect's own `Secret` block has no field for hosts, and a secret without hosts is sent nowhere. So
our type holds both, and Prefect's UI shows and edits them. Prefect encrypts the value.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from daybook.errors import InvalidInput, UnknownName
from daybook.http.secrets import Secret
from daybook.resources import documents
from daybook.resources.documents import BlockType

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

SLUG = "daybook-secret"
TITLE = "Daybook secret"
DESCRIPTION = "A secret that jobs refer to by name, and the hosts that it may be sent to."
TYPE = BlockType(SLUG, TITLE, "secret")

_HOST = re.compile(
    r"(tool:[^\s,]+|\[[0-9a-f:.]+\](:\d{1,5})?|(?=[0-9a-f.]*:[0-9a-f.]*:)[0-9a-f:.]+|"
    r"[a-z0-9_.-]+(:\d{1,5})?)\Z"
)


class SecretSettings(BaseModel):
    """One secret."""

    model_config = ConfigDict(extra="ignore")

    value: SecretStr = Field(description="What is sent in the place of {{secret:name}}.")
    hosts: list[str] = Field(
        description="Where it may go: api.example.org, or with a port api.example.org:8443; for a "
        "tool that has no host, tool:name.",
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


def build(name: str, data: dict[str, Any]) -> Secret:
    """Build a secret from stored settings; raise `InvalidInput` if they are invalid.

    The Prefect server does not validate a block that was edited in its UI, so this check does.
    """
    try:
        settings = SecretSettings.model_validate(data)
    except ValidationError as error:
        field, problem = documents.validation_problem(error)
        raise InvalidInput("secret", f'"{name}": {field}: {problem}', "fix the block") from None
    return Secret(name, settings.value.get_secret_value(), tuple(settings.hosts))


async def list_secrets(client: PrefectClient) -> list[dict[str, Any]]:
    """Return all secrets by name, without values: `{"name", "hosts", "problem"}`."""
    return [
        {"name": each.name, "hosts": each.data.get("hosts"), "problem": _wrong(each.data)}
        for each in await documents.list_documents(client, TYPE)
    ]


async def add(
    client: PrefectClient, name: str, value: str, hosts: Sequence[str], *, replace: bool = False
) -> None:
    """Save a secret; raise `InvalidInput` for a bad or taken name, bad hosts or a bad value."""
    settings = validate(value, hosts)
    await documents.save(
        client, TYPE, name, {"value": value, "hosts": settings.hosts}, replace=replace
    )


async def remove(client: PrefectClient, name: str) -> None:
    """Remove a secret; raise `NotFound` if there is none."""
    await documents.remove(client, TYPE, name)


def validate(value: str, hosts: Sequence[str]) -> SecretSettings:
    """Return the settings to store; raise `InvalidInput`, whose text omits the value."""
    try:
        return SecretSettings.model_validate({"value": value, "hosts": list(hosts)})
    except ValidationError as error:
        raise InvalidInput(*documents.validation_problem(error)) from None


def _wrong(data: dict[str, Any]) -> str | None:
    """Return the problem of a document that was read without its value, or None."""
    try:
        SecretSettings.model_validate(data)
    except ValidationError as error:
        return ": ".join(documents.validation_problem(error))
    return None


class PrefectSecretStore:
    """`SecretStore` that uses Prefect's async client; its connection errors propagate."""

    def __init__(self, client: PrefectClient) -> None:
        self._client = client

    async def read(self, name: str) -> Secret:
        from prefect.exceptions import ObjectNotFound

        try:
            document = await self._client.read_block_document_by_name(
                name, SLUG, include_secrets=True
            )
        except ObjectNotFound:
            raise await self._missing(name) from None
        return build(name, document.data)

    async def _missing(self, name: str) -> InvalidInput:
        from prefect.exceptions import ObjectNotFound

        try:
            await self._client.read_block_document_by_name(name, "secret", include_secrets=False)
        except ObjectNotFound:
            pass
        else:
            problem = f'"{name}" is a Secret block of Prefect\'s own, which is bound to no hosts'
            return InvalidInput("secret", problem, f'make a block of the type "{TITLE}" of it')
        documents_found = await documents.list_documents(self._client, TYPE)
        names = (str(each.name) for each in documents_found)
        return UnknownName("secret", name, names, f"`daybook secrets add {name}` keeps one")
