"""Command agents whose programs print their steps: the answer, the steps and the errors."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import textwrap
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daybook.agents import partial_text, showing
from daybook.agents.base import AgentReply, AgentRequest, ChatMessage
from daybook.agents.command import CommandAgent, CommandSettings
from daybook.agents.journal import PlannedStep, ProgramSession, StepReply
from daybook.errors import AgentFailed, AgentTimeout, FenceRefused
from tests.printed_steps import (
    CODEX_END,
    CODEX_FULL,
    SESSION,
    THREAD,
    calls,
    claude_got,
    claude_init,
    claude_result,
    claude_says,
    codex,
    codex_command,
    item,
    lines,
    text,
)

pytestmark = pytest.mark.anyio

Program = Callable[..., list[str]]


class Notes:
    """Journal that keeps a line for each call, and does ``before`` first."""

    def __init__(self, before: Callable[[str], Any] = lambda _: None) -> None:
        self.lines: list[str] = []
        self.sessions: list[tuple[ProgramSession, bool]] = []
        self.shown: list[tuple[str, str]] = []
        self._before = before

    async def is_limited(self) -> bool:
        return False

    async def limits_usd(self) -> bool:
        return False

    async def start(self, step: PlannedStep) -> StepReply | None:
        raise AssertionError("a program's step cannot be prevented")

    async def program_session(self, session: ProgramSession, *, resumed: bool) -> None:
        self.sessions.append((session, resumed))

    async def acting_agent(self) -> int | None:
        raise AssertionError

    async def show(self, step: PlannedStep, text: str) -> None:
        self.shown.append((str(step.position), text))

    async def report(self, step: PlannedStep, reply: StepReply | None = None) -> None:
        await self._add("began", step, reply)

    async def finish(self, step: PlannedStep, reply: StepReply) -> None:
        await self._add("ended", step, reply)

    async def _add(self, verb: str, step: PlannedStep, reply: StepReply | None) -> None:
        words = [f"{step.position} {step.name} {verb}"]
        if reply is not None:
            words.append(reply.error or reply.output)
        await asyncio.to_thread(self._before, words[0])
        self.lines.append(": ".join(words))


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Return a function that makes a program: it prints lines, then runs lines of Python."""

    def write(*parts: bytes | str) -> list[str]:
        source = ["import os, sys"]
        for number, part in enumerate(parts):
            if isinstance(part, str):
                source.append(textwrap.dedent(part))
                continue
            printed = tmp_path / f"printed-{number}"
            printed.write_bytes(part)
            source.append(f"sys.stdout.buffer.write(open({str(printed)!r}, 'rb').read())")
            source.append("sys.stdout.flush()")
        path = tmp_path / "program.py"
        path.write_text("\n".join(source))
        return [sys.executable, "-I", "-S", str(path)]

    return write


REQUEST = AgentRequest("Tidy up", 20.0, "flow:1")


async def ask(
    command: list[str], output: str = "claude-code", request: AgentRequest = REQUEST, **given: Any
) -> AgentReply:
    settings = CommandSettings.model_validate({"command": command, "output": output} | given)
    return await CommandAgent("cc", settings).answer(request)


async def test_steps_are_recorded_while_the_program_runs_and_its_result_is_the_answer(
    program: Program, tmp_path: Path
) -> None:
    heard = tmp_path / "heard"
    os.mkfifo(heard)
    notes = Notes(lambda line: line == "1.1 Bash began" and heard.write_text("go"))
    command = program(
        lines(claude_init(), claude_says("msg_1", calls("toolu_1", "Bash", command="ls"))),
        f"open({str(heard)!r}).read()",  # until the journal has the call
        lines(claude_got("toolu_1", "a"), claude_says("msg_2", text("Hm.")), claude_result()),
    )
    used: list[dict[str, Any]] = []
    reply = await ask(command, request=replace(REQUEST, journal=notes, took=used.append))

    assert notes.lines == [
        "1 claude-sonnet-4-20250514 began",
        "1.1 Bash began",
        '1 claude-sonnet-4-20250514 ended: Bash({"command": "ls"})',
        "1.1 Bash ended: a",
        "2 claude-sonnet-4-20250514 began",
        "2 claude-sonnet-4-20250514 ended: Hm.",
    ]
    assert (reply.text, reply.model) == ("All done.", "claude-sonnet-4-20250514")
    assert reply.usage is not None
    assert (reply.usage["cost_usd"], reply.usage["tool_calls"]) == (0.0123, 1)
    assert [each["output_tokens"] for each in used] == [86, 300]


