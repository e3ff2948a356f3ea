"""Heartbeats with a server that records requests: which agents are asked, how often, what is
stored.
"""

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
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]

call: Any = heartbeat

ORDERS = "- Tell me when the backup is older than a day."
RUN = '{"action": "run", "reason": "the backup is old"}'
SKIP = '{"action": "skip", "reason": "all is well"}'


class Beating:
    """Heartbeat with its file and two agents at one server."""

    def __init__(self, world: PrefectWorld, fake_provider: Provider) -> None:
        self.world, self.fake_provider = world, fake_provider
        self.gate, self.main = f"g-{uuid4().hex[:8]}", f"m-{uuid4().hex[:8]}"
        self.file = world.home.path / "HEARTBEAT.md"
        self.file.write_text(ORDERS)

    async def beats(self, *script: Step, **given: Any) -> Any:
        """Call the flow directly, once."""
        self.fake_provider.script = list(script)
        return await call(agent=self.main, gate_agent=self.gate, **given)

    async def job(self, **given: Any) -> StoredJob:
        fields: dict[str, Any] = {"kind": "heartbeat", "prompt": None, "every": "10m"}
        return await self.world.deploy(**fields, agent=self.main, gate_agent=self.gate, **given)

    async def run_of(self, job: StoredJob, *script: Step) -> RunRow:
        """Run the job in its own process; return the run's row."""
        self.fake_provider.script = list(script)
        await self.world.executions.complete(await self.world.prefect.custom_run(job))
        return (await self.world.runs.rows())[-1]

    @property
    def models(self) -> list[str]:
        return [request.body["model"] for request in self.fake_provider.requests]

    async def notifications(self, row: RunRow) -> list[OutboxRow]:
        async with self.world.ledger.read() as session:
            return await history.list_for_run(session, row.id)


@pytest.fixture
async def heart(world: PrefectWorld) -> AsyncIterator[Beating]:
    with provider() as fake_provider:
        made = Beating(world, fake_provider)
        for name, model in ((made.gate, "fast"), (made.main, "large")):
            settings = {
                "model": f"openai:{model}",
                "base_url": fake_provider.address,
                "api_key": KEY,
            }
            await documents.add(world.client, name, "model", settings)
        yield made


# --- the file


@pytest.mark.floor("A", "A missing file: no model call")
async def test_without_its_file_a_heartbeat_asks_no_agent(heart: Beating) -> None:
    heart.file.unlink()

    result = await heart.beats(RUN)

    assert heart.models == []
    row = await heart.world.runs.row()
    assert (result["status"], row.status, row.attempts) == ("skipped", "skipped", 0)
    assert row.reason == "heartbeat: HEARTBEAT.md is missing"
    assert row.usage is None


@pytest.mark.floor("A", "A blank file: no model call")
@pytest.mark.parametrize("text", ["", " \n\t\n", "\r\n"])
async def test_with_a_blank_file_a_heartbeat_asks_no_agent(heart: Beating, text: str) -> None:
    heart.file.write_text(text)

    await heart.beats(RUN)

    assert heart.models == []
    row = await heart.world.runs.row()
    assert (row.status, row.reason) == ("skipped", "heartbeat: HEARTBEAT.md is blank")


async def test_a_blank_file_skips_the_heartbeat_before_its_check(heart: Beating) -> None:
    heart.file.write_text("\n")

    await heart.beats(RUN, policy={"check": {"prompt": "Anything new?", "agent": heart.gate}})

    assert heart.models == []
    assert (await heart.world.runs.row()).reason == "heartbeat: HEARTBEAT.md is blank"


@pytest.mark.floor("A", "The heartbeat's file can be another one")
async def test_a_heartbeat_reads_a_file_at_another_path(heart: Beating, tmp_path: Path) -> None:
    heart.file.unlink()
    (tmp_path / "orders.txt").write_text("Water the plants.")

    await heart.beats(SKIP, file=str(tmp_path / "orders.txt"))

    [question] = heart.fake_provider.requests
    assert "Water the plants." in question.prompt


async def test_a_folder_or_a_too_long_file_fails_the_heartbeat(
    heart: Beating, tmp_path: Path
) -> None:
    with pytest.raises(FailedRun, match="is not a file"):
        await heart.beats(RUN, file=str(tmp_path))
    heart.file.write_text("x" * 100_001)
    with pytest.raises(FailedRun, match="is too long"):
        await heart.beats(RUN)

    assert heart.models == []
    assert [row.status for row in await heart.world.runs.rows()] == ["failed", "failed"]


# --- the gate agent


@pytest.mark.floor("A", "The check asks the fast model")
@pytest.mark.floor("A", "skip: the main session is not asked")
@pytest.mark.floor("A", "skip: the reason is recorded")
async def test_a_gate_that_answers_skip_skips_the_run_after_one_request(heart: Beating) -> None:
    result = await heart.beats(Answer(SKIP, input_tokens=50, output_tokens=9))

    assert heart.models == ["fast"]
    [question] = heart.fake_provider.requests
    assert ORDERS in question.prompt
    row = await heart.world.runs.row()
    assert (row.status, row.attempts) == ("skipped", 0)
    assert row.reason == result["reason"] == "heartbeat: all is well"
    assert row.usage is not None
    assert (row.usage["input_tokens"], row.usage["output_tokens"]) == (50, 9)


