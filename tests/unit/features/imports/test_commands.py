"""`daybook import`: what it prints, and its exit codes."""

from __future__ import annotations

import io
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from daybook.cli import formatting
from daybook.home import Home
from tests.unit.features.imports import files
from tests.unit.features.imports.files import valid, write_json

pytestmark = pytest.mark.usefixtures("daybook_home")


def test_a_dry_run_an_import_and_its_repetition(
    daybook: Any, daybook_home: Home, tmp_path: Path
) -> None:
    path = str(valid("hotplex", tmp_path))
    dry = daybook("import", "hotplex", path, "--dry-run")
    assert "added review-the-code (c1), 3 runs" in dry.out
    assert "1 job and 3 runs would be imported" in dry.err
    assert daybook("list", "--json").json == []

    assert "1 job and 3 runs imported" in daybook("import", "hotplex", path).err

    again = daybook("import", "hotplex", path)
    assert "unchanged review-the-code (c1)" in again.out
    assert "0 jobs and 0 runs imported, 1 left as they are" in again.err
    assert [run["trigger"] for run in daybook("runs", "--json").json] == ["imported"] * 3


def test_a_file_that_is_not_complete_exits_with_2(daybook: Any, tmp_path: Path) -> None:
    file = write_json(tmp_path / "jobs.json", [files.ANNA])
    file.write_text(file.read_text()[:-20])
    result = daybook("import", "anna", str(file))
    assert result.code == 2
    assert "jobs.json: is not complete JSON" in result.err
    assert "nothing was imported" in result.err


def test_jobs_are_left_out_or_disabled(daybook: Any, tmp_path: Path) -> None:
    other = files.OPENCLAW | {"id": "b", "payload": {"kind": "dance"}}
    folder = str(files.openclaw(tmp_path, jobs=[files.OPENCLAW, other], runs=[]))
    refused = daybook("import", "openclaw", folder)
    assert refused.code == 2
    assert "job 2 (b), payload: kind is 'dance'" in refused.err
    assert "leave it out: --leave-out b" in refused.err
    assert daybook("list", "--json").json == []
    unknown = daybook("import", "openclaw", folder, "--leave-out", "c")
    assert unknown.code == 2
    assert '--leave-out: unknown "c"' in unknown.err

    done = daybook("import", "openclaw", folder, "--leave-out", "b", "--disabled")
    assert "added Morning brief (7d1c), disabled" in done.out
    (job,) = daybook("list", "--json").json
    assert (job["name"], job["enabled"]) == ("Morning brief", False)


def test_a_crontab_on_standard_input_makes_jobs_of_the_shell(
    daybook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crontab(text: str, *options: str) -> Any:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        return daybook("import", "crontab", "-", *options)

    done = crontab(files.CRONTAB)
    first, second = done.out.splitlines()[:2]
    next_due = daybook("list", "--json").json[0]["next_due"][0]
    assert first == f"next due {formatting.due_time(datetime.fromisoformat(next_due))}: report"
    assert second.startswith("added report (")
    assert 'make the agent "shell" before the jobs are due: daybook agents add shell' in done.out
    assert "note: cron mailed what the commands print to ops@example.org" in done.out
    (job,) = daybook("list", "--json").json
    assert (job["agent"], job["schedule"]["expr"]) == ("shell", "0 9 * * 1-5")

    assert "unchanged report (" in crontab(files.CRONTAB).out

    refused = crontab("@daily a\n@reboot b\n")
    assert refused.code == 2
    assert "standard input, line 2: @reboot is no due time" in refused.err
    assert "systemctl --user enable" in refused.err
    assert len(daybook("list", "--json").json) == 1


def test_only_a_crontab_is_read_from_standard_input(
    daybook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"{}")))
    result = daybook("import", "hermes", "-")
    assert result.code == 2
    assert "only a crontab is read from standard input" in result.err


def test_other_names_of_the_systems(daybook: Any, tmp_path: Path) -> None:
    for typed, meant in (("clawdbot", "openclaw"), ("cron", "crontab"), ("hotplx", "hotplex")):
        result = daybook("import", typed, str(tmp_path))
        assert result.code == 2
        assert "did you mean" in result.err
        assert meant in result.err.partition("did you mean")[2].partition("\n")[0]
