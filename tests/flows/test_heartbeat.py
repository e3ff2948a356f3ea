"""Heartbeats at a server that counts: who is asked, how often, and what the book says of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.exceptions import FailedRun

from daybook.agents import documents
from daybook.delivery import history
from daybook.delivery.channels import builtin
from daybook.jobs.store import StoredJob
from daybook.ledger.tables import OutboxRow, RunRow
from flows.heartbeat import heartbeat
from tests.providers import KEY, Answer, Provider, Step, limited, provider
from tests.world import World
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]

call: Any = heartbeat

ORDERS = "- Tell me when the backup is older than a day."
RUN = '{"action": "run", "reason": "the backup is old"}'
SKIP = '{"action": "skip", "reason": "all is well"}'


class Beating:
    """A heartbeat's two agents at one server, its file, and what each agent was asked."""

    def __init__(self, world: World, here: Provider) -> None:
        self.world, self.here = world, here
        self.gate, self.main = f"g-{uuid4().hex[:8]}", f"m-{uuid4().hex[:8]}"
        self.file = world.home.path / "HEARTBEAT.md"
        self.file.write_text(ORDERS)

    async def beats(self, *script: Step, **given: Any) -> Any:
        """One direct call."""
        self.here.script = list(script)
        return await call(agent=self.main, gate_agent=self.gate, **given)

    async def job(self, **given: Any) -> StoredJob:
        fields: dict[str, Any] = {"kind": "heartbeat", "prompt": None, "every": "10m"}
        return await self.world.deploy(**fields, agent=self.main, gate_agent=self.gate, **given)

    async def run_of(self, job: StoredJob, *script: Step) -> RunRow:
        """A run of the job in a process of its own; its row."""
        self.here.script = list(script)
        await self.world.workers.executed(await self.world.prefect.custom_run(job))
        return (await self.world.rows())[-1]

    @property
    def models(self) -> list[str]:
        return [seen.body["model"] for seen in self.here.requests]

    async def told(self, row: RunRow) -> list[OutboxRow]:
        async with self.world.ledger.read() as session:
            return await history.list_for_run(session, row.id)


@pytest.fixture
async def heart(world: World) -> AsyncIterator[Beating]:
    with provider() as here:
        made = Beating(world, here)
        for name, model in ((made.gate, "fast"), (made.main, "large")):
            settings = {"model": f"openai:{model}", "base_url": here.address, "api_key": KEY}
            await documents.add(world.client, name, "model", settings)
        yield made


# --- the file


async def test_without_its_file_nobody_is_asked(heart: Beating) -> None:
    heart.file.unlink()

    result = await heart.beats(RUN)

    assert heart.models == []
    row = await heart.world.row()
    assert (result["status"], row.status, row.attempts) == ("skipped", "skipped", 0)
    assert row.reason == "heartbeat: HEARTBEAT.md is missing"
    assert row.usage is None


@pytest.mark.parametrize("text", ["", " \n\t\n", "\r\n"])
async def test_while_its_file_is_blank_nobody_is_asked(heart: Beating, text: str) -> None:
    heart.file.write_text(text)

    await heart.beats(RUN)

    assert heart.models == []
    row = await heart.world.row()
    assert (row.status, row.reason) == ("skipped", "heartbeat: HEARTBEAT.md is blank")


async def test_a_blank_file_is_looked_at_before_its_check(heart: Beating) -> None:
    heart.file.write_text("\n")

    await heart.beats(RUN, policy={"check": {"prompt": "Anything new?", "agent": heart.gate}})

    assert heart.models == []
    assert (await heart.world.row()).reason == "heartbeat: HEARTBEAT.md is blank"


async def test_a_file_elsewhere_is_read_where_it_is(heart: Beating, tmp_path: Path) -> None:
    heart.file.unlink()
    (tmp_path / "orders.txt").write_text("Water the plants.")

    await heart.beats(SKIP, file=str(tmp_path / "orders.txt"))

    [question] = heart.here.requests
    assert "Water the plants." in question.prompt


async def test_what_is_no_file_or_too_long_is_told(heart: Beating, tmp_path: Path) -> None:
    with pytest.raises(FailedRun, match="is not a file"):
        await heart.beats(RUN, file=str(tmp_path))
    heart.file.write_text("x" * 100_001)
    with pytest.raises(FailedRun, match="is too long"):
        await heart.beats(RUN)

    assert heart.models == []
    assert [row.status for row in await heart.world.rows()] == ["failed", "failed"]


# --- the gate


async def test_skip_is_one_question_and_a_skipped_run(heart: Beating) -> None:
    result = await heart.beats(Answer(SKIP, input_tokens=50, output_tokens=9))

    assert heart.models == ["fast"]
    [question] = heart.here.requests
    assert ORDERS in question.prompt
    row = await heart.world.row()
    assert (row.status, row.attempts) == ("skipped", 0)
    assert row.reason == result["reason"] == "heartbeat: all is well"
    assert row.usage is not None
    assert (row.usage["input_tokens"], row.usage["output_tokens"]) == (50, 9)


