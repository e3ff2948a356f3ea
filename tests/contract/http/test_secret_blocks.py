"""Secrets in a real Prefect: saved as a block, read by name, never shown."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from prefect.blocks.system import Secret as PrefectsOwn
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import BlockDocumentCreate
from pydantic import SecretStr

import blocks
from daybook.errors import InvalidInput, NotFound, UnknownName
from daybook.home import Home
from daybook.http.secrets import Secret
from daybook.resources import secrets
from daybook.resources.secrets import STORE, PrefectSecretStore, SecretInfo
from tests.at_prefect import add_document, knowing_our_blocks

pytestmark = pytest.mark.anyio

VALUE = "s3cr3t-of-the-api"


@pytest.fixture
async def client(prefect_server: object, daybook_home: Home) -> AsyncIterator[PrefectClient]:
    """Yield a client of a Prefect that has our block types and no secrets."""
    async with knowing_our_blocks(STORE.slug, "secret") as client:
        yield client


async def test_a_saved_secret_block_is_read_as_a_secret(client: PrefectClient) -> None:
    block = blocks.SecretBlock(value=SecretStr(VALUE), hosts=["API.example.org."])
    await block.asave("ops", client=client)
    secret = await PrefectSecretStore(client).read("ops")
    assert secret == Secret("ops", VALUE, ("api.example.org",))
    loaded: Any = await blocks.SecretBlock.aload("ops", client=client)
    assert loaded.get_secret() == secret
    assert VALUE not in repr(loaded) + str(loaded) + repr(secret)


async def test_prefect_hides_the_value_of_a_secret(client: PrefectClient) -> None:
    await blocks.SecretBlock(value=SecretStr(VALUE), hosts=["api.example.org"]).asave(
        "ops", client=client
    )
    document = await client.read_block_document_by_name("ops", STORE.slug, include_secrets=False)
    assert document.data["hosts"] == ["api.example.org"]
    assert VALUE not in str(document.data)
    block_type = await client.read_block_type_by_slug(STORE.slug)
    schema = await client.get_most_recent_block_schema_for_block_type(block_type.id)
    assert schema is not None
    assert schema.fields["properties"]["hosts"]["items"] == {"type": "string"}
    assert schema.fields["required"] == ["value", "hosts"]
    assert schema.fields["secret_fields"] == ["value"]


async def test_an_unknown_secret_is_refused_with_the_known_names(client: PrefectClient) -> None:
    with pytest.raises(UnknownName, match="known: none"):
        await PrefectSecretStore(client).read("ops")
    await blocks.SecretBlock(value=SecretStr(VALUE), hosts=["api.example.org"]).asave(
        "team", client=client
    )
    with pytest.raises(UnknownName, match="known: team"):
        await PrefectSecretStore(client).read("ops")


async def test_prefects_own_secret_block_is_refused_because_it_has_no_hosts(
    client: PrefectClient,
) -> None:
    own: Any = PrefectsOwn(value=VALUE)  # type: ignore[arg-type]
    await own.asave("ops", client=client)
    with pytest.raises(InvalidInput, match="has no hosts") as refused:
        await PrefectSecretStore(client).read("ops")
    assert VALUE not in str(refused.value)


async def test_a_secret_block_made_invalid_in_the_ui_is_refused(client: PrefectClient) -> None:
    block_type = await client.read_block_type_by_slug(STORE.slug)
    schema = await client.get_most_recent_block_schema_for_block_type(block_type.id)
    assert schema is not None
    await client.create_block_document(
        BlockDocumentCreate(
            name="ops",
            data={"value": VALUE, "hosts": ["https://api.example.org/"]},
            block_schema_id=schema.id,
            block_type_id=block_type.id,
        )
    )
    with pytest.raises(InvalidInput, match="without scheme") as refused:
        await PrefectSecretStore(client).read("ops")
    assert VALUE not in str(refused.value)


@pytest.mark.slow
async def test_without_the_block_type_no_secret_is_known(client: PrefectClient) -> None:
    block_type = await client.read_block_type_by_slug(STORE.slug)
    await client.delete_block_type(block_type.id)
    try:
        with pytest.raises(UnknownName, match="known: none"):
            await PrefectSecretStore(client).read("ops")
    finally:
        await blocks.register(client)


async def test_a_secret_is_added_replaced_listed_and_removed(client: PrefectClient) -> None:
    await add_document(
        STORE, client, "ops", {"value": VALUE, "hosts": ["API.example.org.", "tool:Reindex"]}
    )
    secret = Secret("ops", VALUE, ("api.example.org", "tool:reindex"))
    assert await PrefectSecretStore(client).read("ops") == secret

    with pytest.raises(InvalidInput, match="taken"):
        await add_document(
            STORE, client, "ops", {"value": "-", "hosts": ["api.example.org"]}, replace=False
        )
    assert await PrefectSecretStore(client).read("ops") == secret

    await add_document(STORE, client, "ops", {"value": "another", "hosts": ["b.example"]})
    await add_document(STORE, client, "a", {"value": VALUE, "hosts": ["a.example"]})
    assert await PrefectSecretStore(client).read("ops") == Secret("ops", "another", ("b.example",))
    assert await secrets.list_secrets(client) == [
        SecretInfo(name="a", hosts=["a.example"], problem=None),
        SecretInfo(name="ops", hosts=["b.example"], problem=None),
    ]

    with pytest.raises(NotFound, match=r'secret "opsz" not found \(did you mean "ops"\?\)'):
        await STORE.remove(client, "opsz")
    await STORE.remove(client, "ops")
    with pytest.raises(NotFound, match='secret "ops" not found'):
        await STORE.remove(client, "ops")
    assert [each.name for each in await secrets.list_secrets(client)] == ["a"]


@pytest.mark.parametrize(
    ("given", "field", "words"),
    [
        (("Ops", VALUE, ["a.example"]), "name", "lowercase"),
        (("ops", VALUE, []), "hosts", "is not a host"),
        (("ops", VALUE, ["https://a.example"]), "hosts", "without scheme"),
        (("ops", f" {VALUE}", ["a.example"]), "value", "begins or ends with a space"),
        (("ops", "", ["a.example"]), "value", "is empty"),
    ],
    ids=["name", "no-host", "scheme", "space", "empty"],
)
async def test_an_invalid_secret_is_refused_and_not_stored(
    client: PrefectClient, given: Any, field: str, words: str
) -> None:
    with pytest.raises(InvalidInput, match=words) as refused:
        await add_document(STORE, client, given[0], {"value": given[1], "hosts": given[2]})
    assert refused.value.field == field
    assert VALUE not in str(refused.value)
    assert await secrets.list_secrets(client) == []


async def test_without_the_block_type_no_secret_is_stored(client: PrefectClient) -> None:
    block_type = await client.read_block_type_by_slug(STORE.slug)
    await client.delete_block_type(block_type.id)
    try:
        with pytest.raises(InvalidInput, match="daybook up"):
            await add_document(STORE, client, "ops", {"value": VALUE, "hosts": ["a.example"]})
        assert await secrets.list_secrets(client) == []
    finally:
        await blocks.register(client)
