"""Channels from the command line to an endpoint that is there, and back."""

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
from tests.at_prefect import Daybook, commands, typed, with_client
from tests.receiver import Receiver, answer, serving
from tests.world import World
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
def prepared(prefect_server: Any, daybook_home: Home) -> Iterator[None]:
    """A Prefect that holds no channel, before and after."""
    with_client(setup.prepare)
    with_client(forget_channels)
    yield
    with_client(forget_channels)


@pytest.fixture
def daybook(prepared: None, capsys: pytest.CaptureFixture[str]) -> Iterator[Daybook]:
    """Carry out a command line with `--json`; gives what it printed. No job is there at the end."""

    with commands(capsys) as carry_out:
        yield carry_out


def added(*tokens: str, url: str) -> subprocess.CompletedProcess[str]:
    return typed("channels", "add", *tokens, given=url)


def test_a_channel_is_added_listed_used_and_removed(daybook: Daybook, tmp_path: Path) -> None:
    said = added("team", url=f"tgram://123456789:{TOKEN}/{{chat_id}}\n")
    assert (said.returncode, "4,096 characters" in said.stdout) == (0, True), said.stderr
    assert "--chat-id" in said.stderr

    job = daybook("add", "Hello", "--on-demand", "--channel", "team", "--chat-id", "-1001")
    listed = {each["name"]: each for each in daybook("channels", "list")}
    assert set(listed) >= {"inbox", "file", "console", "team"}
    assert listed["team"] == {
        "name": "team",
        "kind": "daybook-channel",
        "chat_id": True,
        "limit": 4096,
        "problem": None,
        "jobs": [job["name"]],
    }
    refused = daybook("channels", "remove", "team", code=2)["error"]["message"]
    assert f"used by {job['name']}" in refused

    daybook("edit", job["id"], "--channel", "inbox", "--chat-id", "")
    assert daybook("channels", "remove", "team") == {"removed": "team"}
    daybook("channels", "remove", "team", code=3)
    daybook("channels", "remove", "inbox", code=2)
    assert TOKEN not in said.stdout + said.stderr