@pytest.mark.floor("A", "run: the main session gets the orders of the file")
@pytest.mark.floor("A", "The decision may be in a fenced block")
@pytest.mark.parametrize("answer", [RUN, f"```json\n{RUN}\n```"], ids=["plain", "fenced"])
async def test_a_gate_that_answers_run_starts_the_agent_and_both_usages_are_counted(
    heart: Beating, answer: str
) -> None:
    gate = Answer(answer, input_tokens=50, output_tokens=9)

    result = await heart.beats(gate, Answer("It is.", input_tokens=500, output_tokens=20))

    assert heart.models == ["fast", "large"]
    assert ORDERS in heart.fake_provider.requests[1].prompt
    row = await heart.world.runs.row()
    assert (result["output"], row.status, row.attempts) == ("It is.", "succeeded", 1)
    assert row.usage is not None
    assert (row.usage["input_tokens"], row.usage["output_tokens"]) == (550, 29)


@pytest.mark.floor("A", "Bad JSON executes nothing and records an error")
@pytest.mark.floor("A", "Another action executes nothing and records an error")
@pytest.mark.floor("A", "A tool call of the check executes nothing and records an error")
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
async def test_an_invalid_gate_answer_fails_the_run_and_executes_nothing(
    heart: Beating, step: Step
) -> None:
    with pytest.raises(FailedRun, match="heartbeat: "):
        await heart.beats(step)

    assert heart.models == ["fast"]
    row = await heart.world.runs.row()
    assert (row.status, row.attempts, row.output) == ("failed", 0, None)
    assert str(row.error).startswith("heartbeat: ")


async def test_a_gates_tool_call_is_invalid_despite_a_higher_request_limit(heart: Beating) -> None:
    settings: dict[str, Any] = {"model": "openai:fast", "base_url": heart.fake_provider.address}
    settings |= {"api_key": KEY, "request_limit": 5}
    await documents.add(heart.world.client, heart.gate, "model", settings, replace=True)

    with pytest.raises(FailedRun, match="heartbeat: "):
        await heart.beats(Answer("", tool="shell", finish="tool_calls"), RUN)

    assert heart.models == ["fast"]


@pytest.mark.floor("A", "Without a fast model the main model decides")
async def test_without_a_gate_agent_the_jobs_agent_is_the_gate(heart: Beating) -> None:
    heart.fake_provider.script = [SKIP]
    await call(agent=heart.main)

    assert heart.models == ["large"]


@pytest.mark.floor("A", "An error of the main session is the error of the run")
async def test_an_error_of_the_agent_fails_the_run(heart: Beating) -> None:
    with pytest.raises(FailedRun, match="429"):
        await heart.beats(RUN, limited())

    assert heart.models == ["fast", "large"]
    row = await heart.world.runs.row()
    assert (row.status, row.attempts) == ("failed", 1)


async def test_a_fallback_agent_carries_out_the_orders(heart: Beating) -> None:
    await heart.beats(RUN, limited(), "Done.", fallback_agents=[heart.gate])

    assert heart.models == ["fast", "large", "fast"]
    row = await heart.world.runs.row()
    assert (row.status, row.output, row.agent) == ("succeeded", "Done.", heart.gate)


# --- its session and its messages


@pytest.mark.floor("A", "The check has no part in the main session")
async def test_the_agent_keeps_its_session_and_the_gate_has_none(heart: Beating) -> None:
    job = await heart.job()
    await heart.run_of(job, RUN, "It is old.")
    await heart.run_of(job, SKIP)
    row = await heart.run_of(job, RUN, "Still old.")

    assert heart.models == ["fast", "large", "fast", "fast", "large"]
    of_gate = [
        request.messages
        for request in heart.fake_provider.requests
        if request.body["model"] == "fast"
    ]
    assert [[role for role, _ in messages] for messages in of_gate] == [["user"]] * 3
    roles = [role for role, _ in heart.fake_provider.requests[-1].messages]
    assert roles == ["user", "assistant", "user"]
    assert heart.fake_provider.requests[-1].messages[1] == ("assistant", "It is old.")
    assert row.session_id == f"{heart.main}:job:{job.id}"


@pytest.mark.floor("A", "A reply that is not blank is sent")
async def test_a_reply_is_sent_to_the_channel(heart: Beating) -> None:
    job = await heart.job(channel="file", chat_id="heart.txt")

    row = await heart.run_of(job, RUN, "It is two days old.")

    assert (row.status, row.delivery) == ("succeeded", "delivered")
    assert "It is two days old." in (heart.world.home.path / "out" / "heart.txt").read_text()


@pytest.mark.floor("A", "A blank reply is not sent")
@pytest.mark.parametrize("reply", ["", "[SILENT]"])
async def test_a_blank_or_silent_reply_is_not_sent(heart: Beating, reply: str) -> None:
    job = await heart.job(channel="file", chat_id="heart.txt")

    row = await heart.run_of(job, RUN, reply)

    assert heart.models == ["fast", "large"]
    assert (row.status, row.delivery) == ("succeeded", "suppressed")
    assert not (heart.world.home.path / "out" / "heart.txt").exists()


async def test_a_channel_failure_changes_only_the_delivery(heart: Beating) -> None:
    out = builtin.folder()
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("a file where the folder should be")
    job = await heart.job(channel="file", chat_id="heart.txt")

    row = await heart.run_of(job, RUN, "It is two days old.")

    assert heart.models == ["fast", "large"]
    assert (row.status, row.output) == ("succeeded", "It is two days old.")
    [message] = await heart.notifications(row)
    assert (row.delivery, message.status) == ("pending", "pending")
    assert message.error
    assert message.attempts == 1


async def test_a_skipped_run_sends_no_message(heart: Beating) -> None:
    job = await heart.job(channel="file", chat_id="heart.txt")

    row = await heart.run_of(job, SKIP)

    assert (row.status, row.delivery) == ("skipped", "not_requested")
