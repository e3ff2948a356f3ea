"""Agents as block documents in a real Prefect: registration, reading and writing."""

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
from daybook import api, repository
from daybook.agents import documents, kinds
from daybook.agents.command import CommandAgent
from daybook.agents.offline import OfflineAgent
from daybook.api import preflight
from daybook.clock import SYSTEM_CLOCK
from daybook.diagnosis.checks import ledger as checks
from daybook.errors import AgentMisconfigured, Ambiguous, InvalidInput, NotFound, UnknownName
from daybook.home import Home
from daybook.jobs import store
from daybook.jobs.model import Job, new_job
from daybook.keeper.blocks import BLOCK_TYPES
from daybook.ledger.engine import open_ledger

pytestmark = pytest.mark.anyio

COMMAND = kinds.COMMAND.slug
OFFLINE = kinds.OFFLINE.slug


@pytest.fixture
async def bare(client: PrefectClient) -> AsyncIterator[PrefectClient]:
    """Yield a client of a Prefect without our block types; register them again afterwards."""
    for slug in kinds.KINDS:
        block_type = await client.read_block_type_by_slug(slug)
        await client.delete_block_type(block_type.id)
    yield client
    await blocks.register(client)


async def _add_beside(client: PrefectClient, name: str, slug: str, data: dict[str, object]) -> None:
    """Create a document as the Prefect UI does, without our checks."""
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
    own_ids = {each.slug for each in registered if each.slug.startswith("daybook-")}
    assert {each.slug for each in BLOCK_TYPES} == own_ids


@pytest.mark.slow
async def test_without_the_block_types_every_function_names_daybook_up(bare: PrefectClient) -> None:
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
async def test_registering_blocks_twice_changes_nothing(bare: PrefectClient) -> None:
    block_types = []
    for _ in range(2):
        await blocks.register(bare)
        types = [await bare.read_block_type_by_slug(slug) for slug in kinds.KINDS]
        schemas = await bare.read_block_schemas()
        own_ids = {block_type.id for block_type in types}
        block_types.append(
            {(t.id, t.updated) for t in types}
            | {(s.id, s.updated) for s in schemas if s.block_type_id in own_ids}
        )
    assert len(block_types[0]) == 2 * len(kinds.KINDS)
    assert block_types[0] == block_types[1]


@pytest.mark.slow
async def test_concurrent_registrations_of_blocks_succeed(bare: PrefectClient) -> None:
    await asyncio.gather(*(blocks.register(bare) for _ in range(8)))
    types = [await bare.read_block_type_by_slug(slug) for slug in kinds.KINDS]
    assert [each.slug for each in types] == list(kinds.KINDS)


@pytest.mark.slow
async def test_prefects_own_command_registers_the_same_block_types(bare: PrefectClient) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "prefect", "block", "register", "-m", "blocks"],
        cwd=repository.root(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    block_types = [await bare.read_block_type_by_slug(slug) for slug in kinds.KINDS]
    await blocks.register(bare)
    # The block type is the same from both commands, so neither overwrites the other's.
    assert block_types == [await bare.read_block_type_by_slug(slug) for slug in kinds.KINDS]
    for kind in kinds.KINDS.values():
        assert (await bare.read_block_type_by_slug(kind.slug)).name == kind.title
        assert kind.title in done.stdout


async def test_load_entry_point_returns_the_imported_blocks_package() -> None:
    assert repository.load_entry_point("blocks/__init__.py") is blocks


async def test_the_form_of_a_command_agent_block_has_exactly_its_settings(
    client: PrefectClient,
) -> None:
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
        "sandbox_readable",
        "sandbox_writable",
        "sandbox_hosts",
        "tools",
        "summarize_after_messages",
        "summarize_after_tokens",
        "history_tokens",
        "capabilities",
    ]
    assert schema.fields["required"] == ["command"]
    assert fields["command"]["items"] == {"type": "string"}
    assert fields["output"]["enum"] == ["text", "json", "claude-code", "codex"]
    assert "standard input" in fields["command"]["description"]
    assert "PATH" in fields["environment"]["default"]


@pytest.mark.slow
async def test_an_agent_is_added_read_described_and_removed(client: PrefectClient) -> None:
    settings = {"command": ["cat", "-"], "output": "json"}
    await documents.add(client, "robot", COMMAND, settings)
    assert await documents.names(client) == {"robot": [COMMAND]}
    agent = await documents.get(client, "robot")
    assert isinstance(agent, CommandAgent)
    assert (agent.name, agent.settings.command, agent.settings.output) == (
        "robot",
        ["cat", "-"],
        "json",
    )
    described = await documents.describe(client, "robot")
    assert described.kind == "command"
    assert described.settings["command"] == ["cat", "-"]
    assert described.settings["work_dir"] == ""
    assert described.problem is None
    await documents.remove(client, "robot")
    assert await documents.names(client) == {}