async def test_the_programs_own_session_is_recorded_once(program: Program) -> None:
    notes = Notes()
    command = program(lines(claude_init(), claude_says("msg_1", text("Hm.")), claude_result()))
    await ask(command, request=replace(REQUEST, journal=notes))
    assert notes.sessions == [(ProgramSession(SESSION), False)]


RESUMING = """
asked, resumed = sys.stdin.read(), "abc-1" in sys.argv
if resumed: assert sys.argv[1:] in (
    ["--resume", "abc-1", "--fork-session"], ["resume", "abc-1", "-"]
)
import json
result = {"type": "result", "subtype": "success", "result": json.dumps([resumed, asked])}
"""


@pytest.mark.parametrize(
    ("found", "given", "resumed"),
    [
        ("True", {}, True),
        ("not resumed", {}, False),  # the program has forgotten the session
        ("True", {"work_dir": ""}, False),  # sessions belong to a folder
        ("True", {"history": "none"}, False),
        ("True", {"output": "codex"}, True),
        ("not resumed", {"output": "codex"}, False),
    ],
)
async def test_a_conversation_is_continued_if_the_program_still_has_it(
    program: Program, tmp_path: Path, found: str, given: dict[str, Any], *, resumed: bool
) -> None:
    done = "{'type': 'item.completed', 'item': {'type': 'agent_message', 'text': result['result']}}"
    command = program(
        RESUMING,
        f"if not ({found}): sys.exit('No conversation found')",
        f"print(json.dumps(result)); print(json.dumps({done}))",
        "print(json.dumps({'type': 'turn.completed', 'usage': {}}))",
    )
    history = (ChatMessage("user", "My name is Ada."), ChatMessage("assistant", "Hello Ada."))
    request = replace(REQUEST, history=history, resume=ProgramSession("abc-1"))
    reply = await ask(command, request=request, **{"work_dir": str(tmp_path)} | given)
    was_resumed, asked = json.loads(reply.text)
    assert was_resumed is resumed
    with_history = not resumed and given.get("history") != "none"
    assert ("My name is Ada." in asked, "Tidy up" in asked) == (with_history, True)


@pytest.mark.parametrize(
    "printed",
    [
        lines(claude_init(), claude_says("msg_1", text("Hm."))),
        # Without a step, but with a usage: a second start would lose it.
        """print('{"type": "result", "is_error": true, "usage": {"input_tokens": 9}}')""",
    ],
)
async def test_a_continued_conversation_that_has_begun_is_not_asked_again(
    program: Program, tmp_path: Path, printed: str
) -> None:
    command = program(printed, "sys.exit(1)")
    request = replace(REQUEST, history=(ChatMessage("user", "Hi"),), resume=ProgramSession("abc-1"))
    counted = tmp_path / "count"
    command[-1:] = [str(tmp_path / "counting.py")]
    text_of = (tmp_path / "program.py").read_text()
    (tmp_path / "counting.py").write_text(f"open({str(counted)!r}, 'a').write('x')\n{text_of}")
    with pytest.raises(AgentFailed):
        await ask(command, request=request, work_dir=str(tmp_path))
    assert counted.read_text() == "x"


