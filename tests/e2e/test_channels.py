"""Channels: the commands, and messages of real runs to a real endpoint."""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.types import SecretDict
from sqlmodel import col, select

from daybook.clock import SystemClock
from daybook.delivery.channels import apprise, registry
from daybook.delivery.outgoing import dispatch_outgoing
from daybook.home import Home
from daybook.jobs.store import StoredJob
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import OutboxRow, RunRow
from daybook.operations import setup
from daybook.prefect.address import ui_address
from tests import rows
from tests.at_prefect import typed, with_client
from tests.commands import DaybookJson
from tests.receiver import Receiver, answer, serving
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]

TOKEN = "s3cr3t-of-the-channel"


async def forget_channels(client: Any) -> None:
    for name, slug in (await registry.names(client)).items():
        if name not in registry.BUILTIN:
            short = name.rpartition("/")[2]
            document = await client.read_block_document_by_name(short, slug)
            await client.delete_block_document(document.id)


# --- the command line


@pytest.fixture
def prepared(prefect_server: Any, daybook_home: Home) -> Iterator[Home]:
    """Yield a home whose Prefect has no channel, before and after the test."""
    with_client(setup.prepare)
    with_client(forget_channels)
    yield daybook_home
    with_client(forget_channels)


def added(*tokens: str, url: str) -> subprocess.CompletedProcess[str]:
    return typed("channels", "add", *tokens, given=url)


def test_a_channel_is_added_listed_used_and_removed(
    daybook_json: DaybookJson, tmp_path: Path
) -> None:
    output = added("team", url=f"tgram://123456789:{TOKEN}/{{chat_id}}\n")
    assert (output.returncode, "4,096 characters" in output.stdout) == (0, True), output.stderr
    assert "--chat-id" in output.stderr

    job = daybook_json("add", "Hello", "--on-demand", "--channel", "team", "--chat-id", "-1001")
    listed = {each["name"]: each for each in daybook_json("channels", "list")}
    assert set(listed) >= {"inbox", "file", "console", "team"}
    assert listed["team"] == {
        "name": "team",
        "kind": "daybook-channel",
        "chat_id": True,
        "limit": 4096,
        "problem": None,
        "jobs": [job["name"]],
    }
    refused = daybook_json("channels", "remove", "team", code=2)["error"]["message"]
    assert f"used by {job['name']}" in refused

    daybook_json("edit", job["id"], "--channel", "inbox", "--chat-id", "")
    assert daybook_json("channels", "remove", "team") == {"removed": "team"}
    daybook_json("channels", "remove", "team", code=3)
    daybook_json("channels", "remove", "inbox", code=2)
    assert TOKEN not in output.stdout + output.stderr


