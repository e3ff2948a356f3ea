"""Notification blocks of third-party types, and a Prefect whose internals differ."""

from __future__ import annotations

import logging
from typing import Any, ClassVar

import pytest
from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.notifications import AbstractAppriseNotificationBlock
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import BlockDocumentCreate, BlockSchemaCreate, BlockTypeCreate
from pydantic import SecretStr

from daybook.delivery import channels
from daybook.delivery.channels import NotDelivered
from daybook.delivery.channels.apprise_plugins import DEFAULT_MAX_LENGTH
from tests.contract.channels.conftest import LONG, row

pytestmark = pytest.mark.anyio

TOKEN = "s3cr3t-of-another"


class Pager(NotificationBlock):
    """Block whose only method is a coroutine."""

    _block_type_slug = "tests-pager"
    token: SecretStr
    says: ClassVar[list[tuple[str | None, str]]] = []
    error: ClassVar[Exception | None] = None

    async def notify(self, body: str, subject: str | None = None) -> None:
        if self.error:
            raise self.error
        self.says.append((subject, body))


class Renamed(AbstractAppriseNotificationBlock):
    """Block like Prefect's own, but without the private attributes that we use."""

    _block_type_slug = "tests-renamed"
    says: ClassVar[list[str]] = []

    def block_initialization(self) -> None:
        """Create no apprise client."""

    def notify(self, body: str, subject: str | None = None) -> None:  # type: ignore[override]
        self.says.append(body)


@pytest.fixture(autouse=True)
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pager, "says", [])
    monkeypatch.setattr(Pager, "error", None)
    monkeypatch.setattr(Renamed, "says", [])


async def test_a_third_party_notification_block_is_a_channel(client: PrefectClient) -> None:
    await Pager(token=SecretStr(TOKEN)).asave("pager", client=client)
    assert (await channels.names(client))["pager"] == "tests-pager"
    await channels.send(client, row("pager", LONG))
    assert Pager.says == [("morning-brief: succeeded", LONG)]


@pytest.mark.parametrize("error", [RuntimeError(f"no {TOKEN}"), ValueError(), OSError(5, TOKEN)])
async def test_an_exception_of_a_block_is_reported_without_its_secret(
    client: PrefectClient, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(Pager, "error", error)
    await Pager(token=SecretStr(TOKEN)).asave("pager", client=client)
    with pytest.raises(NotDelivered, match=type(error).__name__) as failed:
        await channels.send(client, row("pager"))
    assert TOKEN not in str(failed.value)
    assert failed.value.temporary


@pytest.mark.slow
async def test_a_block_without_an_apprise_client_gets_a_cut_message_and_logs_a_warning(
    client: PrefectClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    await Renamed().asave("renamed", client=client)
    await channels.send(client, row("renamed", LONG))
    [message] = Renamed.says
    assert len(message) <= DEFAULT_MAX_LENGTH
    assert "more characters" in message
    assert "has no apprise client where it was expected" in caplog.text


async def test_a_block_whose_class_is_not_installed_is_reported(client: PrefectClient) -> None:
    made = await client.create_block_type(BlockTypeCreate(name="Absent", slug="tests-absent"))
    try:
        fields: dict[str, Any] = {"title": "Absent", "type": "object", "properties": {}}
        fields |= {"block_type_slug": "tests-absent"}
        schema = await client.create_block_schema(
            BlockSchemaCreate(block_type_id=made.id, fields=fields, capabilities=["notify"])
        )
        await client.create_block_document(
            BlockDocumentCreate(
                name="absent", data={}, block_schema_id=schema.id, block_type_id=made.id
            )
        )
        with pytest.raises(NotDelivered, match="tests-absent, whose class is not installed"):
            await channels.send(client, row("absent"))
    finally:
        await client.delete_block_type(made.id)