CODEX_PROGRAM = """
import json, os, pathlib, signal
thread, asked, total = "0199a213-81c0", sys.stdin.read(), [0, 0, 0]
kept = pathlib.Path(__file__).with_name(thread)
if sys.argv[1:]:
    assert sys.argv[1:] == ["resume", thread, "-"]
    if not kept.exists():
        sys.exit(f"Error: thread/resume: no rollout found for thread id {thread} (code -32600)")
    total = json.loads(kept.read_text())
def say(kind, **more):
    print(json.dumps({"type": kind, **more}), flush=True)
say("thread.started", thread_id=thread)
say("turn.started")
total = [a + b for a, b in zip(total, (1000, 500, 10))]
kept.write_text(json.dumps(total))
if asked == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if asked == "fail":
    say("error", message="no quota")
    say("turn.failed", error={"message": "no quota"})
    sys.exit(1)
say("item.completed", item={"id": "item_0", "type": "agent_message", "text": asked})
names = ("input_tokens", "cached_input_tokens", "output_tokens")
say("turn.completed", usage=dict(zip(names, total)))
"""


@pytest.mark.parametrize("failure", ["fail", "die"])
async def test_runs_that_continue_a_thread_of_codex_count_each_token_once(
    program: Program, tmp_path: Path, failure: str
) -> None:
    command, session = program(CODEX_PROGRAM), None
    history = (ChatMessage("user", "My name is Ada."), ChatMessage("assistant", "Hello Ada."))

    async def run(prompt: str) -> tuple[int | None, str, tuple[str, ...]]:
        nonlocal session
        notes = Notes()
        given = replace(REQUEST, prompt=prompt, history=history, resume=session, journal=notes)
        try:
            reply = await ask(command, "codex", given, work_dir=str(tmp_path))
        finally:
            session = notes.sessions[-1][0]
        return (reply.usage or {})["input_tokens"], reply.text, reply.warnings

    first = await run("one")
    assert (first[0], "Hello Ada." in first[1]) == (1000, True)
    assert await run("two") == (1000, "two", ())
    with pytest.raises(AgentFailed) as failed:
        await run(failure)
    assert failed.value.usage is None
    with_failed = await run("four")
    assert with_failed[:2] == (2000, "four")
    assert [each.startswith("the tokens include") for each in with_failed[2]] == [True]
    assert await run("five") == (1000, "five", ())
    (tmp_path / "0199a213-81c0").unlink()
    lost = await run("six")
    assert (lost[0], "Hello Ada." in lost[1], lost[2]) == (1000, True, ())


NO_TOKENS = {"input_tokens": 0, "output_tokens": 0}
REFUSAL = claude_says("msg_1", text("Prompt is too long"))
REFUSAL["message"]["usage"] = NO_TOKENS
FULL = [
    ("claude-code", lines(claude_init(), REFUSAL,
                          claude_result("Prompt is too long", is_error=True, total_cost_usd=0,
                                        usage=NO_TOKENS)),
     lines(claude_init(), claude_result("Hello."))),
    ("codex", lines(codex("thread.started", thread_id=THREAD), codex("turn.started"),
                    codex("error", message=CODEX_FULL),
                    codex("turn.failed", error={"message": CODEX_FULL})),
     lines(codex("thread.started", thread_id="another"), codex("turn.started"),
           codex("item.completed", item=item("agent_message", 2, text="Hello.")), CODEX_END)),
]  # fmt: skip


def resuming(session: ProgramSession) -> AgentRequest:
    return replace(REQUEST, history=(ChatMessage("user", "I am Ada."),), resume=session)