def test_the_operators_own_channel_is_not_removed(
    daybook: Daybook, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert added("team", url="ntfy://topic").returncode == 0
    monkeypatch.setenv("DAYBOOK_ALERT_CHANNEL", "team")
    refused = daybook("channels", "remove", "team", code=2)["error"]["message"]
    assert "DAYBOOK_ALERT_CHANNEL" in refused


def test_a_url_is_never_an_argument_nor_repeated(prepared: None) -> None:
    for tokens, url, words in (
        (("team", f"ntfy://{TOKEN}"), "", "never an argument"),
        (("team", "--url", f"ntfy://{TOKEN}"), "", "never an argument"),
        (("team",), "", "standard input is empty"),
        (("team",), f"nope://{TOKEN}", "apprise does not understand it"),
        (("Team",), f"ntfy://{TOKEN}", "NAME: "),
        (("file",), f"ntfy://{TOKEN}", "built-in channel"),
    ):
        said = added(*tokens, url=url)
        assert (said.returncode, words in said.stderr) == (2, True), said.stderr
        assert TOKEN not in said.stdout + said.stderr


@pytest.mark.parametrize(
    ("typed", "field", "words"),
    [
        (("--channel", "teem"), "channel", "known: chats, console, file, inbox"),
        (("--channel", "chats"), "chat_id", "is missing"),
        (("--channel", "chats", "--chat-id", "a/b"), "chat_id", "is not a chat id"),
        (("--channel", "file", "--chat-id", "../x"), "chat_id", "not a valid file name"),
        (("--on-complete", "http://169.254.169.254/x"), "on_complete", "metadata"),
        (("--on-fail", "http://0177.0.0.1/x"), "on_fail", "is not a valid URL"),
    ],
    ids=["unknown", "no chat", "bad chat", "bad file", "metadata", "spelling"],
)
def test_what_could_not_be_told_is_refused_and_nothing_is_stored(
    daybook: Daybook, typed: tuple[str, ...], field: str, words: str
) -> None:
    assert added("chats", url="ntfy://127.0.0.1/{chat_id}").returncode == 0
    error = daybook("add", "Hello", "--on-demand", *typed, code=2)["error"]
    assert words in error["message"]
    assert error["field"].lstrip("-").replace("-", "_") == field
    assert daybook("list") == []

    job = daybook("add", "Hello", "--on-demand")
    daybook("edit", job["id"], *typed, code=2)
    assert daybook("show", job["id"])["notify"] == job["notify"]
    daybook("add", "Hello", "--on-demand", "--channel", "chats", "--chat-id", "a-b")


def test_a_job_whose_channel_is_gone_can_still_be_changed(daybook: Daybook) -> None:
    assert added("team", url="ntfy://topic").returncode == 0
    job = daybook("add", "Hello", "--on-demand", "--channel", "team")
    with_client(lambda client: apprise.STORE.remove(client, "team"))
    assert daybook("edit", job["id"], "--name", "renamed")["name"] == "renamed"
    daybook("edit", job["id"], "--chat-id", "x", code=2)
    daybook("edit", job["id"], "--channel", "inbox")


def test_a_test_tells_whether_it_arrived(daybook: Daybook, daybook_home: Home) -> None:
    tried = daybook("channels", "test", "file", "Is it there?", "--chat-id", "try.md")
    assert (tried["channel"], tried["problem"]) == ("file", None)
    assert "Is it there?" in (daybook_home.path / "out" / "try.md").read_text()

    assert daybook("channels", "test", "inbox")["problem"] is None
    [there] = daybook("inbox")
    assert there["subject"] == "Daybook: test message"

    assert added("away", url="json://127.0.0.1:9/x").returncode == 0
    assert "Connection error" in daybook("channels", "test", "away", code=1)["problem"]
    daybook("channels", "test", "nope", code=3)


# --- a run


@pytest.fixture
async def world(world: World) -> AsyncIterator[World]:
    await forget_channels(world.client)
    yield world
    await forget_channels(world.client)


@pytest.fixture
async def endpoint(world: World) -> AsyncIterator[Receiver]:
    """What the channel `team` sends to."""
    async with serving() as here:
        await apprise.add(world.client, "team", f"json://127.0.0.1:{here.port}")
        yield here


def messages(endpoint: Receiver) -> list[str]:
    return [json.loads(each.body)["message"] for each in endpoint.requests]


async def ran(world: World, stored: StoredJob) -> RunRow:
    """Run the job to its end, and let what its process leaves be sent as the keeper sends it."""
    await world.workers.executed(await world.prefect.custom_run(stored))
    await dispatch_outgoing(world.ledger, world.client, "keeper")
    return (await world.rows())[-1]


async def told(world: World, run: RunRow) -> OutboxRow:
    async with world.ledger.read() as session:
        of_run = select(OutboxRow).where(col(OutboxRow.run_id) == run.id)
        row: OutboxRow = (await session.execute(of_run)).scalar_one()
        return row


@pytest.mark.anyio
@pytest.mark.journey
async def test_an_answer_arrives_when_the_run_ends(world: World, endpoint: Receiver) -> None:
    agent = await world.agents.add('print("x" * 39_990 + "\\nThe end.")')
    job = await world.deploy(on_demand=True, agent=agent.name, channel="team")
    run = await ran(world, job)

    assert (run.status, run.delivery) == ("succeeded", "delivered")
    [said] = messages(endpoint)
    assert len(said) <= 32_768
    kept, _, last = said.rpartition("\n")
    assert set(kept) == {"x"}
    assert last.startswith(
        f"[… {39_999 - len(kept):,} more characters: `daybook show {run.id[:12]}`"
    )
    assert f"/runs/flow-run/{run.flow_run_id}]" in last


@pytest.mark.anyio
async def test_only_an_answer_that_differs_is_sent(world: World, endpoint: Receiver) -> None:
    agent = await world.agents.add(
        'had(); n = open(sys.argv[1] + ".effects").read().count("\\n")\n'
        'print("Nothing new." if n < 3 else "Something new.")'
    )
    job = await world.deploy(on_demand=True, agent=agent.name, channel="team", only_changed=True)
    delivery = [(await ran(world, job)).delivery for _ in range(4)]

    assert delivery == ["delivered", "suppressed", "delivered", "suppressed"]
    assert messages(endpoint) == ["Nothing new.", "Something new."]


class Later(SystemClock):
    """The machine's clock, put forward."""

    def now(self) -> Any:
        return super().now() + timedelta(seconds=10)


@pytest.mark.anyio
async def test_what_was_away_gets_it_when_it_is_back(world: World, endpoint: Receiver) -> None:
    endpoint.steps = [answer(503), answer(200)]
    agent = await world.agents.add('print("Here I am.")')
    job = await world.deploy(on_demand=True, agent=agent.name, channel="team")
    run = await ran(world, job)

    assert (run.status, run.delivery) == ("succeeded", "pending")
    row = await told(world, run)
    assert (row.status, row.attempts) == ("pending", 1)
    assert "503" in str(row.error)

    async with Ledger(world.ledger.address, Later()) as later:
        sent = await dispatch_outgoing(later, world.client, "test")
    assert (sent.delivered, sent.failed, sent.again) == (1, 0, 0)
    assert messages(endpoint) == ["Here I am."] * 2
    assert (await world.rows())[-1].delivery == "delivered"


@pytest.mark.anyio
async def test_a_job_has_a_file_of_its_own(world: World) -> None:
    agent = await world.agents.add('print("Kept.")')
    job = await world.deploy(on_demand=True, agent=agent.name, channel="file")
    named = await world.deploy(on_demand=True, agent=agent.name, channel="file", chat_id="all.txt")
    for each in (job, named):
        assert (await ran(world, each)).delivery == "delivered"
    out = world.home.path / "out"
    assert {each.name for each in out.iterdir()} == {f"{job.row.slug}.md", "all.txt"}
    assert "Kept." in (out / f"{job.row.slug}.md").read_text()


@pytest.mark.anyio
async def test_a_block_of_prefects_gets_the_answer(world: World, endpoint: Receiver) -> None:
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
