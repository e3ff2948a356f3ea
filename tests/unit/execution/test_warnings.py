"""Failed tool calls of a run that succeeds: its warnings, or its failure if the job says so.

Two reports are replayed here: `openclaw/openclaw` issue 121626 (a run is shown as ok although a
tool call in it failed, and a later call of the same tool hid that) and issue 112670 (a run is
recorded as an error, and its answer is not delivered, although the agent made up for a failed
call).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daybook.agents.base import Tool
from daybook.agents.command import CommandAgent, CommandSettings
from daybook.agents.journal import PlannedStep, StepPosition, StepReply
from daybook.clock import SYSTEM_CLOCK
from daybook.errors import AgentFailed
from daybook.execution import attempt, journal, outcome_spool
from daybook.execution.outcome_spool import SpooledOutcome
from daybook.ledger.states import Outcome, Status
from daybook.ledger.views import Run
from daybook.runs.claim_requests import Granted
from tests.printed_steps import (
    MODEL,
    calls,
    claude_got,
    claude_init,
    claude_result,
    claude_says,
    lines,
)
from tests.providers import Answer, Page, Provider, provider
from tests.providers import Step as Reply
from tests.unit.agents.asking import agent, request
from tests.unit.execution.conftest import ActiveRun
from tests.unit.execution.test_journal import recorded

pytestmark = pytest.mark.anyio

SCHEMA = {"type": "object", "properties": {"command": {"type": "string"}}}
SHARE, MAIL = "maton one-drive item permission create", "mail send morning-digest"


class Shell:
    """Tool whose calls fail as long as ``fails`` says so."""

    def __init__(self, fails: Callable[[str, int], str]) -> None:
        self.commands: list[str] = []
        self._fails = fails

    async def call(self, arguments: dict[str, Any]) -> str:
        self.commands.append(arguments["command"])
        why = self._fails(arguments["command"], len(self.commands))
        if why:
            raise AgentFailed(why)
        return "done"

    @property
    def tool(self) -> Tool:
        return Tool("exec", "Runs a command.", SCHEMA, self.call)


def runs(command: str) -> Answer:
    return Answer("", tool="exec", arguments={"command": command})


async def answered(
    active: ActiveRun, shell: Shell, *script: Reply, granted: Granted | None = None
) -> Outcome:
    """Run an attempt whose model follows the script; return the outcome in the ledger."""
    with provider() as fake_provider:
        outcome = await attempt.run_attempt(
            active.ledger,
            granted or active.granted,
            1,
            lambda: _ask(fake_provider, shell, *script),
            SYSTEM_CLOCK,
        )
    assert isinstance(outcome, Outcome)
    return outcome


async def _ask(fake_provider: Provider, shell: Shell, *script: Reply) -> Outcome:
    fake_provider.script = list(script)
    asked = request(tools=(shell.tool,), journal=journal.current())
    reply = await agent(fake_provider).answer(asked)
    return Outcome(Status.SUCCEEDED, output=reply.text, agent=reply.agent, usage=reply.usage)


async def test_a_later_call_of_the_same_tool_hides_no_failure_openclaw_121626(
    active: ActiveRun,
) -> None:
    shell = Shell(lambda command, _: "exit code 1: no such item\nhint" if command == SHARE else "")

    outcome = await answered(active, shell, runs(SHARE), runs(MAIL), Answer("Sent."))

    assert shell.commands == [SHARE, MAIL]
    assert outcome.warnings == ("tool exec failed: exit code 1: no such item hint",)
    row = await active.row()
    assert (row.status, row.output) == ("succeeded", "Sent.")
    assert row.reason == f"warning: {outcome.warnings[0]}"
    assert Run.of(row, None).warnings == [*outcome.warnings]


async def test_a_call_that_succeeded_when_it_was_repeated_is_no_warning_openclaw_112670(
    active: ActiveRun,
) -> None:
    shell = Shell(lambda _, count: "exit code 2" if count == 1 else "")

    outcome = await answered(active, shell, runs(SHARE), runs(SHARE), Answer("Shared."))

    assert (outcome.status, outcome.warnings, outcome.reason) == (Status.SUCCEEDED, (), "")
    assert (await active.row()).warnings == []
    statuses = [each.status for each in await recorded(active) if each.kind == "tool"]
    assert statuses == ["failed", "succeeded"]


async def test_calls_that_no_tool_can_get_are_failed_steps_and_fail_a_strict_job(
    active: ActiveRun,
) -> None:
    policy = {**active.granted.parameters["policy"], "fail_on_tool_error": True}
    strict = replace(active.granted, parameters={"prompt": "Do it", "policy": policy})
    shell = Shell(lambda *_: "")
    unknown = Answer("", tool="shell", arguments={"command": MAIL})
    garbled = Page(
        json.dumps(
            {
                "choices": [
                    {
                        "finish_reason": "tool_calls",
                        "message": {
                            "tool_calls": [
                                {"id": "c", "function": {"name": "exec", "arguments": '{"comm'}}
                            ]
                        },
                    }
                ]
            }
        ),
        "application/json",
    )

    script = (unknown, unknown, garbled, runs(MAIL), Answer("Sent."))
    outcome = await answered(active, shell, *script, granted=strict)

    assert outcome.status is Status.FAILED
    assert outcome.error == (
        "tool shell failed: the agent has no tool of this name; "
        "tool exec failed: the arguments are not a JSON object"
    )
    assert shell.commands == [MAIL]
    calls = [each for each in await recorded(active) if each.kind == "tool"]
    assert [(each.position, each.name, each.status) for each in calls] == [
        ("1.1", "shell", "failed"),
        ("2.1", "shell", "failed"),
        ("3.1", "exec", "failed"),
        ("4.1", "exec", "succeeded"),
    ]


async def test_a_long_name_that_a_model_invents_is_cut(active: ActiveRun) -> None:
    invented = Answer("", tool="x" * 10**6, arguments={})

    outcome = await answered(active, Shell(lambda *_: ""), invented, Answer("Done."))

    assert outcome.warnings == (f"tool {'x' * 200} failed: the agent has no tool of this name",)
    assert [each.name for each in await recorded(active) if each.kind == "tool"] == ["x" * 200]


async def test_a_call_that_failed_after_it_had_succeeded_is_a_warning(active: ActiveRun) -> None:
    shell = Shell(lambda _, count: "" if count == 1 else f"refused ({count})")

    outcome = await answered(active, shell, runs(MAIL), runs(MAIL), runs(SHARE), Answer("Sent."))

    assert outcome.warnings == ("tool exec failed 2 times: refused (2)",)


async def test_a_job_may_refuse_a_success_with_a_failed_call(active: ActiveRun) -> None:
    policy = {**active.granted.parameters["policy"], "fail_on_tool_error": True}
    strict = replace(active.granted, parameters={"prompt": "Do it", "policy": policy})
    shell = Shell(lambda *_: "exit code 1")

    outcome = await answered(active, shell, runs(SHARE), Answer("Shared."), granted=strict)

    assert (outcome.status, outcome.error) == (Status.FAILED, "tool exec failed: exit code 1")
    row = await active.row()
    assert (row.status, row.error, row.output) == ("failed", outcome.error, "Shared.")
    assert (row.reason, row.warnings) == ("", [])


async def test_a_call_without_a_reply_is_a_warning_in_the_attempt_that_continues(
    active: ActiveRun,
) -> None:
    step = PlannedStep(StepPosition(0, 1, 1, 1), "tool", "mail", {"to": "a"}, "", repeatable=False)
    with journal.recording(active.ledger, active.granted, 1, SYSTEM_CLOCK) as first:
        await first.start(step)
        assert first.warnings() == ("the outcome of tool mail is unknown",)
    active.query("UPDATE steps SET status = 'unknown'")

    with journal.recording(active.ledger, active.granted, 2, SYSTEM_CLOCK) as second:
        reply = await second.start(step)

    assert reply is not None
    assert second.warnings() == ("the outcome of tool mail is unknown",)


async def test_a_failure_of_an_earlier_attempt_that_is_replayed_is_a_warning(
    active: ActiveRun,
) -> None:
    step = PlannedStep(StepPosition(0, 1, 1, 1), "tool", "mail", {"to": "a"}, "", repeatable=False)
    with journal.recording(active.ledger, active.granted, 1, SYSTEM_CLOCK) as first:
        await first.start(step)
        await first.finish(step, StepReply(error="no such address", value="no such address"))

    with journal.recording(active.ledger, active.granted, 2, SYSTEM_CLOCK) as second:
        await second.start(step)

    assert second.warnings() == ("tool mail failed: no such address",)


async def test_warnings_are_few_and_short_and_have_no_line_breaks(active: ActiveRun) -> None:
    with journal.recording(active.ledger, active.granted, 1, SYSTEM_CLOCK) as opened:
        for number in range(25):
            at = StepPosition(0, 1, 1, number + 1)
            step = PlannedStep(at, "tool", f"t{number}", {"number": number}, "", repeatable=False)
            await opened.report(step, StepReply(error="no\n" * 1_000))
    *first, last = opened.warnings()
    assert len(first) == journal.MAX_WARNINGS
    assert all(len(each) < 230 and "\n" not in each for each in first)
    assert last == "calls of 5 more tools failed"


async def test_a_step_of_a_program_is_recorded_with_its_outcome_at_once_and_never_continued(
    active: ActiveRun,
) -> None:
    step = PlannedStep(
        StepPosition(0, 1, 1, 1), "tool", "Bash", {"asked": "x"}, "ls", repeatable=False
    )
    with journal.recording(active.ledger, active.granted, 1, SYSTEM_CLOCK) as first:
        await first.report(step, StepReply("a", usage=None))
    with journal.recording(active.ledger, active.granted, 2, SYSTEM_CLOCK) as second:
        await second.report(step)
        await second.finish(step, StepReply(error="exit code 1"))

    one, two = await recorded(active)
    assert (one.status, one.output, one.finished_at) == ("succeeded", "a", one.started_at)
    assert (two.number, two.attempt, two.status, two.error) == (2, 2, "failed", "exit code 1")


async def test_a_run_of_a_program_that_prints_its_steps_has_them_and_a_warning(
    active: ActiveRun, tmp_path: Path
) -> None:
    (tmp_path / "printed").write_bytes(
        lines(
            claude_init(),
            claude_says("msg_1", calls("toolu_1", "Bash", command="make")),
            claude_got("toolu_1", "make: no rule", is_error=True),
            claude_says("msg_2", calls("toolu_2", "Bash", command="ls")),
            claude_result("There is no Makefile."),
        )
    )
    settings = CommandSettings(
        command=["cat", str(tmp_path / "printed"), "{prompt}"], output="claude-code"
    )
    (tmp_path / "nothing").touch()

    async def act() -> Outcome:
        asked = request(str(tmp_path / "nothing"), journal=journal.current())
        reply = await CommandAgent("cc", settings).answer(asked)
        return Outcome(Status.SUCCEEDED, output=reply.text, agent=reply.agent, usage=reply.usage)

    await attempt.run_attempt(active.ledger, active.granted, 1, act, SYSTEM_CLOCK)

    assert [(each.position, each.name, each.status) for each in await recorded(active)] == [
        ("1", MODEL, "succeeded"),
        ("1.1", "Bash", "failed"),
        ("2", MODEL, "succeeded"),
        ("2.1", "Bash", "unknown"),
    ]
    row = await active.row()
    assert (row.status, row.output) == ("succeeded", "There is no Makefile.")
    assert row.warnings == ["tool Bash failed: make: no rule (and 1 with an unknown outcome)"]
    assert row.usage is not None
    assert row.usage["cost_usd"] == 0.0123


async def test_warnings_survive_the_spool(active: ActiveRun) -> None:
    outcome = Outcome(Status.SUCCEEDED, output="done", warnings=("tool a failed: no",))
    granted = active.granted
    spooled = SpooledOutcome(active.ledger.id, granted.run_id, granted.fence, outcome)
    outcome_spool.put(spooled)

    assert (await outcome_spool.drain(active.ledger)).written == 1

    assert (await active.row()).warnings == ["tool a failed: no"]