@pytest.mark.parametrize(("output", "refused", "answered"), FULL)
async def test_a_run_whose_programs_conversation_is_full_begins_a_new_one(
    program: Program, tmp_path: Path, output: str, refused: bytes, answered: bytes
) -> None:
    command = program(
        "is_new = 'I am Ada' in sys.stdin.read()",
        f"sys.stdout.buffer.write({answered!r} if is_new else {refused!r})",
        "sys.exit(0 if is_new else 1)",
    )
    notes = Notes()
    request = replace(resuming(ProgramSession(THREAD)), journal=notes)
    reply = await ask(command, output, request, work_dir=str(tmp_path))
    assert reply.text == "Hello."
    assert [each.partition("'s own")[0] for each in reply.warnings] == [Path(command[0]).name]
    recorded = [(session.is_full, resumed) for session, resumed in notes.sessions]
    assert ((True, True) in recorded, recorded[-1]) == (True, (False, False))

    notes = Notes()
    request = replace(resuming(ProgramSession(THREAD, is_full=True)), journal=notes)
    reply = await ask(command, output, request, work_dir=str(tmp_path))
    assert (reply.text, len(reply.warnings)) == ("Hello.", 1)
    assert not any(resumed for _, resumed in notes.sessions)


@pytest.mark.parametrize(
    ("output", "worked", "refused"),
    [
        ("claude-code", [claude_says("msg_0", calls("toolu_1", "Bash", command="ls"))], FULL[0][1]),
        ("codex", codex_command(1, "ls", "a", 0), FULL[1][1]),
    ],
)
async def test_a_program_that_worked_before_its_conversation_was_full_is_not_started_again(
    program: Program, tmp_path: Path, output: str, worked: list[dict[str, Any]], refused: bytes
) -> None:
    notes = Notes()
    request = replace(resuming(ProgramSession(THREAD)), journal=notes)
    command = program(lines(*worked) + refused, "sys.exit(1)")
    with pytest.raises(AgentFailed, match="the next run begins a new conversation"):
        await ask(command, output, request, work_dir=str(tmp_path))
    assert [(each.is_full, resumed) for each, resumed in notes.sessions][-1] == (True, True)


async def test_codex_answers_with_its_last_message_and_needs_no_journal(program: Program) -> None:
    command = program(
        "asked = sys.stdin.read()",
        lines(codex("turn.started"), *codex_command(1, "ls", "a", 0)),
        "print(asked, flush=True)",  # no JSON
        lines(codex("item.completed", item=item("agent_message", 2, text="Tidy.")), CODEX_END)[:-1],
    )
    reply = await ask(command, "codex")
    assert (reply.text, reply.usage and reply.usage["input_tokens"]) == ("Tidy.", 24763)


async def test_a_program_of_a_run_that_was_taken_over_is_ended(program: Program) -> None:
    def refuse(line: str) -> None:
        if line == "1.1 Bash began":
            raise FenceRefused("run", 1, 2)

    command = program(
        lines(claude_says("msg_1", calls("toolu_1", "Bash", command="ls"))),
        "import signal; signal.pause()",
    )
    with pytest.raises(FenceRefused):
        await ask(command, request=replace(REQUEST, journal=Notes(refuse)))


@pytest.mark.parametrize(
    ("printed", "code", "error"),
    [
        (lines(claude_result("Credit balance is too low", is_error=True)), 1, "reported: Credit"),
        (lines(claude_result("", subtype="error_max_turns", is_error=True)), 0, "error max turns"),
        (lines(claude_result()), 3, "exited with code 3|exit code 3|code 3"),
        (lines(claude_init()), 0, "printed no result line; .*stream-json --verbose"),
        (lines(claude_result())[:-20], 0, "printed no result line"),
        (b"All done.\n", 0, "printed no result line"),
    ],
)
async def test_without_a_good_result_the_run_fails_and_says_why(
    program: Program, printed: bytes, code: int, error: str
) -> None:
    with pytest.raises(AgentFailed, match=error):
        await ask(program(printed, f"sys.exit({code})"))


async def test_the_usage_of_a_failure_is_kept(program: Program) -> None:
    printed = lines(claude_says("msg_1", text("Hm.")), claude_result("no", is_error=True))
    with pytest.raises(AgentFailed) as failed:
        await ask(program(printed))
    assert failed.value.usage is not None
    assert failed.value.usage["cost_usd"] == 0.0123