async def test_capabilities_are_listed_under_every_reference_to_an_agent(
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


async def test_an_agent_with_an_invalid_capability_is_refused(client: PrefectClient) -> None:
    with pytest.raises(InvalidInput, match="two words") as caught:
        await documents.add(client, "clerk", OFFLINE, {"capabilities": ["two words"]})
    assert caught.value.field == "capabilities"
    assert await documents.names(client) == {}


async def test_a_users_flow_loads_an_agent_document_as_a_block(client: PrefectClient) -> None:
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


async def test_a_block_validates_its_settings() -> None:
    with pytest.raises(ValueError, match="unknown placeholder"):
        blocks.CommandAgentBlock(command=["cat", "{who}"])


@pytest.mark.slow
async def test_an_unknown_agent_name_is_refused_with_the_known_names(client: PrefectClient) -> None:
    await documents.add(client, "robot", COMMAND, {"command": ["cat"]})
    await documents.ensure_default(client)
    for verb in (documents.get, documents.describe):
        with pytest.raises(UnknownName, match="known: default, robot") as caught:
            await verb(client, "robo")
        assert caught.value.field == "agent"
    with pytest.raises(NotFound, match=r'"robo" not found \(did you mean "robot"'):
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
async def test_an_invalid_agent_is_refused_with_the_field_and_not_stored(
    client: PrefectClient,
) -> None:
    await documents.add(client, "robot", COMMAND, {"command": ["cat"]})
    for name, slug, settings, field in REFUSALS:
        with pytest.raises(InvalidInput) as caught:
            await documents.add(client, name, slug, settings)
        assert caught.value.field == field, (name, slug, settings)
    assert await documents.names(client) == {"robot": [COMMAND]}


@pytest.mark.slow
async def test_two_agents_of_one_name_need_the_block_type_in_the_reference(
    client: PrefectClient,
) -> None:
    await documents.add(client, "robot", COMMAND, {"command": ["cat"]})
    await _add_beside(client, "robot", OFFLINE, {})
    with pytest.raises(Ambiguous, match="daybook-offline-agent/robot, daybook-command-agent/robot"):
        await documents.get(client, "robot")
    assert isinstance(await documents.get(client, f"{OFFLINE}/robot"), OfflineAgent)
    await documents.remove(client, f"{OFFLINE}/robot")
    assert isinstance(await documents.get(client, "robot"), CommandAgent)


async def test_replace_leaves_one_agent_of_a_name_that_a_crash_left_with_two_kinds(
    client: PrefectClient,
) -> None:
    await documents.add(client, "robot", COMMAND, {"command": ["cat"]})
    await _add_beside(client, "robot", OFFLINE, {})
    with pytest.raises(InvalidInput, match='"robot" is taken'):
        await documents.add(client, "robot", OFFLINE, {})
    await documents.add(client, "robot", OFFLINE, {}, replace=True)
    assert await documents.names(client) == {"robot": [OFFLINE]}


async def test_two_agents_of_one_name_are_both_listed_with_their_jobs(
    client: PrefectClient, daybook_home: Home
) -> None:
    await documents.add(client, "robot", COMMAND, {"command": ["cat"]})
    await _add_beside(client, "robot", OFFLINE, {})
    now = SYSTEM_CLOCK.now()
    async with open_ledger() as ledger, ledger.write() as session:
        for name, agent in (("any", "robot"), ("one", f"{COMMAND}/robot"), ("other", "writer")):
            job = new_job(name=name, now=now, prompt="Hi", agent=agent, on_demand=True)
            await store.add(session, job, name, now)
    listed = await api.agents.list_agents()
    assert [(each.name, each.type, each.jobs) for each in listed] == [
        ("robot", OFFLINE, ["any"]),
        ("robot", COMMAND, ["any", "one"]),
    ]


async def test_a_job_needs_the_block_type_of_an_agent_whose_name_is_shared(
    client: PrefectClient, daybook_home: Home
) -> None:
    await documents.add(client, "robot", COMMAND, {"command": ["cat"]})
    await _add_beside(client, "robot", OFFLINE, {})
    both = f"{OFFLINE}/robot, {COMMAND}/robot"
    now = SYSTEM_CLOCK.now()

    def asks(agent: str) -> Job:
        return new_job(
            name=agent.replace("/", "-"), now=now, prompt="Hi", agent=agent, on_demand=True
        )

    for slug in (OFFLINE, COMMAND):
        assert await preflight.check_action(client, asks(f"{slug}/robot"), "user") == []
    with pytest.raises(Ambiguous) as refused:
        await preflight.check_action(client, asks("robot"), "user")
    assert str(refused.value) == f'agent: "robot" is ambiguous (use one of {both})'

    async with open_ledger() as ledger, ledger.write() as session:
        for agent in ("robot", f"{OFFLINE}/robot", f"{COMMAND}/robot"):
            await store.add(session, asks(agent), agent.replace("/", "-"), now)
    (found,) = await checks.agents(client)
    assert str(found).startswith(
        f"robot uses the agent robot, which is ambiguous: use one of {both}"
    )


async def test_settings_broken_in_the_ui_are_described_but_refused_for_use(
    client: PrefectClient,
) -> None:
    await _add_beside(client, "broken", COMMAND, {"command": ["cat", "{who}"]})
    with pytest.raises(AgentMisconfigured, match='agent "broken": command: unknown placeholder'):
        await documents.get(client, "broken")
    described = await documents.describe(client, "broken")
    assert described.settings == {"command": ["cat", "{who}"]}
    assert (described.problem or "").startswith("command: unknown placeholder")


async def test_concurrent_calls_create_the_default_agent_once(client: PrefectClient) -> None:
    made = await asyncio.gather(*(documents.ensure_default(client) for _ in range(5)))
    assert made.count(True) == 1
    assert await documents.names(client) == {"default": [OFFLINE]}
    assert isinstance(await documents.get(client, "default"), OfflineAgent)
    assert await documents.ensure_default(client) is False


@pytest.mark.slow
async def test_ensure_default_keeps_the_operators_default_agent(client: PrefectClient) -> None:
    await documents.add(client, "default", COMMAND, {"command": ["cat"]})
    assert await documents.ensure_default(client) is False
    assert await documents.names(client) == {"default": [COMMAND]}
