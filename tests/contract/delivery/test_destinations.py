"""Destinations in a real Prefect: stored, found by address, rotated, secrets never shown."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import BlockDocumentUpdate
from pydantic import SecretStr

import blocks
from daybook.api import secrets
from daybook.delivery import destinations
from daybook.delivery.destinations import Destination, DestinationInfo
from daybook.errors import InvalidInput, NotFound
from daybook.signing_secrets import signing_key
from tests.unit.delivery.rows import NEW, NOON, OLD

pytestmark = pytest.mark.anyio

OPS = "https://ops.example.org/hook"


async def _found(client: PrefectClient, url: str) -> str | None:
    found = await destinations.find(client, url)
    return found.name if found else None


async def test_a_destination_is_added_found_listed_and_removed(client: PrefectClient) -> None:
    made = await destinations.add(
        client, "ops", "https://OPS.example.org:443/hook", token="ops-token", timeout=5, tries=3
    )
    assert len(signing_key(made.secret)) == 32
    assert await destinations.find(client, f"{OPS}?x=1") == made
    assert (made.token, made.timeout, made.tries) == ("ops-token", 5, 3)
    assert made.secret not in repr(made)
    listed = await destinations.list_destinations(client, NOON)
    assert listed == [
        DestinationInfo(
            name="ops",
            url=made.url,
            token="ops-token",
            timeout=5,
            tries=3,
            rotating_until=None,
            problem=None,
        )
    ]
    for verb in (
        destinations.STORE.remove(client, "opsz"),
        destinations.rotate(client, "opsz", NOON),
    ):
        with pytest.raises(NotFound, match='did you mean "ops"'):
            await verb
    await destinations.STORE.remove(client, "ops")
    assert await destinations.list_destinations(client, NOON) == []
    with pytest.raises(NotFound, match='destination "ops" not found'):
        await destinations.STORE.remove(client, "ops")


@pytest.mark.slow
async def test_the_longest_matching_destination_is_found(client: PrefectClient) -> None:
    await destinations.add(client, "all", "https://ops.example.org")
    await destinations.add(client, "hook", f"{OPS}/")
    await destinations.add(client, "deep", f"{OPS}/deep")
    await destinations.add(client, "port", "https://ops.example.org:8443/")
    for url, name in {
        OPS: "hook",
        f"{OPS}/": "hook",
        f"{OPS}?deep": "hook",
        f"{OPS}/deeper": "hook",
        f"{OPS}/deep/x?y#z": "deep",
        f"{OPS}s": "all",
        "https://OPS.example.org.:443/": "all",
        "https://ops.example.org:8443/hook": "port",
        "http://ops.example.org/hook": None,
        "https://ops.example.org.evil.example/hook": None,
        "https://evil.example/ops.example.org/hook": None,
        "https://ops.example.org@evil.example/hook": None,
        "no address": None,
    }.items():
        assert await _found(client, url) == name, url


async def test_a_rotated_secret_stays_valid_for_a_day(client: PrefectClient) -> None:
    made = await destinations.add(client, "ops", OPS, secret=OLD, tries=4)
    assert made.secret == OLD
    new = await destinations.rotate(client, "ops", NOON)
    assert new == await destinations.find(client, OPS)
    assert new.secret not in ("", OLD) and new.tries == 4
    before, after = NOON + timedelta(hours=23, minutes=59), NOON + timedelta(hours=24)
    assert new.secrets(before) == [new.secret, OLD]
    assert new.secrets(after) == [new.secret]
    assert [
        each.rotating_until for each in await destinations.list_destinations(client, before)
    ] == [after]
    assert [
        each.rotating_until for each in await destinations.list_destinations(client, after)
    ] == [None]

    with pytest.raises(InvalidInput, match="still valid"):
        await destinations.rotate(client, "ops", before)
    assert await destinations.find(client, OPS) == new
    newest = await destinations.rotate(client, "ops", before, keep=timedelta(0))
    assert newest.secrets(before) == [newest.secret]
    with pytest.raises(NotFound):
        await destinations.rotate(client, "none", NOON)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"name": "Ops"}, "name"),
        ({"url": "ftp://ops.example.org"}, "url"),
        ({"url": f"{OPS}?token=s3cr3t"}, "url"),
        ({"url": "https://a:s3cr3t@ops.example.org/"}, "url"),
        ({"url": "http://169.254.169.254/"}, "url"),
        ({"secret": "whsec_s3cr3t"}, "secret"),
        ({"timeout": 46}, "timeout"),
        ({"timeout": 0.5}, "timeout"),
        ({"tries": 0}, "tries"),
        ({"tries": 21}, "tries"),
        ({"name": "kept"}, "name"),
        ({"url": "https://kept.example.org:443/a/"}, "url"),
    ],
)
@pytest.mark.slow
async def test_an_invalid_destination_is_refused_and_not_stored(
    client: PrefectClient, given: dict[str, Any], field: str
) -> None:
    await destinations.add(client, "kept", "https://kept.example.org/a")
    with pytest.raises(InvalidInput) as refused:
        await destinations.add(client, **{"name": "ops", "url": OPS} | given)
    assert refused.value.field == field
    assert "s3cr3t" not in str(refused.value)
    assert [each.name for each in await destinations.list_destinations(client, NOON)] == ["kept"]


async def test_a_destination_saved_as_a_block_is_found_and_hides_its_secrets(
    client: PrefectClient,
) -> None:
    block = blocks.DestinationBlock(url=OPS, secret=SecretStr(NEW), previous_secret=SecretStr(OLD))
    await block.asave("ops", client=client)
    assert await destinations.find(client, OPS) == Destination("ops", OPS, NEW, OLD)
    loaded: Any = await blocks.DestinationBlock.aload("ops", client=client)
    assert loaded.get_destination() == Destination("ops", OPS, NEW, OLD)
    assert NEW not in repr(loaded) + str(loaded)
    shown = await client.read_block_document_by_name(
        "ops", destinations.STORE.slug, include_secrets=False
    )
    assert NEW not in str(shown.data) and OLD not in str(shown.data)


async def test_a_destination_made_invalid_in_the_ui_is_reported_and_not_used(
    client: PrefectClient,
) -> None:
    await destinations.add(client, "ops", OPS, secret=NEW)
    document = await client.read_block_document_by_name("ops", destinations.STORE.slug)
    await client.update_block_document(
        document.id, BlockDocumentUpdate(data={"timeout": 4000, "url": OPS, "token": ["ops"]})
    )
    async with get_client() as other:  # with an empty cache
        with pytest.raises(InvalidInput, match='"ops" is invalid: token') as refused:
            await destinations.find(other, OPS)
        assert NEW not in str(refused.value)
        [listed] = await destinations.list_destinations(other, NOON)
    assert "token" in (listed.problem or "")
    assert await secrets.list_secrets() == []


async def test_find_uses_the_cached_destinations_of_the_client(client: PrefectClient) -> None:
    await destinations.add(client, "ops", OPS)
    assert await _found(client, OPS) == "ops"
    async with get_client() as other:
        await destinations.STORE.remove(other, "ops")
        assert await _found(other, OPS) is None
    assert await _found(client, OPS) == "ops"


async def test_without_the_block_type_no_destination_is_found_or_stored(
    client: PrefectClient,
) -> None:
    block_type = await client.read_block_type_by_slug(destinations.STORE.slug)
    await client.delete_block_type(block_type.id)
    try:
        assert await destinations.find(client, OPS) is None
        with pytest.raises(InvalidInput, match="daybook up"):
            await destinations.add(client, "ops", OPS)
    finally:
        await blocks.register(client)