async def test_a_program_that_takes_too_long_is_ended_with_its_steps_and_usage(
    program: Program,
) -> None:
    notes = Notes()
    command = program(
        lines(
            claude_says("msg_1", calls("toolu_1", "Bash", command="ls")),
            claude_got("toolu_1", "a"),
            claude_says("msg_2", calls("toolu_2", "Bash", command="make")),
        )[:-30],
        "import signal; signal.pause()",
    )
    with pytest.raises(AgentTimeout) as ended:
        await ask(command, request=replace(REQUEST, timeout=1.0, journal=notes))
    assert notes.lines[-1] == "1.1 Bash ended: a"
    assert ended.value.usage is not None
    assert (ended.value.usage["requests"], ended.value.usage["input_tokens"]) == (1, 1204)


async def test_secrets_of_the_program_are_not_in_its_steps(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-very-secret")
    notes = Notes()
    command = program(
        lines(
            claude_says("msg_1", calls("toolu_1", "Bash", command="echo sk-very-secret")),
            claude_says("msg_2", calls("toolu_2", "sk-very-secret")),
            claude_got("toolu_1", "sk-very-secret", is_error=True),
            claude_result("It is sk-very-secret."),
        )
    )
    request = replace(REQUEST, journal=notes)
    reply = await ask(command, request=request, environment=["PATH", "ANTHROPIC_API_KEY"])
    assert reply.text == "It is [ANTHROPIC_API_KEY]."
    assert "1.1 Bash ended: [ANTHROPIC_API_KEY]" in notes.lines
    assert any("[ANTHROPIC_API_KEY] began" in each for each in notes.lines), notes.lines
    assert "sk-very-secret" not in " ".join(notes.lines)


HELP = """
import json, pathlib
seen = pathlib.Path(__file__).with_name("seen")
with seen.open("a") as file:
    print(json.dumps(sys.argv[1:]), file=file)
if sys.argv[1:] == ["--help"]:
    print("Options: OPTION")
    sys.exit()
"""


@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.parametrize("name", ["claude", "wrapper"])
async def test_claude_code_prints_partial_text_if_its_help_names_the_option(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_new: bool, name: str
) -> None:
    monkeypatch.setattr(partial_text, "_known", {})
    option = "--include-partial-messages"
    ends = claude_init(), claude_says("msg_1", text("Hm.")), claude_result()
    (*_, source) = program(HELP.replace("OPTION", option if is_new else "--verbose"), lines(*ends))
    command = tmp_path / name
    source_text = await asyncio.to_thread(Path(source).read_text)
    command.write_text(f"#!{sys.executable} -IS\n{source_text}")
    command.chmod(0o755)
    arguments = ["-p", "--output-format", "stream-json", "--verbose"]
    for _ in range(2):
        assert (await ask([str(command), *arguments])).text == "All done."
    seen = [json.loads(each) for each in (tmp_path / "seen").read_text().splitlines()]
    if name == "claude":
        started = [option, *arguments] if is_new else arguments
        assert seen == [["--help"], started, started]
    else:
        assert seen == [arguments, arguments]


async def test_the_text_of_a_program_is_shown_without_its_secrets_while_it_writes(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(showing, "INTERVAL_SECONDS", 0.01)
    monkeypatch.setenv("MY_API_KEY", "sk-9f8e7d6c5b4a")
    heard = tmp_path / "heard"
    os.mkfifo(heard)

    class Heard(Notes):
        async def show(self, step: PlannedStep, text: str) -> None:
            await super().show(step, text)
            if len(self.shown) == 1:
                await asyncio.to_thread(heard.write_text, "go")

    notes = Heard()
    command = program(
        lines(claude_init(), claude_says("msg_1", text("It is sk-9f8e7d6c5b4a, or sk-9f8e"))),
        f"open({str(heard)!r}).read()",
        lines(claude_result()),
    )
    await ask(command, request=replace(REQUEST, journal=notes), environment=["MY_API_KEY"])
    ((position, shown),) = notes.shown
    assert position == "1"
    assert shown.startswith("It is ")
    assert "9f8e" not in shown
