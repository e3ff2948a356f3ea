"""Checks before a run: their answers, the verdict, the token usage, and who may set a command."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from daybook.agents.base import AgentReply, AgentRequest
from daybook.agents.command import CommandAgent, CommandSettings
from daybook.errors import AgentTimeout
from daybook.execution import checks
from daybook.execution.checks import CheckFailed, Verdict
from daybook.jobs.store import StoredJob
from daybook.policies.checks import Check
from daybook.policies.policy import policy_from_parameters
from daybook.runs.claim_requests import Granted
from daybook.runs.usage import Amount
from tests.rows import each

NOW = datetime(2026, 11, 20, 9, tzinfo=UTC)


def granted(owner: str | None = None, tokens: int | None = None, **check: Any) -> Granted:
    row = SimpleNamespace(owner=owner, created_by="cli", name="mail")
    job = cast(StoredJob, SimpleNamespace(row=row, id="j")) if owner else None
    work_dir = check.pop("work_dir", "")
    policy = {"check": Check(**check).model_dump(mode="json"), "work_dir": work_dir}
    given = {"policy": policy, "agent": "default"}
    return Granted(
        "r",
        1,
        given,
        "flow:1",
        NOW,
        "manual",
        job,
        tokens=tokens,
        kind="agent-prompt",
        queued_at=NOW,
    )


@pytest.mark.anyio
async def test_without_a_check_the_run_starts() -> None:
    assert await checks.check_job(granted()) == Verdict(opens=True)


@pytest.mark.anyio
async def test_a_command_of_an_agents_job_is_not_run(tmp_path: Any) -> None:
    mark = tmp_path / "mark"
    with pytest.raises(CheckFailed, match="only the operator may set a command"):
        await checks.check_job(granted("agent:helper", command=("touch", str(mark))))
    assert not mark.exists()

    verdict = await checks.check_job(granted("user", command=("touch", str(mark))))
    assert verdict.opens
    assert mark.exists()


@pytest.mark.anyio
async def test_the_prompt_can_use_what_a_command_printed() -> None:
    verdict = await checks.check_job(granted("user", command=("printf", "two new\nmails\n")))
    assert verdict.apply(granted()).found == {"check": "two new\nmails"}


@pytest.mark.anyio
async def test_a_watched_command_starts_the_run_when_its_output_changes(tmp_path: Any) -> None:
    watched = tmp_path / "prices"
    watched.write_text("bread 2\nmilk 1\n")
    given = granted("user", watch_command=("cat", str(watched)))

    first = await checks.check_job(given)
    assert first.found is not None
    assert (first.opens, first.found["check"]) == (False, "bread 2\nmilk 1")
    given = replace(given, seen=first.found["check"])
    same = await checks.check_job(given)
    assert (same.opens, same.reason) == (False, "check: the output of cat has not changed")
    assert same.found is None

    watched.write_text("bread 3\nmilk 1\n")
    changed = await checks.check_job(given)
    assert changed.opens
    assert changed.found is not None
    assert changed.found["change"] == "-bread 2\n+bread 3\n milk 1"

    watched.unlink()
    with pytest.raises(
        CheckFailed, match=r"check: cat exited with code 1; it printed: .*No such file"
    ):
        await checks.check_job(given)


@pytest.mark.anyio
async def test_commands_and_a_checks_agent_run_in_the_work_dir_of_the_job(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "prices").write_text("bread 2")
    given: dict[str, Any] = {"owner": "user", "work_dir": "~/repo"}
    checked = await checks.check_job(granted(**given, command=("cat", "prices")))
    assert checked.reason == "check: bread 2"
    watched = await checks.check_job(granted(**given, watch_command=("cat", "prices")))
    assert watched.found is not None
    assert watched.found["check"] == "bread 2"
    program = CommandSettings(command=["cat", "answer"])
    (tmp_path / "repo" / "answer").write_text('{"action": "run", "reason": "found it"}')
    answer = await checks.ask_agent(CommandAgent("robot", program), "New?", granted(**given))
    assert (answer.opens, answer.reason) == (True, "found it")

    (tmp_path / "repo").rename(tmp_path / "gone")
    with pytest.raises(CheckFailed, match=r"check: work_dir: .*/repo does not exist"):
        await checks.check_job(granted(**given, command=("true",)))


@pytest.mark.anyio
async def test_a_check_by_a_program_counts_as_one_request_of_unknown_price() -> None:
    counted = Amount(unpriced=1)

    async def check(*command: str) -> Amount:
        program = CommandAgent("robot", CommandSettings(command=[*command]))
        try:
            verdict = await checks.ask_agent(program, "New?", granted("user"))
        except CheckFailed as error:
            return Amount.of(error.usage)
        return Amount.of(verdict.usage)

    assert await check("echo", RUN) == counted
    assert await check("echo", "maybe") == counted
    assert await check("false") == counted
    assert await check("no-such-program-anywhere") == Amount()


@pytest.mark.anyio
async def test_a_watch_refuses_a_direct_call_an_agents_command_and_a_long_output() -> None:
    with pytest.raises(CheckFailed, match="only a job can watch"):
        await checks.check_job(granted(watch_command=("true",)))
    with pytest.raises(CheckFailed, match="only the operator may set a command"):
        await checks.check_job(granted("agent:helper", watch_command=("true",)))
    with pytest.raises(CheckFailed, match="has 100,001 characters, more than the 100,000"):
        await checks.check_job(granted("user", watch_command=("printf", "%0100001d", "1")))


@pytest.mark.parametrize(
    ("tokens", "usage", "left"),
    [
        (None, {"input_tokens": 5, "output_tokens": 5}, None),
        (100, None, 100),
        (100, {"input_tokens": 60, "output_tokens": 10}, 30),
        (100, {"input_tokens": None, "output_tokens": None}, 100),  # the provider reported none
    ],
)
def test_the_usage_of_a_check_reduces_the_tokens_of_the_run(
    tokens: int | None, usage: dict[str, Any] | None, left: int | None
) -> None:
    verdict = Verdict(opens=True, usage=usage)
    assert verdict.apply(granted(tokens=tokens)).tokens == left


def test_a_check_that_uses_all_tokens_fails_the_run_with_its_usage() -> None:
    usage = {"input_tokens": 90, "output_tokens": 10}
    with pytest.raises(CheckFailed, match="tokens: the check used 100 of the 100") as failed:
        Verdict(opens=True, usage=usage).apply(granted(tokens=100))
    assert failed.value.usage == usage


# --- what an answer says

RUN = '{"action": "run", "reason": "three new issues"}'
SKIP = '{"action": "skip", "reason": "nothing new"}'


def test_a_tools_answer_says_run_or_skip() -> None:
    says_no, no_reason = "the tool gives says no", "the tool gives gave no reason"
    rows: list[tuple[Any, bool, str]] = [
        (True, True, "the tool gives says yes"),
        (False, False, says_no),
        ("true", True, "the tool gives says yes"),
        (" false\n", False, says_no),
        ({"result": False}, False, says_no),  # a server's result
        ({"action": "run", "reason": "mail"}, True, "mail"),
        ({"action": "skip", "reason": "no mail"}, False, "no mail"),
        ('{"action": "skip"}', False, no_reason),
        ({"action": "run", "reason": None}, True, no_reason),
    ]
    for (answer, opens, reason), trying in each(rows):
        with trying:
            verdict = checks._verdict_of_result(answer, "the tool gives")
            assert (verdict.opens, verdict.reason) == (opens, reason)


def test_any_other_answer_of_a_tool_is_invalid() -> None:
    rows: list[tuple[Any, str]] = [
        (None, "the tool gives answered None; expected true, false, or {"),
        (1, "the tool gives answered 1; expected"),
        ("perhaps", "answered 'perhaps'; expected"),
        ("[true]", "expected true, false"),
        ({"action": "delete"}, "returned an invalid answer: {'action': 'delete'}; expected {"),
        ({"result": True, "more": 1}, "returned an invalid answer"),
        ({"action": "run", "reason": 5}, "returned an invalid answer"),
    ]
    for (answer, words), trying in each(rows):
        with trying, pytest.raises(CheckFailed, match=re.escape(words)):
            checks._verdict_of_result(answer, "the tool gives")


class Answering:
    """Agent that gives one answer."""

    def __init__(self, text: str, cut: str = "") -> None:
        self._reply = AgentReply(text=text, agent="gate", cut=cut, usage={"input_tokens": 7})

    async def answer(self, request: AgentRequest) -> AgentReply:
        self.request = request
        return self._reply


@pytest.mark.anyio
async def test_an_agents_answer_is_its_json_alone_or_in_one_fenced_block() -> None:
    rows = [
        (RUN, True, "three new issues"),
        (f"```json\n{RUN}\n```", True, "three new issues"),
        (f"\n```\n{RUN}\n```\n", True, "three new issues"),
        (f"~~~~\n{SKIP}\n~~~~", False, "nothing new"),
        (SKIP, False, "nothing new"),
    ]
    for (text, opens, reason), trying in each(rows):
        with trying:
            agent = cast(Any, Answering(text))
            verdict = await checks.ask_agent(agent, "New?", granted("user"))
            assert (verdict.opens, verdict.reason) == (opens, reason)
            assert (verdict.usage or {})["input_tokens"] == 7
            assert agent.request.prompt.startswith("New?\n\n")
            assert (agent.request.occurrence, agent.request.once) == ("flow:1#check", True)


@pytest.mark.anyio
async def test_any_other_answer_of_an_agent_is_invalid_and_its_usage_is_kept() -> None:
    rows = [
        ("There is nothing to do.", "", "the answer of agent gate is not JSON"),
        (f"Of course! {RUN}", "", "is not JSON"),
        (f"```json\n{RUN}\n```\nThat is all.", "", "is not JSON"),
        ('{"action": "delete", "reason": "x"}', "", "agent gate returned an invalid answer"),
        ('{"action": "run", "reason": 5}', "", "returned an invalid answer"),
        ('["run"]', "", "returned an invalid answer"),
        ("", "", "is not JSON"),
        (RUN, "it reached its limit", "is incomplete: it reached its limit"),
    ]
    for (text, cut, words), trying in each(rows):
        with trying:
            with pytest.raises(CheckFailed, match=re.escape(words)) as failed:
                await checks.ask_agent(cast(Any, Answering(text, cut)), "New?", granted("user"))
            assert (failed.value.usage or {})["input_tokens"] == 7


@pytest.mark.anyio
async def test_the_question_of_a_gate_gets_the_rest_of_the_time_and_keeps_the_usage_before_it() -> (
    None
):
    given, took = granted("user"), {"input_tokens": 30}
    timeout = policy_from_parameters(given.parameters).timeout.total_seconds()
    agent = Answering(RUN)
    verdict = await checks.ask_agent(cast(Any, agent), "New?", given, took, seconds=timeout - 2.5)
    assert (agent.request.timeout, (verdict.usage or {})["input_tokens"]) == (2.5, 37)

    late = AgentTimeout(2.5)
    late.usage = {"input_tokens": 9}
    for silent, seconds, used in ((Failing(late), timeout - 2.5, 39), (agent, timeout, 30)):
        with pytest.raises(CheckFailed, match="no answer within") as failed:
            await checks.ask_agent(cast(Any, silent), "New?", given, took, seconds=seconds)
        assert failed.value.usage == {"input_tokens": used}


class Failing:
    """Agent that raises an error."""

    is_program = False

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def answer(self, request: AgentRequest) -> AgentReply:
        raise self._error


def python(program: str) -> tuple[str, ...]:
    return (sys.executable, "-c", program)


@pytest.mark.anyio
async def test_a_command_decides_by_its_exit_code() -> None:
    rows = [
        ("print('mail')", True, "check: mail"),
        ("print('no mail\\nsince noon'); raise SystemExit(1)", False, "check: no mail"),
        ("raise SystemExit(1)", False, f"check: {sys.executable} exited with code 1"),
    ]
    for (program, opens, reason), trying in each(rows):
        with trying:
            verdict = await checks.check_job(granted("user", command=python(program)))
            assert (verdict.opens, verdict.reason) == (opens, reason)


@pytest.mark.anyio
async def test_a_command_that_ends_in_another_way_fails_the_check() -> None:
    rows: list[tuple[tuple[str, ...], str]] = [
        (python("raise SystemExit(2)"), "exited with code 2; it printed nothing"),
        (
            python("print('No credit'); raise SystemExit(2)"),
            "exited with code 2; it printed to standard output: No credit",
        ),
        (python("import sys; print('why', file=sys.stderr); sys.exit(3)"), "3; it printed: why"),
        (python("import os; os.kill(os.getpid(), 9)"), "was ended by SIGKILL"),
        (("no-such-program-anywhere",), "there is no program"),
    ]
    for (command, words), trying in each(rows):
        with trying, pytest.raises(CheckFailed, match=f"check: .*{re.escape(words)}"):
            await checks.check_job(granted("user", command=command))


@pytest.mark.anyio
async def test_a_command_that_takes_too_long_is_stopped_and_fails_the_check() -> None:
    command, given = python("import signal; signal.pause()"), granted("user")
    with pytest.raises(CheckFailed, match=r"did not end within 0\.2 s and was stopped"):
        await checks._run_program(command, given, 0.2, (0, 1))
