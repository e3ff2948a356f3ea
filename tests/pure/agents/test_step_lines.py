"""Readers of the lines that programs print: complete, broken, unknown and interrupted streams."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import pytest

from daybook.agents import presets
from daybook.agents.base import AgentRequest
from daybook.agents.journal import ProgramSession
from daybook.agents.presets import PRESETS, OutputFormat
from daybook.agents.step_lines import ClaudeCodeLines, CodexLines, StepEvent, StepLines
from daybook.errors import InvalidInput
from daybook.processes.pipes import LinePipe
from tests.printed_steps import (
    CODEX_END,
    CODEX_FULL,
    MODEL,
    SESSION,
    THREAD,
    calls,
    claude_got,
    claude_init,
    claude_result,
    claude_says,
    codex,
    codex_command,
    codex_end,
    item,
    lines,
    text,
)

REQUEST = AgentRequest("Tidy up", 60.0, "flow:1")

CLAUDE = lines(
    claude_init(),
    claude_says("msg_1", text("I look.")),
    claude_says("msg_1", calls("toolu_1", "Bash", command="ls")),
    claude_says("msg_1", calls("toolu_2", "Read", file_path="a")),
    claude_got("toolu_1", "a\nb"),
    claude_got("toolu_2", [{"type": "text", "text": "no such file"}], is_error=True),
    claude_says("msg_2", text("All done.")),
    claude_result(),
)
CODEX = lines(
    codex("thread.started", thread_id=THREAD),
    codex("turn.started"),
    codex("item.completed", item=item("reasoning", 0, text="**Looking**")),
    *codex_command(1, "bash -lc ls", "a\n", 0),
    *codex_command(2, "bash -lc 'cat b'", "cat: b: No such file\n", 1),
    codex("item.completed", item=item("agent_message", 3, text="There is no b.")),
    CODEX_END,
)


def read(reader: StepLines, printed: bytes) -> list[tuple[str, str, str]]:
    """Read all lines; return position, name and what each event says."""
    events: list[StepEvent] = []
    for line in printed.splitlines():
        events += reader.read(line)
    events += reader.close()
    return [shown(each) for each in events]


def shown(event: StepEvent) -> tuple[str, str, str]:
    reply = event.reply
    if reply is None:
        outcome = "began"
    else:
        outcome = f"failed: {reply.error}" if reply.error else reply.output
        outcome = f"began, {outcome}" if event.is_new else outcome
    return str(event.step.position), event.step.name, outcome


def test_claude_codes_lines_become_requests_and_calls() -> None:
    reader = ClaudeCodeLines(REQUEST)
    response = 'I look.\nBash({"command": "ls"})\nRead({"file_path": "a"})'
    assert read(reader, CLAUDE) == [
        ("1", MODEL, "began"),
        ("1.1", "Bash", "began"),
        ("1.2", "Read", "began"),
        ("1", MODEL, response),
        ("1.1", "Bash", "a\nb"),
        ("1.2", "Read", "failed: no such file"),
        ("2", MODEL, "began"),
        ("2", MODEL, "All done."),
    ]
    assert (reader.text, reader.error, reader.unread) == ("All done.", "", 0)
    assert (reader.model, reader.session) == (MODEL, ProgramSession(SESSION))
    assert reader.usage == {
        "requests": 2,
        "input_tokens": 2408,
        "output_tokens": 300,
        "cache_read_tokens": 2000,
        "cache_write_tokens": 400,
        "cost_usd": 0.0123,
        "tool_calls": 2,
    }


def test_the_first_request_shows_the_prompt_and_a_response_its_tokens() -> None:
    reader = ClaudeCodeLines(AgentRequest("Tidy up", 60.0, "flow:1", fallback=1, question=2))
    (began,) = reader.read(lines(claude_says("msg_1", text("Hi"))))
    assert (str(began.step.position), began.step.kind) == ("~1.#2.1", "request")
    assert began.step.input == "Tidy up"
    (ended,) = reader.close()
    assert ended.reply is not None
    assert ended.reply.usage == {
        "requests": 1,
        "input_tokens": 1204,
        "output_tokens": 86,
        "cache_read_tokens": 1000,
        "cache_write_tokens": 200,
        "cost_usd": None,
    }


def test_the_usage_of_all_models_counts_if_claude_code_names_them() -> None:
    reader = ClaudeCodeLines(REQUEST)
    by_model = {
        "a": {"inputTokens": 10, "outputTokens": 1, "cacheReadInputTokens": 5, "costUSD": 0.01},
        "b": {"inputTokens": 20, "outputTokens": 2, "cacheCreationInputTokens": 7},
    }
    read(reader, lines(claude_result(modelUsage=by_model)))
    assert reader.usage is not None
    assert (reader.usage["input_tokens"], reader.usage["output_tokens"]) == (42, 3)


def test_a_subagents_response_is_mixed_with_its_parents() -> None:
    reader = ClaudeCodeLines(REQUEST)
    printed = lines(
        claude_says("msg_1", calls("toolu_1", "Task", prompt="look")),
        claude_says("msg_2", calls("toolu_2", "Bash", command="ls"), parent="toolu_1"),
        claude_says("msg_1", calls("toolu_3", "Bash", command="pwd")),
        claude_got("toolu_2", "a", parent="toolu_1"),
        claude_got("toolu_3", "/"),
        claude_got("toolu_1", "There is a."),
        claude_result(),
    )
    assert [(at, name) for at, name, outcome in read(reader, printed) if outcome == "began"] == [
        ("1", MODEL),
        ("1.1", "Task"),
        ("2", MODEL),
        ("2.1", "Bash"),
        ("1.2", "Bash"),
    ]


def test_a_response_that_goes_on_after_a_result_is_recorded_whole_and_counted_once() -> None:
    """Claude Code prints the result of a call while the same response still arrives."""
    found = {"type": "web_search_tool_result", "tool_use_id": "toolu_1", "content": "rain"}
    searched = {"type": "server_tool_use", "id": "toolu_1", "name": "web_search", "input": {}}
    reader = ClaudeCodeLines(REQUEST)
    printed = lines(
        claude_says("msg_1", searched, found, text("It rains.")),
        claude_says("msg_1", calls("toolu_2", "Bash", command="ls")),
        claude_got("toolu_2", "a"),
        claude_says("msg_1", text("There is a.")),
        claude_says("msg_2", text("Done.")),
    )
    response = 'web_search({})\nIt rains.\nBash({"command": "ls"})'
    assert read(reader, printed) == [
        ("1", MODEL, "began"),
        ("1.1", "web_search", "began, rain"),
        ("1.2", "Bash", "began"),
        ("1", MODEL, response),
        ("1.2", "Bash", "a"),
        ("1", MODEL, f"{response}\nThere is a."),
        ("2", MODEL, "began"),
        ("2", MODEL, "Done."),
    ]
    assert reader.usage is not None
    assert (reader.usage["requests"], reader.usage["output_tokens"]) == (2, 2 * 86)


def test_an_error_of_claude_code_is_no_answer() -> None:
    reader = ClaudeCodeLines(REQUEST)
    read(reader, lines(claude_result("", subtype="error_max_turns", is_error=True)))
    assert (reader.text, reader.error) == (None, "error max turns")
    reader = ClaudeCodeLines(REQUEST)
    read(reader, lines(claude_result("API Error: 529 overloaded", is_error=True)))
    assert (reader.text, reader.error) == (None, "API Error: 529 overloaded")
    reader = ClaudeCodeLines(REQUEST)
    failed = claude_result("", subtype="error_during_execution", is_error=True, errors=["a", "b"])
    read(reader, lines(failed))
    assert reader.error == "a; b"


def test_codexs_lines_become_a_request_and_calls() -> None:
    reader = CodexLines(REQUEST)
    assert read(reader, CODEX) == [
        ("1", "codex", "began"),
        ("1.1", "command_execution", "began"),
        ("1.1", "command_execution", "a\n"),
        ("1.2", "command_execution", "began"),
        ("1.2", "command_execution", "failed: exit code 1: cat: b: No such file"),
        ("1", "codex", "There is no b."),
    ]
    assert (reader.text, reader.error, reader.session.id) == ("There is no b.", "", THREAD)
    assert reader.usage == {
        "requests": 1,
        "input_tokens": 24763,
        "output_tokens": 122,
        "cache_read_tokens": 24448,
        "cost_usd": None,
        "tool_calls": 2,
    }


@pytest.mark.parametrize(
    ("call", "name", "outcome"),
    [
        (
            item(
                "mcp_tool_call", 1, server="docs", tool="search", arguments={"q": 1},
                result={"content": [{"type": "text", "text": "found"}]}, status="completed",
            ),
            "docs.search",
            "began, found",
        ),
        (
            item(
                "mcp_tool_call", 1, server="docs", tool="search", arguments={}, result=None,
                error={"message": "no connection"}, status="failed",
            ),
            "docs.search",
            "began, failed: no connection",
        ),
        (
            item("file_change", 1, changes=[{"path": "a", "kind": "add"}], status="failed"),
            "file_change",
            "began, failed: failed",
        ),
        (
            item("command_execution", 1, command="rm -r /", exit_code=None, status="declined"),
            "command_execution",
            "began, failed: declined",
        ),
        (item("web_search", 1, query="weather"), "web_search", "began, "),
    ],
)  # fmt: skip
def test_a_call_of_codex_that_is_only_completed_is_one_event(
    call: dict[str, Any], name: str, outcome: str
) -> None:
    printed = lines(codex("item.completed", item=call))
    assert read(CodexLines(REQUEST), printed) == [("1.1", name, outcome)]


def test_a_failed_turn_of_codex_is_an_error_and_a_reconnection_is_not() -> None:
    retry = codex("error", message="Reconnecting... 1/5")
    reader = CodexLines(REQUEST)
    read(reader, lines(codex("turn.started"), retry, CODEX_END))
    assert (reader.text, reader.error) == ("", "")
    reader = CodexLines(REQUEST)
    failed = codex("turn.failed", error={"message": "quota exceeded"})
    assert read(reader, lines(codex("turn.started"), failed))[-1][2] == "failed: quota exceeded"
    assert (reader.text, reader.error) == (None, "quota exceeded")
    reader = CodexLines(REQUEST)
    read(reader, lines(codex("turn.started"), codex("error", message="stream disconnected")))
    assert (reader.text, reader.error) == (None, "stream disconnected")


Tokens = tuple[Any, Any, Any]
NAMES = ("input_tokens", "cache_read_tokens", "output_tokens")


def counts(*tokens: int) -> dict[str, int]:
    return dict(zip(NAMES, tokens, strict=True))


@pytest.mark.parametrize(
    ("before", "totals", "used", "warning"),
    [
        ({"tokens": counts(1000, 700, 60)}, [(1800, 1400, 125)], (800, 700, 65), ""),
        ({"tokens": counts(1000, 700, 60)}, [(1800, 1400, 125), (2000, 1500, 130)],
         (1000, 800, 70), ""),
        # The program counts anew, as it does after its context was full.
        ({"tokens": counts(1000, 700, 60)}, [(300, 200, 20)], (300, 200, 20), ""),
        ({"tokens": counts(100, 70, 60)}, [(300, 200, 20)], (300, 200, 20), ""),
        ({"tokens": counts(1000, 700, 60)}, [(300, 200, 20), (500, 300, 25)], (500, 300, 25), ""),
        ({"tokens": None}, [(1800, 1400, 125)], (None, None, None), "are unknown"),
        ({"tokens": None}, [(1800, 1400, 125), (2000, 1500, 130)], (None, None, None), "unknown"),
        ({"tokens": counts(1000, 700, 60), "has_unreported": True}, [(1800, 1400, 125)],
         (800, 700, 65), "include those of an earlier run"),
        ({"id": "another", "tokens": counts(1000, 700, 60), "has_unreported": True},
         [(1800, 1400, 125)], (1800, 1400, 125), "began a new conversation"),
    ],
)  # fmt: skip
def test_a_continued_thread_of_codex_uses_the_difference_of_its_sums(
    before: dict[str, Any], totals: list[Tokens], used: Tokens, warning: str
) -> None:
    reader = CodexLines(replace(REQUEST, resume=ProgramSession(**{"id": THREAD} | before)))
    turns = [each for total in totals for each in (codex("turn.started"), codex_end(*total))]
    read(reader, lines(codex("thread.started", thread_id=THREAD), *turns))
    assert reader.usage is not None
    assert tuple(map(reader.usage.get, NAMES)) == used
    assert [warning in each for each in reader.warnings] == ([True] if warning else [])
    # The next run continues from the whole sum.
    assert reader.session == ProgramSession(THREAD, dict(zip(NAMES, totals[-1], strict=True)))


@pytest.mark.parametrize(
    "end",
    [
        [],  # it was killed
        [codex("turn.failed", error={"message": "quota exceeded"})],
        [codex("turn.completed", usage={})],
        [codex_end(0, 0, 0)],
    ],
)
def test_tokens_that_codex_did_not_report_are_left_to_the_next_run(
    end: list[dict[str, Any]],
) -> None:
    before = counts(1000, 700, 60)
    reader = CodexLines(replace(REQUEST, resume=ProgramSession(THREAD, before)))
    begun = [codex("thread.started", thread_id=THREAD), codex("turn.started")]
    read(reader, lines(*begun, *end))
    assert reader.usage is None
    assert reader.session == ProgramSession(THREAD, before, has_unreported=True)


def test_an_impossible_sum_of_a_thread_is_not_recorded() -> None:
    reader = CodexLines(REQUEST)
    read(reader, lines(codex("thread.started", thread_id=THREAD), codex_end(10**400, 0, 3)))
    assert reader.session == ProgramSession(THREAD)


@pytest.mark.parametrize(
    ("make", "printed", "is_full"),
    [
        (ClaudeCodeLines, claude_result("Prompt is too long", is_error=True), True),
        (ClaudeCodeLines, claude_result("API Error: 400 prompt is too long: 210000 tokens > 200000 "
                                        "maximum", is_error=True), True),
        (ClaudeCodeLines, claude_result("", is_error=True,
                                        terminal_reason="prompt_too_long"), True),
        (ClaudeCodeLines, claude_result("Request too large", is_error=True,
                                        terminal_reason="blocking_limit"), True),
        (ClaudeCodeLines, claude_result("Credit balance is too low", is_error=True), False),
        (ClaudeCodeLines, claude_result("The error means: Prompt is too long"), False),
        (CodexLines, codex("turn.failed", error={"message": CODEX_FULL}), True),
        (CodexLines, codex("error", message=f"Error running remote compact task: {CODEX_FULL}"),
         True),
        (CodexLines, codex("turn.failed", error={"message": '{"error": {"code": '
                                                            '"context_length_exceeded"}}'}), True),
        (CodexLines, codex("turn.failed", error={"message": "quota exceeded"}), False),
    ],
)  # fmt: skip
def test_a_conversation_is_full_if_the_program_says_so(
    make: type[StepLines], printed: dict[str, Any], *, is_full: bool
) -> None:
    reader = make(REQUEST)
    read(reader, lines(printed))
    assert reader.session.is_full is is_full


def test_a_full_conversation_after_which_codex_went_on_is_not_full() -> None:
    reader = CodexLines(REQUEST)
    read(reader, lines(codex("turn.started"), codex("error", message=CODEX_FULL), CODEX_END))
    assert not reader.session.is_full


def test_an_error_of_claude_code_without_words_has_its_reason() -> None:
    reader = ClaudeCodeLines(REQUEST)
    read(reader, lines(claude_result("", is_error=True, terminal_reason="prompt_too_long")))
    assert reader.error == "prompt too long"


@pytest.mark.parametrize(("make", "printed"), [(ClaudeCodeLines, CLAUDE), (CodexLines, CODEX)])
def test_broken_lines_unknown_events_and_other_types_change_nothing(
    make: type[StepLines], printed: bytes
) -> None:
    expected = read(make(REQUEST), printed)
    noise = [
        b"Warning: not JSON",
        b'{"type": "assistant", "mess',
        b"\xff\xfe",
        b"[" * 100_000,
        b"[1, 2]",
        b"null",
        *lines(
            {"type": "stream_event", "event": {"type": "content_block_delta"}},
            {"type": "rate_limit_event"},
            {"type": "thread.forked", "new": True},
            {"type": "item.updated", "item": 5},
            {"type": "item.started", "item": {"id": 7, "type": ["x"]}},
            {"type": "user", "message": {"content": "text"}, "parent_tool_use_id": "toolu_9"},
            {"type": "user", "message": {"content": [5, {}]}, "parent_tool_use_id": "toolu_9"},
            {"type": ["result"], "usage": 5},
            {"no": "type"},
        ).splitlines(),
    ]
    reader, events = make(REQUEST), list[StepEvent]()
    for line in printed.splitlines():
        for each in noise:
            events += reader.read(each)
        events += reader.read(line)
    events += reader.close()
    known = {"Bash", "Read", MODEL, "codex", "command_execution"}
    assert [shown(each) for each in events if each.step.name in known] == expected
    assert reader.unread == 6 * len(printed.splitlines())
    assert reader.text is not None


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -1, 10**400, True, "5", None])
def test_a_number_that_can_be_none_counts_as_unknown(wrong: Any) -> None:
    reader = ClaudeCodeLines(REQUEST)
    tokens = {"input_tokens": wrong, "output_tokens": 3}
    read(reader, lines(claude_result(total_cost_usd=wrong, usage=tokens)))
    assert reader.usage is not None
    is_impossible = wrong == 10**400
    assert reader.usage["cost_usd"] is None
    assert reader.usage["input_tokens"] == (None if is_impossible else 0)
    assert not is_impossible or reader.warnings[0].startswith("the reported usage is impossible: ")
    codex_reader = CodexLines(REQUEST)
    read(codex_reader, lines(codex("turn.started"), codex("turn.completed", usage=tokens)))
    assert codex_reader.usage is not None
    assert (codex_reader.usage["input_tokens"], codex_reader.usage["output_tokens"]) == (None, 3)


@pytest.mark.parametrize(("make", "printed"), [(ClaudeCodeLines, CLAUDE), (CodexLines, CODEX)])
def test_a_stream_that_is_cut_anywhere_has_no_answer_and_only_steps_that_it_told(
    make: type[StepLines], printed: bytes
) -> None:
    complete = read(make(REQUEST), printed)
    for end in range(0, len(printed) - 2, 7):
        reader = make(REQUEST)
        events = read(reader, printed[:end])
        assert reader.text is None
        began = [each[:2] for each in events if each[2] == "began"]
        assert began == [each[:2] for each in complete if each[2] == "began"][: len(began)]


def test_a_huge_line_is_dropped_and_the_lines_around_it_are_read() -> None:
    seen: list[bytes] = []
    pipe = LinePipe(seen.append, limit=1_000)
    huge = lines({"type": "user", "content": "x" * 5_000})
    printed = lines({"type": "a"}) + huge + lines({"type": "b"})[:-1]
    for start in range(0, len(printed), 64):  # as a pipe delivers it
        pipe.data_received(printed[start : start + 64])
    pipe.connection_lost(None)
    assert seen == [b'{"type": "a"}', b'{"type": "b"}']
    assert pipe.dropped == len(huge) - 1
    assert not pipe.kept


def test_each_preset_has_a_format_of_its_name_and_its_key_in_the_environment() -> None:
    assert get_args(OutputFormat) == ("text", "json", *PRESETS)
    made = presets.apply("claude-code", {"command": ["--model", "opus"], "tools": ["search"]})
    assert made["command"][:2] == ["claude", "-p"]
    assert made["command"][-3:] == ["--mcp-config={mcp_config}", "--model", "opus"]
    assert {"PATH", "ANTHROPIC_API_KEY"} <= set(made["environment"])
    with pytest.raises(InvalidInput, match="claude-code, codex"):
        presets.apply("gemini", {})


def test_an_event_that_is_nested_too_deeply_is_skipped_and_the_next_ones_are_read() -> None:
    reader = ClaudeCodeLines(REQUEST)
    deep: Any = "end"
    for _ in range(900):
        deep = [deep]
    bad = lines(claude_says("msg_1", calls("toolu_1", "Bash", command=deep)))
    for line in (bad + CLAUDE).splitlines():
        reader.read(line)
    assert reader.unread == 1
    assert reader.text == "All done."


def part(kind: str, parent: str | None = None, **given: Any) -> dict[str, Any]:
    event = {"type": kind, **given}
    return {"type": "stream_event", "event": event, "parent_tool_use_id": parent, "uuid": "u"}


def written(reader: StepLines, event: dict[str, Any]) -> str | None:
    reader.read(lines(event).strip())
    return reader.writing[1] if reader.writing else None


BEGUN = part("message_start", message={"id": "msg_1", "model": MODEL, "usage": {}})


def test_the_parts_of_a_response_of_claude_code_are_its_text_so_far() -> None:
    reader = ClaudeCodeLines(REQUEST)
    assert written(reader, BEGUN) is None
    assert written(reader, part("content_block_start", index=0)) is None
    for piece, so_far in (("I lo", "I lo"), ("ok.", "I look.")):
        delta = {"type": "text_delta", "text": piece}
        assert written(reader, part("content_block_delta", index=0, delta=delta)) == so_far
    other = {"type": "text_delta", "text": "A subagent."}
    assert written(reader, part("content_block_delta", "toolu_9", delta=other)) == "I look."
    thought = {"type": "thinking_delta", "thinking": "Hm."}
    assert written(reader, part("content_block_delta", delta=thought)) == "I look."
    # The whole text, which follows, is not a second one.
    assert written(reader, claude_says("msg_1", text("I look."))) == "I look."
    assert written(reader, claude_says("msg_1", calls("toolu_1", "Bash"))) == "I look."
    assert written(reader, claude_got("toolu_1", "a")) is None


def test_the_parts_of_a_response_do_not_change_its_steps() -> None:
    delta = part("content_block_delta", delta={"type": "text_delta", "text": "I look."})
    init, rest = CLAUDE.split(b"\n", 1)
    plain, reader = ClaudeCodeLines(REQUEST), ClaudeCodeLines(REQUEST)
    expected, found = read(plain, CLAUDE), read(reader, init + b"\n" + lines(BEGUN, delta) + rest)
    assert found == expected
    assert (reader.text, reader.usage) == (plain.text, plain.usage)


def test_a_finished_message_of_codex_is_its_text_so_far() -> None:
    reader = CodexLines(REQUEST)
    assert written(reader, codex("turn.started")) is None
    said = codex("item.completed", item=item("agent_message", 1, text="I look."))
    assert written(reader, said) == "I look."
    assert written(reader, CODEX_END) is None