@pytest.mark.parametrize("said", [RUN, f"```json\n{RUN}\n```"], ids=["plain", "fenced"])
async def test_run_asks_the_agent_and_both_are_paid_for(heart: Beating, said: str) -> None:
    gate = Answer(said, input_tokens=50, output_tokens=9)

    result = await heart.beats(gate, Answer("It is.", input_tokens=500, output_tokens=20))

    assert heart.models == ["fast", "large"]
    assert ORDERS in heart.here.requests[1].prompt
    row = await heart.world.row()
    assert (result["output"], row.status, row.attempts) == ("It is.", "succeeded", 1)
    assert row.usage is not None
    assert (row.usage["input_tokens"], row.usage["output_tokens"]) == (550, 29)


@pytest.mark.parametrize(
    "step",
    [
        "The backup is old, I had better run.",
        f"Sure: {RUN}",
        '{"action": "shell", "command": "rm -r /"}',
        '{"tool_calls": [{"name": "shell"}]}',
        '{"action": "run"',
        Answer("", tool="shell", finish="tool_calls"),
        Answer(RUN, tool="shell", finish="tool_calls"),
        limited(),
    ],
    ids=["prose", "prose-and-json", "action", "json-tool", "cut", "tool", "tool-and-json", "429"],
)
async def test_no_answer_executes_nothing_and_is_an_error(heart: Beating, step: Step) -> None:
    with pytest.raises(FailedRun, match="heartbeat: "):
        await heart.beats(step)

    assert heart.models == ["fast"]
    row = await heart.world.row()
    assert (row.status, row.attempts, row.output) == ("failed", 0, None)
    assert str(row.error).startswith("heartbeat: ")


async def test_a_tool_call_is_no_answer_however_often_the_agent_may_ask(heart: Beating) -> None:
    settings: dict[str, Any] = {"model": "openai:fast", "base_url": heart.here.address}
    settings |= {"api_key": KEY, "request_limit": 5}
    await documents.add(heart.world.client, heart.gate, "model", settings, replace=True)

    with pytest.raises(FailedRun, match="heartbeat: "):
        await heart.beats(Answer("", tool="shell", finish="tool_calls"), RUN)

    assert heart.models == ["fast"]


async def test_without_a_gate_agent_the_same_agent_is_asked_first(heart: Beating) -> None:
    heart.here.script = [SKIP]
    await call(agent=heart.main)

    assert heart.models == ["large"]


async def test_the_agents_own_error_is_the_runs(heart: Beating) -> None:
    with pytest.raises(FailedRun, match="429"):
        await heart.beats(RUN, limited())

    assert heart.models == ["fast", "large"]
    row = await heart.world.row()
    assert (row.status, row.attempts) == ("failed", 1)


# --- its conversation, and who is told


async def test_the_agent_remembers_and_the_gate_does_not(heart: Beating) -> None:
    job = await heart.job()
    await heart.run_of(job, RUN, "It is old.")
    await heart.run_of(job, SKIP)
    row = await heart.run_of(job, RUN, "Still old.")

    assert heart.models == ["fast", "large", "fast", "fast", "large"]
    of_gate = [seen.said for seen in heart.here.requests if seen.body["model"] == "fast"]
    assert [[role for role, _ in said] for said in of_gate] == [["user"]] * 3
    roles = [role for role, _ in heart.here.requests[-1].said]
    assert roles == ["user", "assistant", "user"]
    assert heart.here.requests[-1].said[1] == ("assistant", "It is old.")
    assert row.session_id == f"{heart.main}:job:{job.id}"


async def test_a_reply_goes_to_the_channel(heart: Beating) -> None:
    job = await heart.job(channel="file", chat_id="heart.txt")

    row = await heart.run_of(job, RUN, "It is two days old.")

    assert (row.status, row.delivery) == ("succeeded", "delivered")
    assert "It is two days old." in (heart.world.home.path / "out" / "heart.txt").read_text()


@pytest.mark.parametrize("reply", ["", "[SILENT]"])
async def test_a_blank_reply_is_not_told(heart: Beating, reply: str) -> None:
    job = await heart.job(channel="file", chat_id="heart.txt")

    row = await heart.run_of(job, RUN, reply)

    assert heart.models == ["fast", "large"]
    assert (row.status, row.delivery) == ("succeeded", "suppressed")
    assert not (heart.world.home.path / "out" / "heart.txt").exists()


async def test_a_notifier_that_fails_changes_nothing_but_the_delivery(heart: Beating) -> None:
    out = builtin.folder()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("a file where the folder should be")
    job = await heart.job(channel="file", chat_id="heart.txt")

    row = await heart.run_of(job, RUN, "It is two days old.")

    assert heart.models == ["fast", "large"]
    assert (row.status, row.output) == ("succeeded", "It is two days old.")
    [message] = await heart.told(row)
    assert (row.delivery, message.status) == ("pending", "pending")
    assert message.error
    assert message.attempts == 1


async def test_skipped_runs_tell_nobody(heart: Beating) -> None:
    job = await heart.job(channel="file", chat_id="heart.txt")

    row = await heart.run_of(job, SKIP)

    assert (row.status, row.delivery) == ("skipped", "not_requested")