def test_a_channel_is_in_use_with_and_without_its_type_in_the_reference(
    daybook_json: DaybookJson, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A channel of a job or of the operator's alerts cannot be removed."""
    assert added("team", url="ntfy://topic").returncode == 0
    names = ("daybook-channel/team", "team")
    for reference, removed in zip(names, reversed(names), strict=True):
        job = daybook_json("add", "Hello", "--on-demand", "--channel", reference)
        listed = {each["name"]: each["jobs"] for each in daybook_json("channels", "list")}
        assert {name: jobs for name, jobs in listed.items() if jobs} == {"team": [job["name"]]}
        refused = daybook_json("channels", "remove", removed, code=2)["error"]["message"]
        assert f"used by {job['name']}" in refused

        daybook_json("remove", job["id"], "--yes")
        monkeypatch.setenv("DAYBOOK_ALERT_CHANNEL", reference)
        refused = daybook_json("channels", "remove", removed, code=2)["error"]["message"]
        assert "used by DAYBOOK_ALERT_CHANNEL" in refused
        monkeypatch.delenv("DAYBOOK_ALERT_CHANNEL")


def test_a_channel_url_is_never_an_argument_and_never_printed(prepared: Home) -> None:
    for tokens, url, words in (
        (("team", f"ntfy://{TOKEN}"), "", "cannot be passed on the command line"),
        (("team", "--url", f"ntfy://{TOKEN}"), "", "cannot be passed on the command line"),
        (("team",), "", "standard input is empty"),
        (("team",), f"nope://{TOKEN}", "apprise does not understand it"),
        (("Team",), f"ntfy://{TOKEN}", "NAME: "),
        (("file",), f"ntfy://{TOKEN}", "built-in channel"),
    ):
        output = added(*tokens, url=url)
        assert (output.returncode, words in output.stderr) == (2, True), output.stderr
        assert TOKEN not in output.stdout + output.stderr


@pytest.mark.floor("E", "An unknown channel is refused")
def test_a_job_with_an_invalid_recipient_is_refused_and_not_stored(
    daybook_json: DaybookJson,
) -> None:
    assert added("chats", url="ntfy://127.0.0.1/{chat_id}").returncode == 0
    invalid: list[tuple[tuple[str, ...], str, str]] = [
        (("--channel", "teem"), "channel", "known: chats, console, file, inbox"),
        (("--channel", "chats"), "chat_id", "is missing"),
        (("--channel", "chats", "--chat-id", "a/b"), "chat_id", "is not a chat id"),
        (("--channel", "file", "--chat-id", "../x"), "chat_id", "not a valid file name"),
        (("--on-complete", "http://169.254.169.254/x"), "on_complete", "metadata"),
        (("--on-fail", "http://0177.0.0.1/x"), "on_fail", "is not a valid URL"),
    ]
    for (tokens, field, words), checked in rows.each(invalid):
        with checked:
            error = daybook_json("add", "Hello", "--on-demand", *tokens, code=2)["error"]
            assert words in error["message"]
            assert error["field"].lstrip("-").replace("-", "_") == field
    assert daybook_json("list") == []

    job = daybook_json("add", "Hello", "--on-demand")
    for tokens, _, _ in invalid:
        daybook_json("edit", job["id"], *tokens, code=2)
    assert daybook_json("show", job["id"])["notify"] == job["notify"]
    daybook_json("add", "Hello", "--on-demand", "--channel", "chats", "--chat-id", "a-b")


def test_a_job_whose_channel_was_removed_can_still_be_edited(daybook_json: DaybookJson) -> None:
    assert added("team", url="ntfy://topic").returncode == 0
    job = daybook_json("add", "Hello", "--on-demand", "--channel", "team")
    with_client(lambda client: apprise.STORE.remove(client, "team"))
    assert daybook_json("edit", job["id"], "--name", "renamed")["name"] == "renamed"
    daybook_json("edit", job["id"], "--chat-id", "x", code=2)
    daybook_json("edit", job["id"], "--channel", "inbox")


def test_channels_test_reports_whether_the_message_arrived(
    daybook_json: DaybookJson, daybook_home: Home
) -> None:
    tried = daybook_json("channels", "test", "file", "Is it there?", "--chat-id", "try.md")
    assert (tried["channel"], tried["problem"]) == ("file", None)
    assert "Is it there?" in (daybook_home.path / "out" / "try.md").read_text()

    assert daybook_json("channels", "test", "inbox")["problem"] is None
    [there] = daybook_json("inbox")
    assert there["subject"] == "Daybook: test message"

    assert added("away", url="json://127.0.0.1:9/x").returncode == 0
    assert "Connection error" in daybook_json("channels", "test", "away", code=1)["problem"]
    daybook_json("channels", "test", "nope", code=3)


# --- runs


@pytest.fixture
async def world(world: PrefectWorld) -> AsyncIterator[PrefectWorld]:
    await forget_channels(world.client)
    yield world
    await forget_channels(world.client)


@pytest.fixture
async def endpoint(world: PrefectWorld) -> AsyncIterator[Receiver]:
    """Yield the endpoint of the channel `team`."""
    async with serving() as server:
        await apprise.add(world.client, "team", f"json://127.0.0.1:{server.port}")
        yield server


def messages(endpoint: Receiver) -> list[str]:
    return [json.loads(each.body)["message"] for each in endpoint.requests]


async def ran(world: PrefectWorld, stored: StoredJob) -> RunRow:
    """Run the job to its end, and dispatch remaining messages as the keeper does."""
    await world.executions.complete_here(await world.prefect.custom_run(stored))
    await dispatch_outgoing(world.ledger, world.client, "keeper", ui=ui_address())
    return (await world.runs.rows())[-1]


async def notification(world: PrefectWorld, run: RunRow) -> OutboxRow:
    async with world.ledger.read() as session:
        of_run = select(OutboxRow).where(col(OutboxRow.run_id) == run.id)
        row: OutboxRow = (await session.execute(of_run)).scalar_one()
        return row


@pytest.mark.anyio
@pytest.mark.journey
async def test_a_long_answer_is_shortened_and_sent_when_the_run_ends(
    world: PrefectWorld, endpoint: Receiver
) -> None:
    agent = await world.agents.add('print("x" * 39_990 + "\\nThe end.")')
    job = await world.deploy(on_demand=True, agent=agent.name, channel="team")
    run = await ran(world, job)

    assert (run.status, run.delivery) == ("succeeded", "delivered")
    [message] = messages(endpoint)
    assert len(message) <= 32_768
    head, _, last = message.rpartition("\n")
    assert set(head) == {"x"}
    assert last.startswith(
        f"[… {39_999 - len(head):,} more characters: `daybook show {run.id[:12]}`"
    )
    assert f"/runs/flow-run/{run.flow_run_id}]" in last


@pytest.mark.anyio
async def test_with_only_changed_a_repeated_answer_is_not_sent(
    world: PrefectWorld, endpoint: Receiver
) -> None:
    agent = await world.agents.add(
        'had(); n = open(sys.argv[1] + ".effects").read().count("\\n")\n'
        'print("Nothing new." if n < 3 else "Something new.")'
    )
    job = await world.deploy(on_demand=True, agent=agent.name, channel="team", only_changed=True)
    delivery = [(await ran(world, job)).delivery for _ in range(3)]

    assert delivery == ["delivered", "suppressed", "delivered"]
    assert messages(endpoint) == ["Nothing new.", "Something new."]


class Later(SystemClock):
    """The machine's clock, ten seconds ahead."""

    def now(self) -> Any:
        return super().now() + timedelta(seconds=10)


@pytest.mark.anyio
async def test_an_endpoint_that_was_down_gets_the_message_when_it_is_back(
    world: PrefectWorld, endpoint: Receiver
) -> None:
    endpoint.steps = [answer(503), answer(200)]
    agent = await world.agents.add('print("Here I am.")')
    job = await world.deploy(on_demand=True, agent=agent.name, channel="team")
    run = await ran(world, job)

    assert (run.status, run.delivery) == ("succeeded", "pending")
    row = await notification(world, run)
    assert (row.status, row.attempts) == ("pending", 1)
    assert "503" in str(row.error)

    async with Ledger(world.ledger.address, Later()) as later:
        sent = await dispatch_outgoing(later, world.client, "test", ui=None)
    assert (sent.delivered, sent.failed, sent.again) == (1, 0, 0)
    assert messages(endpoint) == ["Here I am."] * 2
    assert (await world.runs.rows())[-1].delivery == "delivered"


@pytest.mark.anyio
async def test_the_file_channel_writes_a_file_for_each_job(world: PrefectWorld) -> None:
    agent = await world.agents.add('print("Kept.")')
    job = await world.deploy(on_demand=True, agent=agent.name, channel="file")
    named = await world.deploy(on_demand=True, agent=agent.name, channel="file", chat_id="all.txt")
    for each in (job, named):
        assert (await ran(world, each)).delivery == "delivered"
    out = world.home.path / "out"
    assert {each.name for each in out.iterdir()} == {f"{job.row.slug}.md", "all.txt"}
    assert "Kept." in (out / f"{job.row.slug}.md").read_text()


@pytest.mark.anyio
async def test_a_notification_block_of_prefect_sends_the_answer(
    world: PrefectWorld, endpoint: Receiver
) -> None:
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    block = CustomWebhookNotificationBlock(
        name="hook",
        url=f"{endpoint.address}/{{{{token}}}}",
        json_data={"message": "{{body}}"},
        secrets=SecretDict({"token": TOKEN}),
    )
    await block.asave("hook", client=world.client)
    agent = await world.agents.add('print("Here I am.")')
    job = await world.deploy(on_demand=True, agent=agent.name, channel="hook")
    assert (await ran(world, job)).delivery == "delivered"
    assert messages(endpoint) == ["Here I am."]
    assert endpoint.requests[0].path == f"/{TOKEN}"
