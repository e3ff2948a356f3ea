"""Agents in a real Prefect: registration, and block documents."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import BlockDocumentCreate

import blocks
from daybook import repository
from daybook.agents import documents, kinds
from daybook.agents.command import CommandAgent
from daybook.agents.offline import OfflineAgent
from daybook.errors import AgentMisconfigured, Ambiguous, InvalidInput, NotFound, UnknownName
from daybook.keeper.blocks import BLOCK_TYPES

pytestmark = pytest.mark.anyio

COMMAND = kinds.COMMAND.slug
OFFLINE = kinds.OFFLINE.slug


@pytest.fixture
async def bare(client: PrefectClient) -> AsyncIterator[PrefectClient]:
    """A client of a Prefect that does not know our block types, for as long as the test runs."""
    for slug in kinds.KINDS:
        block_type = await client.read_block_type_by_slug(slug)
        await client.delete_block_type(block_type.id)
    yield client
    await blocks.register(client)


async def _add_beside(client: PrefectClient, name: str, slug: str, data: dict[str, object]) -> None:
    """As the Prefect UI does it: past our checks."""
    block_type = await client.read_block_type_by_slug(slug)
    schema = await client.get_most_recent_block_schema_for_block_type(block_type.id)
    assert schema is not None
    await client.create_block_document(
        BlockDocumentCreate(
            name=name, data=data, block_schema_id=schema.id, block_type_id=block_type.id
        )
    )


async def test_the_ledger_copies_the_documents_of_every_block_type(client: PrefectClient) -> None:
    registered = await client.read_block_types()
    ours = {each.slug for each in registered if each.slug.startswith("daybook-")}
    assert {each.slug for each in BLOCK_TYPES} == ours


@pytest.mark.slow
async def test_without_the_block_types_every_verb_says_how_to_register_them(
    bare: PrefectClient,
) -> None:
    for verb in (
        documents.names(bare),
        documents.get(bare, "default"),
        documents.add(bare, "robot", OFFLINE, {}),
        documents.remove(bare, "default"),
        documents.describe(bare, "default"),
        documents.ensure_default(bare),
    ):
        with pytest.raises(AgentMisconfigured, match="daybook up"):
            await verb


@pytest.mark.slow
async def test_registering_twice_changes_nothing(bare: PrefectClient) -> None:
    seen = []
    for _ in range(2):
        await blocks.register(bare)
        types = [await bare.read_block_type_by_slug(slug) for slug in kinds.KINDS]
        schemas = await bare.read_block_schemas()
        ours = {block_type.id for block_type in types}
        seen.append(
            {(t.id, t.updated) for t in types}
            | {(s.id, s.updated) for s in schemas if s.block_type_id in ours}
        )
    assert len(seen[0]) == 2 * len(kinds.KINDS)
    assert seen[0] == seen[1]


@pytest.mark.slow
async def test_processes_that_register_at_once_do_not_disturb_each_other(
    bare: PrefectClient,
) -> None:
    await asyncio.gather(*(blocks.register(bare) for _ in range(8)))
    types = [await bare.read_block_type_by_slug(slug) for slug in kinds.KINDS]
    assert [each.slug for each in types] == list(kinds.KINDS)


@pytest.mark.slow
async def test_prefects_own_command_registers_them(bare: PrefectClient) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "prefect", "block", "register", "-m", "blocks"],
        cwd=repository.root(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    seen = [await bare.read_block_type_by_slug(slug) for slug in kinds.KINDS]
    await blocks.register(bare)
    # Whoever registers, the type is the same, so that two do not overwrite each other.
    assert seen == [await bare.read_block_type_by_slug(slug) for slug in kinds.KINDS]
    for kind in kinds.KINDS.values():
        assert (await bare.read_block_type_by_slug(kind.slug)).name == kind.title
        assert kind.title in done.stdout


async def test_a_door_loaded_by_its_path_is_the_one_that_is_imported() -> None:
    assert repository.load_entry_point("blocks/__init__.py") is blocks


async def test_the_form_has_the_settings_and_nothing_else(client: PrefectClient) -> None:
    block_type = await client.read_block_type_by_slug(COMMAND)
    assert block_type.description == blocks.CommandAgentBlock.__doc__
    assert block_type.logo_url is None
    schema = await client.get_most_recent_block_schema_for_block_type(block_type.id)
    assert schema is not None
    fields = schema.fields["properties"]
    assert list(sorted(fields, key=lambda name: fields[name]["position"])) == [
        "command",
        "work_dir",
        "environment",
        "output",
        "history",
        "tools",
        "capabilities",
    ]
    assert schema.fields["required"] == ["command"]
    assert fields["command"]["items"] == {"type": "string"}
    assert fields["output"]["enum"] == ["text", "json"]
    assert "standard input" in fields["command"]["description"]
    assert "PATH" in fields["environment"]["default"]


@pytest.mark.slow
async def test_an_agent_is_added_read_described_and_removed(client: PrefectClient) -> None:
    settings = {"command": ["cat", "-"], "output": "json"}
    await documents.add(client, "robot", COMMAND, settings)
    assert await documents.names(client) == {"robot": COMMAND}
    agent = await documents.get(client, "robot")
    assert isinstance(agent, CommandAgent)
    assert (agent.name, agent.settings.command, agent.settings.output) == (
        "robot",
        ["cat", "-"],
        "json",
    )
    described = await documents.describe(client, "robot")
    assert described["kind"] == "command"
    assert described["settings"]["command"] == ["cat", "-"]
    assert described["settings"]["work_dir"] == ""
    assert described["problem"] is None
    await documents.remove(client, "robot")
    assert await documents.names(client) == {}


async def test_what_agents_can_do_is_read_by_every_reference_to_them(
    client: PrefectClient,
) -> None:
    given = {"capabilities": ["review", " python", "review"]}
    await documents.add(client, "robot", COMMAND, {"command": ["cat"]} | given)
    await documents.add(client, "clerk", OFFLINE, {})
    await documents.add(client, "twin", COMMAND, {"command": ["cat"]} | given)
    await _add_beside(client, "twin", OFFLINE, {"capabilities": ["mail"]})
    both = {"python", "review"}
    assert await documents.capabilities(client) == {
        "robot": both,
        f"{COMMAND}/robot": both,
        "clerk": set(),
        f"{OFFLINE}/clerk": set(),
        f"{COMMAND}/twin": both,
        f"{OFFLINE}/twin": {"mail"},
    }


async def test_a_capability_that_no_task_can_ask_for_is_refused(client: PrefectClient) -> None:
    with pytest.raises(InvalidInput, match="two words") as caught:
        await documents.add(client, "clerk", OFFLINE, {"capabilities": ["two words"]})
    assert caught.value.field == "capabilities"
    assert await documents.names(client) == {}


async def test_a_document_is_also_a_block_in_a_users_flow(client: PrefectClient) -> None:
    await documents.add(client, "robot", COMMAND, {"command": ["cat"], "work_dir": "/"})
    block: Any = await blocks.CommandAgentBlock.aload("robot", client=client)
    assert isinstance(block, blocks.CommandAgentBlock)
    assert block.get_agent() == await documents.get(client, "robot")
    await documents.ensure_default(client)
    offline: Any = await blocks.OfflineAgentBlock.aload("default", client=client)
    assert isinstance(offline, blocks.OfflineAgentBlock)
    assert offline.get_agent() == await documents.get(client, "default")


async def test_a_block_saved_in_python_is_an_agent(client: PrefectClient) -> None:
    await blocks.CommandAgentBlock(command=["cat"]).asave("mine", client=client)
    agent = await documents.get(client, "mine")
    assert isinstance(agent, CommandAgent)
    assert agent.settings.command == ["cat"]


async def test_a_block_keeps_the_checks_of_its_settings() -> None:
    with pytest.raises(ValueError, match="unknown placeholder"):
        blocks.CommandAgentBlock(command=["cat", "{who}"])


@pytest.mark.slow
async def test_an_unknown_name_is_told_with_the_known_ones(client: PrefectClient) -> None:
    await documents.add(client, "robot", COMMAND, {"command": ["cat"]})
    await documents.ensure_default(client)
    for verb in (documents.get, documents.describe):
        with pytest.raises(UnknownName, match="known: default, robot") as caught:
            await verb(client, "robo")
        assert caught.value.field == "agent"
    with pytest.raises(NotFound, match='agent "robo" not found'):
        await documents.remove(client, "robo")


REFUSALS: list[tuple[str, str, dict[str, object], str]] = [
    ("robot", COMMAND, {"command": ["cat"]}, "name"),
    ("robot", OFFLINE, {}, "name"),
    ("Robot", OFFLINE, {}, "name"),
    ("my robot", OFFLINE, {}, "name"),
    ("", OFFLINE, {}, "name"),
    ("-a", OFFLINE, {}, "name"),
    ("a\n", OFFLINE, {}, "name"),
    ("a" * 65, OFFLINE, {}, "name"),
    ("new", "daybook-magic-agent", {}, "kind"),
    ("new", COMMAND, {}, "command"),
    ("new", COMMAND, {"command": ["cat", "{who}"]}, "command"),
    ("new", OFFLINE, {"command": ["cat"]}, "command"),
]


@pytest.mark.slow
async def test_a_refusal_names_the_field_and_stores_nothing(client: PrefectClient) -> None:
    await documents.add(client, "robot", COMMAND, {"command": ["cat"]})
    for name, slug, settings, field in REFUSALS:
        with pytest.raises(InvalidInput) as caught:
            await documents.add(client, name, slug, settings)
        assert caught.value.field == field, (name, slug, settings)
    assert await documents.names(client) == {"robot": COMMAND}


@pytest.mark.slow
async def test_two_of_one_name_made_in_the_ui_are_told_apart(client: PrefectClient) -> None:
    await documents.add(client, "robot", COMMAND, {"command": ["cat"]})
    await _add_beside(client, "robot", OFFLINE, {})
    with pytest.raises(Ambiguous, match="daybook-offline-agent/robot, daybook-command-agent/robot"):
        await documents.get(client, "robot")
    assert isinstance(await documents.get(client, f"{OFFLINE}/robot"), OfflineAgent)
    await documents.remove(client, f"{OFFLINE}/robot")
    assert isinstance(await documents.get(client, "robot"), CommandAgent)


async def test_settings_broken_in_the_ui_are_shown_and_not_used(client: PrefectClient) -> None:
    await _add_beside(client, "broken", COMMAND, {"command": ["cat", "{who}"]})
    with pytest.raises(AgentMisconfigured, match='agent "broken": command: unknown placeholder'):
        await documents.get(client, "broken")
    described = await documents.describe(client, "broken")
    assert described["settings"] == {"command": ["cat", "{who}"]}
    assert described["problem"].startswith("command: unknown placeholder")


async def test_the_default_agent_is_made_once_also_in_a_race(client: PrefectClient) -> None:
    made = await asyncio.gather(*(documents.ensure_default(client) for _ in range(5)))
    assert made.count(True) == 1
    assert await documents.names(client) == {"default": OFFLINE}
    assert isinstance(await documents.get(client, documents.DEFAULT_AGENT), OfflineAgent)
    assert await documents.ensure_default(client) is False


@pytest.mark.slow
async def test_a_default_agent_of_the_operators_own_is_left_alone(client: PrefectClient) -> None:
    await documents.add(client, "default", COMMAND, {"command": ["cat"]})
    assert await documents.ensure_default(client) is False
    assert await documents.names(client) == {"default": COMMAND}
