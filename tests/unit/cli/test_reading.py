"""`list`, `show`, `runs` and `next` without Prefect, as JSON and as text."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pty
import re
import sqlite3
import sys
import time
import unicodedata
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from daybook.cli import formatting, output
from daybook.cli.jobs import _failures as failed
from daybook.cli.runs import print_run, print_run_details
from daybook.delivery.views import RunWithSteps
from daybook.jobs.views import JobDetails
from daybook.ledger.views import Run, RunFile, RunSource, Step
from tests.commands import main
from tests.unit.cli.conftest import MADE, fill
from tests.unit.conftest import view

pytestmark = pytest.mark.usefixtures("stored")

# Fields that scripts rely on; docs/reference/json.md lists all fields.
JOB = {"id", "name", "kind", "enabled", "deployment", "schedule", "next_due"}
RUN = {
    *("id", "job", "kind", "trigger", "status", "reason", "delivery", "scheduled_for"),
    *("started_at", "finished_at", "duration_seconds", "attempts", "output", "result", "error"),
    *("session_id", "usage", "flow_run_id"),
}


@pytest.mark.floor("B", "ListJobs lists the jobs")
def test_list_json_has_the_fields_of_each_job(daybook: Any) -> None:
    by_name = {job["name"]: job for job in daybook("list", "--json").json}
    assert list(by_name) == ["by hand", "often", "weekly"]
    for job in by_name.values():
        assert job.keys() >= JOB
        assert job["kind"] == "agent-prompt"
        assert re.fullmatch(r"[0-9a-f]{32}", job["id"])
    weekly = by_name["weekly"]
    assert weekly["deployment"] == "agent-prompt/weekly"
    assert weekly["schedule"] == {"kind": "cron", "expr": "0 9 * * 1", "timezone": "Europe/Berlin"}
    (due,) = [datetime.fromisoformat(each) for each in weekly["next_due"]]
    assert (due.weekday(), due.hour, due.tzinfo is not None) == (0, 9, True)
    assert by_name["often"]["schedule"]["every"] == "1h30m"
    assert by_name["by hand"]["schedule"]["kind"] == "on_demand"
    assert (by_name["by hand"]["enabled"], by_name["by hand"]["next_due"]) == (False, [])


@pytest.mark.floor("C", "next_run of a job")
def test_show_finds_a_job_by_name_id_or_unique_id_prefix(daybook: Any) -> None:
    weekly = daybook("show", "weekly", "--json").json
    assert weekly.keys() >= JOB | {"last_run", "next_run"}
    assert weekly["next_run"] == weekly["next_due"][0]
    assert weekly["last_run"]["status"] == "waiting"
    for length in (32, 12):
        assert daybook("show", weekly["id"][:length], "--json").json["name"] == "weekly"


@pytest.mark.floor("B", "A result has status, output, error and duration")
@pytest.mark.floor("C", "A run has id, job, started_at, finished_at and duration")
def test_runs_json_has_the_fields_of_each_run(daybook: Any) -> None:
    (run,) = daybook("runs", "weekly", "--json").json
    assert run.keys() >= RUN
    assert (run["job"], run["trigger"], run["status"]) == ("weekly", "manual", "waiting")
    assert daybook("runs", "often", "--json").json == []
    assert daybook("runs", "--json").json == [run]


def test_the_table_of_list_has_one_line_per_job(daybook: Any) -> None:
    head, by_hand, often, weekly = daybook("list").out.splitlines()
    assert head.split() == ["NAME", "STATE", "SCHEDULE", "NEXT", "AGENT", "LAST"]
    assert re.fullmatch(r"by hand +off +on demand +- +default +-", by_hand)
    assert re.fullmatch(r"often +on +every 1 hour 30 minutes +in \d+ (s|min) +default +-", often)
    assert re.fullmatch(
        r"weekly +on +at 09:00 on Mondays, Europe/Berlin +in \d+ (s|min|h|days) +default +-", weekly
    )


def test_show_prints_the_schedule_in_words_the_policy_and_the_last_run(daybook: Any) -> None:
    out = daybook("show", "weekly").out
    assert "at 09:00 on Mondays, Europe/Berlin" in out
    assert re.search(r"last run +waiting, due (now|\d+ (s|min) ago)", out)
    assert re.search(r"policy +timeout 30m, retries 3, retry delay 1s, overlap skip", out)
    assert not re.search(r"^ +(model|answer) ", out, re.MULTILINE)
    often = daybook("show", "often").out
    assert re.search(r"model +small\n", often)
    assert re.search(r'answer +structured, \{"type": "object"\}\n', often)
    assert re.search(r"session +team\n", often)
    assert re.search(r"tags +team", out)


def test_next_of_a_schedule_crosses_the_change_to_summer_time(daybook: Any) -> None:
    typed = ["next", "--cron", "0 9 * * 1-5", "--tz", "Europe/Berlin"]
    typed += ["--after", "2027-03-26T00:00:00Z", "--count", "2"]
    assert daybook(*typed, "--json").json["due"] == [
        {"utc": "2027-03-26T08:00:00Z", "local": "2027-03-26T09:00:00+01:00"},
        {"utc": "2027-03-29T07:00:00Z", "local": "2027-03-29T09:00:00+02:00"},
    ]
    result = daybook(*typed)
    assert result.out.splitlines() == [
        "Fri 2027-03-26 09:00 +01:00  =  2027-03-26 08:00 UTC",
        "Mon 2027-03-29 09:00 +02:00  =  2027-03-29 07:00 UTC",
    ]
    assert result.err == "at 09:00 on weekdays, Europe/Berlin\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2027-03-26T09:00:00+01:00", "Fri 2027-03-26 09:00 +01:00  =  2027-03-26 08:00 UTC"),
        ("2027-03-26T09:00:30+00:00", "Fri 2027-03-26 09:00:30 UTC"),
    ],
)
def test_a_due_time_in_utc_is_printed_once(text: str, expected: str) -> None:
    assert formatting.due_time_with_utc(datetime.fromisoformat(text)) == expected


def test_next_of_an_interval_counts_from_after(daybook: Any) -> None:
    typed = ["next", "--every", "90m", "--tz", "UTC", "--after", "2027-01-15T12:00:00Z", "--json"]
    due = daybook(*typed, "--count", "2").json["due"]
    assert [each["utc"] for each in due] == ["2027-01-15T13:30:00Z", "2027-01-15T15:00:00Z"]


def test_next_of_a_job_has_the_due_times_that_show_prints(daybook: Any) -> None:
    due = daybook("next", "weekly", "--json").json["due"]
    weekly = daybook("show", "weekly", "--json").json
    assert [each["local"] for each in due] == weekly["next_due"]


def test_next_without_a_time_zone_uses_that_of_the_settings(daybook: Any) -> None:
    found = daybook("next", "--cron", "0 9 * * *", "--json").json
    assert found["schedule"]["timezone"] == "Europe/Berlin"


def test_a_removed_job_keeps_its_history(
    daybook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path))
    asyncio.run(fill(tmp_path / "ledger.db", removed=("weekly",)))
    assert "weekly" not in daybook("list").out
    (run,) = daybook("runs", "weekly", "--json").json
    assert (run["job"], run["job_removed"], run["status"]) == ("weekly", True, "skipped")
    assert "weekly (removed)" in daybook("runs", "weekly").out
    assert "weekly (removed)" in daybook("runs").out
    shown = daybook("show", "weekly", "--json").json
    assert (shown["last_run"]["id"], shown["next_due"]) == (run["id"], [])
    assert datetime.fromisoformat(shown["removed_at"]) == MADE
    assert re.search(r"state +off \(removed\)", daybook("show", "weekly").out)
    assert daybook("next", "weekly").code == 3
    assert daybook("show", "often", "--json").json["removed_at"] is None


def test_an_empty_list_says_how_to_add_a_job(
    daybook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path))
    result = daybook("list")
    assert (result.code, result.out) == (0, "")
    assert "daybook add" in result.err
    assert daybook("list", "--json").json == []
    assert daybook("runs", "--json").json == []


def on_a_terminal(columns: int, *typed: str) -> list[str]:
    """Run a command on a terminal of ``columns`` columns, and return its lines without colours."""
    terminal, theirs = pty.openpty()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(columns))
        patch.setenv("TERM", "xterm")
        with os.fdopen(theirs, "w") as stdout:
            patch.setattr(sys, "stdout", stdout)
            assert main(typed) == 0
        shown = b""
        with suppress(OSError):  # how Linux signals a closed terminal
            while part := os.read(terminal, 4096):
                shown += part
    os.close(terminal)
    assert "\x1b[1m" in shown.decode()  # the bold header proves that the command saw a terminal
    return re.sub(r"\x1b\[[\d;]*m", "", shown.decode()).splitlines()


def test_on_a_terminal_of_80_columns_a_table_fits() -> None:
    lines = on_a_terminal(80, "list")
    assert max(map(len, lines)) <= 80
    assert "Europe/Berlin" in "".join(lines)


def test_a_narrow_terminal_still_shows_the_state_and_the_next_due_time() -> None:
    lines = on_a_terminal(48, "list")
    assert re.match(r"weekly +on +at ", next(line for line in lines if line.startswith("weekly")))
    assert re.match(r"by hand +off ", next(line for line in lines if line.startswith("by hand")))
    assert any(re.search(r" in \d+ (s|min|h|days) ", line) for line in lines)


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_a_run_is_one_line_however_narrow_the_terminal(columns: int) -> None:
    head, run = on_a_terminal(columns, "runs")
    assert head.split()[:4] == ["RUN", "JOB", "DUE", "STATUS"]
    assert re.match(r"[0-9a-f]{8} +weekly +(now|\d+ \w+ ago) +waiting\b", run)
    assert ("REASON" in head) == (" request" in run) == (columns >= 80)


def test_a_row_that_is_too_long_is_cut_except_its_whole_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    rows = [("n" * 20, "it was very long ago"), ("short", "so")]
    output.table(("NAME", "WHY"), rows, whole=("NAME",), cut=True)
    cut = capsys.readouterr().out.splitlines()
    assert [line.rstrip() for line in cut[1:]] == [
        "n" * 20 + "  it was very long …",
        "short                 so",
    ]
    output.table(("NAME", "WHY"), [("n" * 60, "because")], whole=("NAME",), cut=True)
    assert "n" * 60 in capsys.readouterr().out


def test_runs_of_models_have_columns_for_cost_and_tokens(
    daybook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not {"COST", "TOKENS"} & set(daybook("runs").out.split())
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path))
    asyncio.run(fill(tmp_path / "ledger.db"))
    usages = (
        ({"input_tokens": 1285, "output_tokens": 17, "cost_usd": 0.0141}, "$0.0141", "1,302"),
        ({"input_tokens": None, "output_tokens": None, "cost_usd": 1.5}, "$1.5000", "-"),
    )
    for usage, cost, tokens in usages:
        with closing(sqlite3.connect(tmp_path / "ledger.db")) as ledger, ledger:
            ledger.execute("UPDATE runs SET usage = ?", [json.dumps(usage)])
        head, run = daybook("runs").out.splitlines()
        assert head.split()[-4:] == ["COST", "REASON", "BY", "TOKENS"]
        assert run.split()[-4:] == [cost, "requested", "manual", tokens]
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as ledger, ledger:
        ledger.execute("UPDATE runs SET usage = ?", [json.dumps({"input_tokens": 12})])
    assert daybook("runs").out.splitlines()[0].split()[-3:] == ["REASON", "BY", "TOKENS"]


RUN_OF_A_MODEL = {
    "attempts": 2,
    "agent": "oa",
    "model": "gpt-6-luna",
    "usage": {"requests": 2, "input_tokens": 1285, "output_tokens": 17, "cost_usd": 0.0001412},
    "output": "All is well.",
}


def test_a_run_is_printed_with_attempts_tokens_and_cost(
    daybook: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (run,) = daybook("runs", "weekly", "--json").json
    print_run(Run(**run | RUN_OF_A_MODEL | {"status": "succeeded", "reason": ""}))
    _, spent, answer = capsys.readouterr().out.splitlines()
    assert spent == "  2 attempts · gpt-6-luna · 1,285 tokens in, 17 out · $0.000141"
    assert answer == "  All is well."


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"attempts": 1, "usage": {}}, ""),
        ({"attempts": 4, "usage": {}}, "4 attempts"),
        ({"attempts": 1, "usage": {"cost_usd": None}}, f"gpt-6-luna · {formatting.PRICE_UNKNOWN}"),
        (
            {"attempts": 1, "model": None, "usage": {"input_tokens": None, "cost_usd": 0.5}},
            "$0.500000",
        ),
    ],
)
def test_unknown_usage_of_a_run_is_left_out(changed: dict[str, Any], expected: str) -> None:
    assert formatting.usage_summary(view(Run, **RUN_OF_A_MODEL | changed)) == expected


@pytest.mark.parametrize(
    ("status", "reason", "error", "expected"),
    [
        ("failed", "agent a: HTTP 503", "exit code 1\nTraceback", "exit code 1"),
        ("unknown", "no answer within 4 s; it was sent", "no answer within 4 s", None),
        ("unknown", "killed", "killed\nlast output", "killed"),
        ("succeeded", "agent a: HTTP 503", None, None),
        ("cancelled", "cancelled", "exit code 1", None),
        ("skipped", "", None, None),
    ],
)
def test_the_error_of_a_failure_is_not_hidden_behind_a_remark(
    status: str, reason: str, error: str | None, expected: str | None
) -> None:
    run = view(Run, status=status, reason=reason, error=error)
    assert formatting.short_reason(run) == (reason if expected is None else expected)


def test_an_error_that_equals_the_reason_is_printed_once(
    daybook: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (run,) = daybook("runs", "weekly", "--json").json
    late = {"status": "timed_out", "reason": "no answer within 4 s", "attempts": 1}
    print_run(Run(**run | late | {"error": "no answer within 4 s", "output": "half of it"}))
    _, *lines = capsys.readouterr().out.splitlines()
    assert lines == ["  no answer within 4 s", "  half of it"]
    lost = {"status": "unknown", "reason": "no answer within 4 s; it was sent", "attempts": 1}
    print_run(Run(**run | lost | {"error": "no answer within 4 s", "output": ""}))
    _, *lines = capsys.readouterr().out.splitlines()
    assert lines == ["  no answer within 4 s; it was sent"]


@pytest.mark.parametrize(
    ("failures", "error", "expected"),
    [
        (0, None, ""),
        (1, "no answer", ""),  # the same error as that of the last run
        (1, "no answer at all", "last error: no answer at all"),
        (3, "no answer", "3 in a row"),
        (3, "no answer at all", "3 in a row, last error: no answer at all"),
    ],
)
def test_the_failures_of_a_job_do_not_repeat_the_error_of_its_last_run(
    failures: int, error: str | None, expected: str
) -> None:
    last = view(Run, reason="", error="no answer")
    job = view(JobDetails, consecutive_failures=failures, last_error=error, last_run=last)
    assert failed(job) == expected


def test_show_prints_a_run_for_a_run_id_and_a_job_for_a_job_name(daybook: Any) -> None:
    (run,) = daybook("runs", "weekly", "--json").json
    for length in (32, 8):
        shown = daybook("show", run["id"][:length], "--json").json
        assert shown == run | {
            "deliveries": [],
            "steps": [],
            "approvals": [],
            "sources": [],
            "files": [],
            "tools": [],
        }
    out = daybook("show", run["id"]).out
    assert out.startswith("weekly: waiting\n")
    assert re.search(rf"^  id +{run['id']}$", out, re.MULTILINE)
    assert re.search(r"^  attempts +0$", out, re.MULTILINE)
    assert "\n  requested\n" in out
    assert daybook("show", "weekly").out.startswith("weekly (")


def test_show_lists_the_steps_of_a_run_with_their_results(
    daybook: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (run,) = daybook("runs", "weekly", "--json").json
    at = datetime.fromisoformat(run["queued_at"])
    step = {
        **{"number": 1, "position": "1", "attempt": 1, "kind": "request", "name": "gpt-6-luna"},
        **{"status": "succeeded", "started_at": at, "finished_at": at, "duration_seconds": 2.5},
        **{"digest": "0" * 64, "repeatable": True, "error": None, "input": "Hello"},
        **{"usage": {"input_tokens": 100, "output_tokens": 20}, "output": "Hi\nthere"},
        **{"diverged": "", "replaced": False},
    }
    call = {"number": 2, "position": "1.1", "attempt": 2, "kind": "tool", "name": "mail"}
    failed = {"status": "failed", "usage": {}, "error": "no such address", "replaced": True}
    steps = [Step.model_validate(each) for each in (step, step | call | failed)]
    sources = [RunSource(title="A\x1b[2J title", address="https://example.org/a")]
    more: dict[str, Any] = {"approvals": [], "sources": sources, "files": [], "tools": []}
    print_run_details(RunWithSteps(**run, deliveries=[], steps=steps, **more))
    head, first, second, _, of_sources, source = capsys.readouterr().out.splitlines()[-6:]
    assert of_sources.split() == ["SOURCE", "TITLE"]
    assert re.fullmatch(r"https://example.org/a  A.*title", source) and "\x1b" not in source
    assert head.split()[:5] == ["ATTEMPT", "STEP", "KIND", "NAME", "STATUS"]
    assert re.fullmatch(r"1 +1 +request +gpt-6-luna +succeeded +2\.5 s .* Hi", first)
    assert re.fullmatch(r"2 +1\.1 +tool +mail +failed, replaced +2\.5 s +.*no such address", second)


def test_show_lists_the_files_of_a_run(daybook: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (run,) = daybook("runs", "weekly", "--json").json
    facts: dict[str, Any] = {
        "digest": "0" * 64,
        "written_at": datetime.fromisoformat(run["queued_at"]),
    }
    files = [
        RunFile(path="notes/a.md", size=1_234, not_kept="", **facts),
        RunFile(path="token.txt", size=47, not_kept="it contains a secret", **facts),
    ]
    none: dict[str, Any] = {"deliveries": [], "steps": [], "approvals": [], "sources": []}
    print_run_details(RunWithSteps(**run, **none, tools=[], files=files))
    printed = capsys.readouterr()
    heads, kept, not_kept = printed.out.splitlines()[-3:]
    assert heads.split() == ["FILE", "BYTES", "KEPT"]
    assert re.fullmatch(r"notes/a\.md +1,234 +yes", kept)
    assert re.fullmatch(r"token\.txt +47 +no: it contains a secret", not_kept)
    assert f"daybook files {run['id'][:8]} --save FOLDER" in printed.err


def test_show_prints_all_details_of_a_run_of_a_model_agent(
    daybook: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    (run,) = daybook("runs", "weekly", "--json").json
    when = {"started_at": run["queued_at"], "finished_at": run["queued_at"]}
    shown = run | RUN_OF_A_MODEL | when | {"reason": "", "duration_seconds": 2.5}
    print_run_details(
        RunWithSteps(
            **shown,
            deliveries=[],
            steps=[],
            approvals=[],
            sources=[],
            files=[],
            tools=["web_fetch"],
        )
    )
    out = capsys.readouterr().out
    for name, value in (
        ("attempts", "2"),
        ("tools", "web_fetch"),
        ("agent", "oa"),
        ("model", "gpt-6-luna"),
        ("tokens", "1,285 tokens in, 17 out"),
        ("cost", r"\$0.000141"),
        ("ended", r"(now|\d+ (s|min) ago) \(took 2.5 s\)"),
    ):
        assert re.search(rf"^  {name} +{value}$", out, re.MULTILINE), name
    assert out.endswith("\n  All is well.\n")


def test_control_characters_in_an_answer_are_escaped_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    output.line("a\x1b]0;title\x07b \u202ec [red]d[/red]\n\té日")
    output_text = capsys.readouterr().out
    assert "\x1b" not in output_text
    assert "\u202e" not in output_text
    assert "[red]d[/red]" in output_text
    assert output_text.endswith("é日\n")


def test_control_characters_in_an_answer_are_escaped_in_a_pipe_and_in_json(
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer = "a\x1b]0;title\x07b \x9b31mred\tnot 👩\u200d💻\n\r\x08end"
    output.line(answer)
    output.say(answer)
    output.table(("A",), [(answer,)])
    out, err = capsys.readouterr()
    for text in (out, err):
        assert not [
            each for each in text if unicodedata.category(each) == "Cc" and each not in "\n\t"
        ]
        assert "\tnot 👩\u200d💻\n" in text
        assert "\\x1b]0;title\\x07b \\x9b31mred" in text
    output.print_json({"output": answer})
    text = capsys.readouterr().out
    assert not [each for each in text if unicodedata.category(each) == "Cc" and each != "\n"]
    assert json.loads(text) == {"output": answer}


def test_progress_on_a_terminal_is_one_line_that_is_rewritten(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for number in range(3):
        output.progress(f"Waiting for Prefect: {number} s")
    output.say("Prefect: started")
    rewrite = "\r\x1b[K"
    lines = [f"{rewrite}Waiting for Prefect" for _ in range(3)]
    assert capsys.readouterr().err == "".join(lines) + f"{rewrite}Prefect: started\n"


def test_progress_without_a_terminal_is_a_plain_line_every_5_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(output, "_PROGRESS", output._Progress())
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for second in range(12):
        now = 100.0 + second
        output.progress(f"{second} s")
    output.say("done")
    assert capsys.readouterr().err == "0 s\n5 s\n10 s\ndone\n"


def test_an_output_without_an_encoding_accepts_any_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = io.StringIO()  # its `encoding` is None
    monkeypatch.setattr(sys, "stdout", out)
    output.print_json_line({"output": "é日"})
    output.line("é日")
    assert out.getvalue() == '{"output": "é日"}\né日\n'


@pytest.mark.parametrize(
    ("encoding", "text", "line"),
    [("utf-8", "é日\ud83d", "é日?"), ("ascii", "é", "?"), ("latin-1", "é日", "é?")],
)
def test_unencodable_text_is_escaped_in_json_and_replaced_elsewhere(
    monkeypatch: pytest.MonkeyPatch, encoding: str, text: str, line: str
) -> None:
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, encoding=encoding, newline="\n"))
    output.print_json_line({"output": text})
    output.line(text)
    output.table(("A",), [(text,)])
    sys.stdout.flush()
    written, *lines = out.getvalue().decode(encoding).splitlines()
    assert json.loads(written) == {"output": text}
    assert lines == [line, "A", line]


def test_the_duration_of_a_run_is_formatted_and_an_unknown_one_is_a_dash() -> None:
    assert [formatting.duration(65), formatting.duration(None)] == ["1 m 05 s", "-"]


def test_show_prints_the_last_answer_of_a_job(
    daybook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path))
    asyncio.run(fill(tmp_path / "ledger.db"))
    answer = "\n".join(f"line {number}" for number in range(25))
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as ledger, ledger:
        ledger.execute(
            "UPDATE runs SET status = 'succeeded', finished_at = queued_at, output = ?", [answer]
        )
        ((run, job),) = ledger.execute("SELECT id, job_id FROM runs").fetchall()
    shown = daybook("show", job).out
    assert "\n  line 0\n" in shown and "\n  line 19\n" in shown
    assert "line 20" not in shown
    assert f"  … `daybook show {run[:8]}` shows the whole answer\n" in shown


def test_list_and_next_say_that_no_worker_runs(daybook: Any) -> None:
    warning = "! no worker is running, so no job starts; start `daybook up`\n"
    assert daybook("list").err.endswith(warning)
    assert daybook("next").err.endswith(warning)
    assert warning not in daybook("list", "--json").err


def test_edit_without_options_and_without_a_terminal_says_so(daybook: Any) -> None:
    result = daybook("edit", "weekly")
    assert (result.code, "the editor opens only in a terminal" in result.err) == (2, True)


def test_show_prints_the_transcript_of_a_run_as_markdown_and_as_json(daybook: Any) -> None:
    (run,) = daybook("runs", "weekly", "--json").json
    out = daybook("show", run["id"], "--transcript").out
    assert out.startswith("# Transcript of weekly\n")
    assert "## Prompt\n\n```text\n" in out
    for ref in (run["id"], "weekly"):
        written = daybook("show", ref, "--transcript", "--json").json
        assert written["run"] == {key: run[key] for key in written["run"]}
        assert written["steps"] == []
