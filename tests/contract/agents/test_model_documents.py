"""Model agents in a real Prefect: the API key, replacement, and the first start."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import BlockDocumentUpdate

from blocks.agents import ModelAgentBlock
from daybook import api
from daybook.agents import candidates, documents, kinds
from daybook.agents.base import AgentRequest
from daybook.agents.command import CommandAgent
from daybook.agents.model import ModelAgent
from daybook.agents.offline import OfflineAgent
from daybook.errors import InvalidInput, UnknownName
from daybook.home import Home
from daybook.operations import setup
from tests.providers import KEY, provider

pytestmark = pytest.mark.anyio

MODEL = kinds.MODEL.slug
SETTINGS = {"model": "openai:gpt-6-luna", "api_key": KEY, "system_prompt": "Be brief."}


def _on_disk(home: Path) -> str:
    """Return everything that Prefect has stored in its database, including events."""
    (database,) = home.rglob("prefect.db")
    with sqlite3.connect(database) as connection:
        return "\n".join(connection.iterdump())


@pytest.mark.slow
async def test_an_edit_keeps_the_key_until_another_address_would_get_it(
    client: PrefectClient,
) -> None:
    async def stored() -> dict[str, Any]:
        return (await documents.read(client, "brief"))[2]

    await api.agents.add("brief", "model", SETTINGS | {"options": {"temperature": 0.5}})
    await api.agents.edit("brief", {"system_prompt": "", "options": {"max_tokens": 9}})
    kept = await stored()
    assert (kept["api_key"], kept["system_prompt"]) == (KEY, "")
    assert kept["options"] == {"temperature": 0.5, "max_tokens": 9}
    for changes in ({"model": ""}, {"tools": ["nobody"]}, {"nothing": 1}):
        with pytest.raises(InvalidInput):
            await api.agents.edit("brief", changes)
        assert await stored() == kept
    edited = await api.agents.edit("brief", {"base_url": "http://127.0.0.1:1/v1"})
    assert edited.notes == [api.agents.KEY_DELETED]
    assert (await stored())["api_key"] == edited.settings["api_key"] == ""
    with pytest.raises(UnknownName):
        await api.agents.edit("nobody", {})


@pytest.mark.slow
async def test_a_model_agents_key_is_stored_encrypted_masked_and_used(
    client: PrefectClient, prefect_server: object
) -> None:
    with provider() as fake_provider:
        settings = SETTINGS | {"base_url": fake_provider.address}
        await documents.add(client, "brief", MODEL, settings)
        agent = await documents.get(client, "brief")
        assert isinstance(agent, ModelAgent)
        reply = await agent.answer(AgentRequest("Hello", 30.0, "flow:1"))
        assert reply.text == "Hello."
        assert fake_provider.requests[0].key == KEY
        described = await documents.describe(client, "brief")
        assert described.kind == "model"
        assert described.problem is None
        assert described.settings["api_key"] == "********"
        assert described.settings["system_prompt"] == "Be brief."
        assert KEY not in str(described)
    (document,) = await client.read_block_documents_by_type(MODEL)
    home: Path = prefect_server.home.path  # type: ignore[attr-defined]
    on_disk = _on_disk(home)
    assert str(document.id) in on_disk
    assert KEY not in on_disk


@pytest.mark.slow
async def test_a_missing_key_is_shown_as_empty(client: PrefectClient) -> None:
    await documents.add(client, "brief", MODEL, {"model": "openai:gpt-6-luna"})
    assert (await documents.describe(client, "brief")).settings["api_key"] == ""
    agent = await documents.get(client, "brief")
    assert isinstance(agent, ModelAgent)
    assert agent.settings.api_key.get_secret_value() == ""


@pytest.mark.slow
async def test_a_model_agent_block_is_the_same_agent_as_its_document(client: PrefectClient) -> None:
    await documents.add(client, "brief", MODEL, SETTINGS)
    block: Any = await ModelAgentBlock.aload("brief", client=client)
    assert KEY not in repr(block)
    assert block.get_agent() == await documents.get(client, "brief")
    saved = ModelAgentBlock(model="openai:gpt-6-luna", api_key=KEY)  # type: ignore[arg-type]
    await saved.asave("saved", client=client)
    agent = await documents.get(client, "saved")
    assert isinstance(agent, ModelAgent)
    assert agent.settings.api_key.get_secret_value() == KEY


async def test_the_form_of_a_model_agent_block_hides_the_key_and_has_plain_fields(
    client: PrefectClient,
) -> None:
    block_type = await client.read_block_type_by_slug(MODEL)
    schema = await client.get_most_recent_block_schema_for_block_type(block_type.id)
    assert schema is not None
    fields = schema.fields["properties"]
    assert list(sorted(fields, key=lambda name: fields[name]["position"])) == [
        "model",
        "base_url",
        "api_key",
        "system_prompt",
        "options",
        "tools",
        "stream",
        "pictures",
        "request_limit",
        "input_price",
        "output_price",
        "summarize_after_messages",
        "summarize_after_tokens",
        "history_tokens",
        "capabilities",
    ]
    assert schema.fields["secret_fields"] == ["api_key"]
    assert fields["api_key"]["format"] == "password"
    assert fields["api_key"]["default"] == ""
    assert not [name for name, field in fields.items() if "anyOf" in field]
    assert all(field["title"] and field["description"] for field in fields.values())


# --- replacing


@pytest.mark.slow
async def test_an_existing_agent_is_replaced_only_with_replace(client: PrefectClient) -> None:
    await documents.add(client, "brief", MODEL, SETTINGS)
    with pytest.raises(InvalidInput, match="taken"):
        await documents.add(client, "brief", MODEL, {"model": "openai:other"})
    before = (await client.read_block_documents_by_type(MODEL))[0].id
    await documents.add(client, "brief", MODEL, {"model": "openai:other"}, replace=True)
    (document,) = await client.read_block_documents_by_type(MODEL)
    assert document.id == before
    agent = await documents.get(client, "brief")
    assert isinstance(agent, ModelAgent)
    assert agent.settings.model == "openai:other"
    assert agent.settings.api_key.get_secret_value() == ""  # no setting of the old agent remains
    assert agent.settings.system_prompt == ""


@pytest.mark.slow
async def test_replace_may_change_the_kind_of_an_agent(client: PrefectClient) -> None:
    await documents.add(client, "brief", MODEL, SETTINGS)
    await documents.add(client, "brief", "command", {"command": ["cat"]}, replace=True)
    assert await documents.names(client) == {"brief": [kinds.COMMAND.slug]}
    assert isinstance(await documents.get(client, "brief"), CommandAgent)


@pytest.mark.slow
async def test_replace_with_invalid_settings_keeps_the_old_agent(client: PrefectClient) -> None:
    await documents.add(client, "brief", MODEL, SETTINGS)
    for slug, settings in ((MODEL, {"model": ""}), ("command", {"command": []})):
        with pytest.raises(InvalidInput):
            await documents.add(client, "brief", slug, settings, replace=True)
    agent = await documents.get(client, "brief")
    assert isinstance(agent, ModelAgent)
    assert agent.settings.api_key.get_secret_value() == KEY


async def test_replace_adds_an_agent_that_does_not_exist(client: PrefectClient) -> None:
    await documents.add(client, "brief", MODEL, SETTINGS, replace=True)
    assert await documents.names(client) == {"brief": [MODEL]}


# --- the first start


async def test_the_first_start_with_a_key_makes_the_default_agent_a_model_agent(
    client: PrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    (line,) = await setup.prepare(client)
    assert line == (
        "agent default: anthropic:claude-haiku-5-5 (ANTHROPIC_API_KEY is set; Prefect stores the "
        "key encrypted)"
    )
    agent = await documents.get(client, "default")
    assert isinstance(agent, ModelAgent)
    assert agent.settings.model == "anthropic:claude-haiku-5-5"
    assert agent.settings.api_key.get_secret_value() == KEY
    assert await setup.model_steps(client) == []


@pytest.mark.slow
async def test_the_first_start_without_the_sdk_of_its_key_names_the_missing_extra(
    client: PrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setitem(sys.modules, "anthropic", None)
    (line,) = await setup.prepare(client)
    assert line.startswith("agent default: offline")
    assert "ANTHROPIC_API_KEY is set, but the SDK" in line
    assert KEY not in line
    assert isinstance(await documents.get(client, "default"), OfflineAgent)


@pytest.mark.slow
async def test_the_first_start_without_a_key_makes_the_default_agent_offline(
    client: PrefectClient,
) -> None:
    (line,) = await setup.prepare(client)
    assert line.startswith("agent default: offline")
    assert await setup.model_steps(client) == candidates.offline_steps()
    assert isinstance(await documents.get(client, "default"), OfflineAgent)


async def test_the_first_start_chooses_a_program_once(
    client: PrefectClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("PROGRAM_SECONDS", "SERVER_SECONDS"):
        monkeypatch.setattr(candidates, limit, 60.0)  # for a loaded machine
    codex, calls = tmp_path / "codex", tmp_path / "calls"
    codex.write_text(f"#!/bin/sh\necho call >> '{calls}'\necho codex-cli 0.143.0\n")
    codex.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.defpath}"
    monkeypatch.setenv(candidates.MACHINE_VARIABLE, json.dumps({"path": path, "ports": {}}))
    (line,) = await setup.prepare(client)
    assert line == "agent default: Codex (codex 0.143.0 is on the PATH)"
    agent = await documents.get(client, "default")
    assert isinstance(agent, CommandAgent)
    assert agent.settings.command[0] == str(codex)
    assert agent.settings.output == "codex"
    assert await setup.model_steps(client) == []
    assert await setup.prepare(client) == []
    assert calls.read_text() == "call\n"


@pytest.mark.slow
async def test_a_later_start_keeps_the_existing_default_agent(
    client: PrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await setup.prepare(client)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert await setup.prepare(client) == []
    assert await documents.names(client) == {"default": [kinds.OFFLINE.slug]}


async def test_the_name_default_is_free_until_an_agent_that_is_not_offline_has_it(
    client: PrefectClient,
) -> None:
    offer = await api.agents.offer()
    assert offer.is_default_free
    assert (offer.found.candidates, "openai:gpt-6-luna" in offer.models) == ([], True)
    await documents.ensure_default(client)
    assert (await api.agents.offer()).is_default_free
    await documents.add(client, "default", MODEL, SETTINGS, replace=True)
    assert not (await api.agents.offer()).is_default_free


# --- a Prefect that lost its block types, and with them their documents


async def _lose(client: PrefectClient) -> None:
    for slug in kinds.KINDS:
        await client.delete_block_type((await client.read_block_type_by_slug(slug)).id)


@pytest.mark.slow
async def test_the_next_start_restores_a_lost_default_agent_from_the_ledger(
    client: PrefectClient,
) -> None:
    await documents.add(client, "default", MODEL, SETTINGS)
    await documents.add(client, "robot", "command", {"command": ["cat"]})
    await _lose(client)
    (line,) = await setup.prepare(client)
    assert line == "Restored in Prefect from the ledger: agent robot, agent default"
    agent = await documents.get(client, "default")
    assert isinstance(agent, ModelAgent)
    assert agent.settings.api_key.get_secret_value() == KEY
    assert await setup.prepare(client) == []


async def test_a_start_without_the_ledger_key_does_not_replace_a_lost_agent(
    client: PrefectClient, daybook_home: Home
) -> None:
    await documents.add(client, "default", MODEL, SETTINGS)
    await _lose(client)
    daybook_home.ledger_key.rename(daybook_home.path / "elsewhere")
    (line,) = await setup.prepare(client)
    assert f"{daybook_home.ledger_key} does not exist" in line
    assert "Not restored: agent default." in line
    assert await documents.names(client) == {}
    (daybook_home.path / "elsewhere").rename(daybook_home.ledger_key)
    await setup.prepare(client)
    assert isinstance(await documents.get(client, "default"), ModelAgent)


async def test_a_start_restores_the_settings_edited_in_the_ui(client: PrefectClient) -> None:
    await documents.add(client, "brief", MODEL, SETTINGS)
    await setup.prepare(client)
    (document,) = await client.read_block_documents_by_type(MODEL)
    edit = BlockDocumentUpdate(data={"api_key": "another-key"}, merge_existing_data=True)
    await client.update_block_document(document.id, edit)
    await setup.prepare(client)
    await _lose(client)
    await setup.prepare(client)
    agent = await documents.get(client, "brief")
    assert isinstance(agent, ModelAgent)
    assert agent.settings.api_key.get_secret_value() == "another-key"
    assert agent.settings.system_prompt == "Be brief."
