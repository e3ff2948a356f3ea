"""A run of a program that prints its steps, from `agents add --preset` to its warnings."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests.commands import Daybook
from tests.printed_steps import calls, claude_got, claude_init, claude_result, claude_says, lines
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.usefixtures("without_added_agents"),
    *PREFECT_LEAVES_A_SOCKET,
]

PRINTED = lines(
    claude_init(),
    claude_says("msg_1", calls("toolu_1", "Bash", command="make")),
    claude_got("toolu_1", "make: no rule", is_error=True),
    claude_says("msg_2", calls("toolu_2", "Bash", command="ls")),
    claude_got("toolu_2", "a"),
    claude_result("There is no Makefile."),
)


def test_a_run_of_claude_code_has_steps_cost_and_a_warning(
    daybook: Daybook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "printed").write_bytes(PRINTED)
    program = tmp_path / "claude"
    program.write_text(
        f"#!{sys.executable} -IS\n"
        "import sys\n"
        "if sys.argv[1:] == ['--help']: sys.exit(print('--include-partial-messages'))\n"
        f"open({str(tmp_path / 'given')!r}, 'w').write(repr((sys.argv[1:], sys.stdin.read())))\n"
        f"print(open({str(tmp_path / 'printed')!r}).read(), end='')\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    added = daybook("agents", "add", "cc", "--preset", "claude-code", "--", "--model", "opus")
    assert added[0] == 0, added
    code, out, err = daybook("ask", "Build it", "--agent", "cc", "--json")

    assert code == 0, err
    run = json.loads(out)
    assert (run["status"], run["output"]) == ("succeeded", "There is no Makefile.")
    assert run["warnings"] == ["tool Bash failed: make: no rule"]
    assert run["usage"]["cost_usd"] == 0.0123
    given = (tmp_path / "given").read_text()
    assert "['--include-partial-messages', '-p', '--output-format', 'stream-json'," in given
    assert "'--verbose', '--model', 'opus']" in given
    assert "'Build it'" in given

    shown = json.loads(daybook("show", run["id"], "--json")[1])
    assert [(each["position"], each["kind"], each["status"]) for each in shown["steps"]] == [
        ("1", "request", "succeeded"),
        ("1.1", "tool", "failed"),
        ("2", "request", "succeeded"),
        ("2.1", "tool", "succeeded"),
    ]
    assert shown["steps"][0]["input"] == "Build it"
    for command in (("runs",), ("show", run["id"])):
        assert "warning: tool Bash failed: make: no rule" in daybook(*command)[1]
