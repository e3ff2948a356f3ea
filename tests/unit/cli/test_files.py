"""The commands `apply`, `diff`, `export` and `schema`."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from daybook import repository
from daybook.cli import output
from daybook.files.schema import schema
from daybook.home import Home
from tests.commands import Daybook

JOBS = """\
jobs:
  - name: brief
    schedule: {cron: 0 9 * * 1-5, timezone: Europe/Berlin}
    prompt: |
      Sum up.
      Be short.
"""


@pytest.fixture(autouse=True)
def home(daybook_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_file_is_applied_compared_and_exported(daybook: Daybook, tmp_path: Path) -> None:
    file = tmp_path / "team.yaml"
    file.write_text(JOBS)
    dry = daybook("apply", "-f", "team.yaml", "--dry-run")
    assert (dry.code, dry.err.splitlines()[-1]) == (
        5,
        "Set team: 1 to add, 0 to change, 0 to remove, 0 unchanged.",
    )
    assert "+ brief\n" in dry.out
    first = daybook("apply", "-f", "team.yaml")
    assert (first.code, "1 added" in first.err, "1 job: the change" in first.err) == (0, True, True)
    assert daybook("apply", "-f", "team.yaml", "--dry-run").code == 0
    assert daybook("diff").code == 0

    daybook("edit", "brief", "--timeout", "5m")
    drift = daybook("diff")
    assert (drift.code, drift.out) == (
        5,
        '~ brief (file:team)\n    ~ timeout: "30m" → "5m"\n',
    )
    assert daybook("diff", "--json").json[0]["changes"] == [
        {"field": "timeout", "old": "30m", "new": "5m"}
    ]
    file.write_text(JOBS.replace("short", "brief"))
    changed = daybook("apply", "-f", "team.yaml")
    assert changed.code == 0
    assert changed.out == (
        "~ brief\n"
        "    ! overwrites changes made outside the file: timeout\n"
        "    ~ prompt:\n"
        "        @@ -1,2 +1,2 @@\n"
        "         Sum up.\n"
        "        -Be short.\n"
        "        +Be brief.\n"
        '    ~ timeout: "5m" → "30m"\n'
    )
    file.write_text("jobs: []\n")
    assert daybook("apply", "-f", "team.yaml", "--prune").out == "- brief\n"


def test_a_folder_several_files_and_standard_input(
    daybook: Daybook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "ours"
    folder.mkdir()
    (folder / "b.yaml").write_text(JOBS)
    other = {"jobs": [{"name": "other", "url": "https://api.example.org/x", "every": "1h"}]}
    (folder / "a.json").write_text(json.dumps(other, indent="\t"))
    (folder / "jobs.schema.json").write_text("{}")
    (folder / "notes.txt").write_text("x")
    report = daybook("apply", "-f", "ours", "--json").json
    assert (report["set"], [each["job"] for each in report["changes"]]) == (
        "ours",
        ["other", "brief"],
    )
    several = daybook("apply", "-f", "ours/a.json", "-f", "ours/b.yaml")
    assert (several.code, "set: is missing" in several.err) == (2, True)

    exported = daybook("export").out
    assert exported.startswith("# yaml-language-server: $schema=jobs.schema.json\n")
    with monkeypatch.context() as patch:  # a stdout of another encoding
        stdout = io.BytesIO()
        patch.setattr(sys, "stdout", io.TextIOWrapper(stdout, "latin-1"))
        output.write_file("say → hi")
        assert stdout.getvalue() == "say → hi".encode()
    text = io.TextIOWrapper(io.BytesIO(exported.encode()), "utf-8")
    monkeypatch.setattr(sys, "stdin", text)
    same = daybook("apply", "-f", "-", "--dry-run", "--prune")
    assert (same.code, same.out) == (0, "")
    assert daybook("export", "brief", "--json").json["jobs"][0]["name"] == "brief"


def test_all_mistakes_are_printed_and_are_in_the_json(daybook: Daybook, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(JOBS.replace("prompt:", "promt:") + "    every: 5\n")
    refused = daybook("apply", "-f", "x.yaml", "--json")
    assert refused.code == 2
    assert refused.err.splitlines()[0] == "daybook: --file: 2 mistakes, so nothing was stored:"
    assert refused.err.splitlines()[1].startswith("x.yaml:4:5: brief: promt: unknown field")
    assert [each["field"] for each in refused.json["error"]["mistakes"]] == ["promt", "every"]
    assert daybook("list", "--json").json == []


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("none.yaml", None, "none.yaml cannot be read: No such file or directory"),
        ("empty", None, "has no jobs file (its files must end in .yaml, .yml, .json)"),
        ("latin.yaml", b"jobs:\n  - name: \xe9", "latin.yaml is not UTF-8 text: line 2"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(
    daybook: Daybook, tmp_path: Path, file: str, content: bytes | None, problem: str
) -> None:
    (tmp_path / "empty").mkdir()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    refused = daybook("apply", "-f", file)
    assert (refused.code, problem in refused.err) == (2, True)


def test_the_committed_schema_is_current_and_describes_the_example(daybook: Daybook) -> None:
    """`daybook schema > deployments/jobs/jobs.schema.json` makes it current."""
    folder = repository.root() / "deployments" / "jobs"
    printed = daybook("schema").out
    assert (folder / "jobs.schema.json").read_text() == printed
    jsonschema.Draft202012Validator.check_schema(schema())
    validator = jsonschema.Draft202012Validator(schema())
    validator.validate(yaml.safe_load((folder / "example.yaml").read_text()))
    for wrong in (
        {"jobs": [{"name": "a", "prompt": "x"}]},
        {"jobs": [{"name": "a", "every": "1h"}]},
        {"jobs": [{"name": "a", "prompt": "x", "every": "1h", "promt": "y"}]},
        {"jobs": [{"name": "a", "prompt": "x", "every": "1h", "policy": {"overlap": "x"}}]},
        {"jobs": [{"prompt": "x", "every": "1h"}]},
    ):
        assert not validator.is_valid(wrong)
    job = {"name": "a", "kind": "heartbeat", "schedule": {"every": "1h"}, "renamed_from": "b"}
    validator.validate({"set": "team", "jobs": [job]})


def test_an_export_matches_the_schema(daybook: Daybook, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(
        JOBS + "    policy: {timeout: 5m, quiet_hours: ['12:00-13:00'], check: {prompt: Mail?}}\n"
        "    notify: {channel: inbox, progress: 5m}\n"
        "  - {name: hook, url: 'https://api.example.org/x', at: '2127-01-15T14:30:00+01:00'}\n"
        "  - {name: after, tool: t, params: {a: 1}, schedule: {after: brief, on: any}}\n"
    )
    assert daybook("apply", "-f", "x.yaml").code == 0
    jsonschema.validate(yaml.safe_load(daybook("export").out), schema())
