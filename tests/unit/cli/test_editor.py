"""`daybook edit JOB` without options: the job as YAML in the user's editor."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from anyio.lowlevel import checkpoint
from hypothesis import given
from hypothesis import strategies as st

from daybook import api
from daybook.cli import editor, entry
from daybook.errors import DaybookError, InvalidInput, LedgerUnreachable
from daybook.files.documents import to_yaml
from daybook.jobs.actions import AgentPrompt
from daybook.jobs.model import Job, new_job
from daybook.jobs.model import edit as edited
from daybook.jobs.views import ChangedJob, ListedJob
from tests.commands import Daybook
from tests.unit.cli.conftest import MADE, InterruptedTerminal, Terminal

SetEditor = Callable[[str], None]


@pytest.fixture
def use_editor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SetEditor:
    """Return a function that makes a Python program the editor; `text` is the file's content."""

    def use(program: str) -> None:
        file = tmp_path / "editor.py"
        file.write_text(
            "import pathlib, sys\n"
            "file = pathlib.Path(sys.argv[1])\n"
            "text = file.read_text(encoding='utf-8')\n"
            f"{program}\n"
            "file.write_text(text, encoding='utf-8')\n",
            encoding="utf-8",
        )
        monkeypatch.delenv("VISUAL", raising=False)
        monkeypatch.setenv("EDITOR", f"'{sys.executable}' '{file}'")

    return use


@pytest.fixture
async def weekly(stored: Path) -> ListedJob:
    return await api.jobs.show("weekly")


async def test_only_the_changed_fields_are_returned(
    weekly: ListedJob, use_editor: SetEditor
) -> None:
    use_editor(
        "text = text.replace('Say hello.', 'Say goodbye.')"
        ".replace('0 9 * * 1', 'every Friday at 16:00')"
    )
    assert editor.JobEdit(weekly).changes() == {
        "prompt": "Say goodbye.",
        "schedule": "every Friday at 16:00",
    }


async def test_only_the_changed_fields_of_an_object_are_returned_and_an_empty_value_clears_one(
    weekly: ListedJob, use_editor: SetEditor
) -> None:
    use_editor("text = text.replace('overlap: skip', 'overlap: allow').replace('- team', '')")
    assert editor.JobEdit(weekly).changes() == {"tags": "", "overlap": "allow"}


async def test_another_channel_keeps_the_chat_id_of_the_document(use_editor: SetEditor) -> None:
    job = new_job(now=MADE, prompt="x", every="1h", channel="team", chat_id="7")
    edit = editor.JobEdit(job)  # type: ignore[arg-type]
    use_editor("text = text.replace('channel: team', 'channel: ops')")
    changes = edit.changes()
    assert changes == {"channel": "ops", "chat_id": "7"}
    assert edited(job, changes, now=MADE).notify.chat_id == "7"


@pytest.mark.parametrize("name", ["policy", "notify"])
def test_each_field_of_an_object_can_be_changed_by_itself(name: str) -> None:
    job = new_job(now=MADE, prompt="x", every="1h", channel="team")
    for field, value in editor.document(job)[name].items():  # type: ignore[arg-type]
        assert edited(job, {field: value, "chat_id": ""}, now=MADE) == job


async def test_the_text_is_kept_in_a_private_file(
    weekly: ListedJob, use_editor: SetEditor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    edit = editor.JobEdit(weekly)
    use_editor("text = text.replace('Say hello.', 'Say goodbye.')")
    edit.changes()
    file = edit.keep()
    assert file.stat().st_mode & 0o777 == 0o600
    assert yaml.safe_load(file.read_text(encoding="utf-8"))["prompt"] == "Say goodbye."


async def test_an_untouched_document_changes_nothing(
    weekly: ListedJob, use_editor: SetEditor
) -> None:
    use_editor("text = '# a comment\\n' + text")
    assert editor.JobEdit(weekly).changes() == {}


async def test_a_problem_is_shown_above_the_text_that_the_user_wrote(
    weekly: ListedJob, use_editor: SetEditor, tmp_path: Path
) -> None:
    edit = editor.JobEdit(weekly)
    use_editor("text = text.replace('0 9 * * 1', 'every Fryday')")
    assert edit.changes() == {"schedule": "every Fryday"}
    use_editor(f"pathlib.Path({str(tmp_path / 'seen')!r}).write_text(text)")
    assert edit.changes("schedule: no such day") == {"schedule": "every Fryday"}
    seen = (tmp_path / "seen").read_text(encoding="utf-8")
    assert "# schedule: no such day\n" in seen
    assert "schedule: every Fryday\n" in seen


@pytest.mark.parametrize("text", ["[1, 2]", "name: 'open", "just words", "1: x"])
async def test_text_that_is_no_yaml_mapping_is_refused(
    weekly: ListedJob, use_editor: SetEditor, text: str
) -> None:
    use_editor(f"text = {text!r}")
    with pytest.raises(InvalidInput, match=r"^document: "):
        editor.JobEdit(weekly).changes()


async def test_text_that_is_not_utf_8_is_refused_and_kept(
    weekly: ListedJob, use_editor: SetEditor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    edit, latin = editor.JobEdit(weekly), "prompt: café".encode("latin-1")
    use_editor(f"file.write_bytes({latin!r}); sys.exit()")
    with pytest.raises(InvalidInput, match=r"^document: is not UTF-8 text"):
        edit.changes()
    assert edit.keep().read_bytes() == latin
    monkeypatch.setenv("EDITOR", "true")  # opens the text again
    with pytest.raises(InvalidInput, match=r"^document: is not UTF-8 text"):
        edit.changes("is not UTF-8 text")


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("false", "ended with 1"),
        ("/none/editor", "cannot be started"),
        ("'vi", "cannot be started"),
    ],
)
async def test_an_editor_that_fails_changes_nothing(
    weekly: ListedJob, monkeypatch: pytest.MonkeyPatch, command: str, problem: str
) -> None:
    monkeypatch.setenv("VISUAL", command)
    with pytest.raises(DaybookError, match=problem):
        editor.JobEdit(weekly).changes()


JOBS = [
    {"prompt": "Write.\n  Two lines: yes\n", "every": "90m", "tags": ["no", "1e3"]},
    {"prompt": "x", "at": "2027-03-01T09:00", "timezone": "Europe/Berlin", "channel": "inbox"},
    {"url": "https://x.example", "headers": {"X": "{{secret:key}}"}, "on_demand": True},
    {"tool": "search.reindex", "params": {"full": True, "n": 1.5}, "cron": "@daily"},
]


@pytest.mark.parametrize("fields", JOBS)
def test_the_document_of_each_kind_of_job_is_valid_and_means_the_same_job(
    fields: dict[str, Any],
) -> None:
    job = new_job(now=MADE, **fields)
    shown = editor.document(job)  # type: ignore[arg-type]
    read = editor._from_yaml(to_yaml(shown))
    assert read == shown
    assert edited(job, read, now=MADE) == job


def test_the_document_has_each_field_of_a_job() -> None:
    job = new_job(now=MADE, prompt="x", every="1h")
    shown = editor.document(job)  # type: ignore[arg-type]
    assert set(Job.model_fields) - {"kind", "action"} <= shown.keys()
    assert set(AgentPrompt.model_fields) - {"kind"} <= shown.keys()


@given(st.text(st.characters(codec="utf-8")))
def test_any_prompt_survives_the_document(prompt: str) -> None:
    assert editor._from_yaml(to_yaml({"prompt": prompt})) == {"prompt": prompt}


def test_a_prompt_of_several_lines_is_written_as_a_block() -> None:
    assert to_yaml({"prompt": "One.\nTwo.\n"}) == "prompt: |\n  One.\n  Two.\n"
    assert yaml.safe_load("prompt: |\n  One.\n  Two.\n") == {"prompt": "One.\nTwo.\n"}


@pytest.mark.usefixtures("stored")
def test_edit_opens_the_editor_again_after_a_refusal(
    daybook: Daybook, use_editor: SetEditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    async def edit_job(ref: str, changes: dict[str, Any]) -> ChangedJob:
        asked.append(changes)
        if len(asked) == 1:
            raise InvalidInput("schedule", "is wrong")
        return ChangedJob.model_construct(**dict(await api.jobs.show(ref)), changes=[], notes=[])

    monkeypatch.setattr(api.jobs, "edit_job", edit_job)
    monkeypatch.setattr("sys.stdin", Terminal("\n"))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    use_editor(
        "text = text.replace('every Fryday', 'every Friday at 9')"
        ".replace('0 9 * * 1', 'every Fryday')"
    )
    result = daybook("edit", "weekly")
    assert (result.code, asked) == (
        0,
        [{"schedule": "every Fryday"}, {"schedule": "every Friday at 9"}],
    )
    assert "schedule: is wrong" in result.err


@pytest.mark.usefixtures("stored")
def test_edit_keeps_the_text_if_the_editor_fails_after_a_refusal(
    daybook: Daybook, use_editor: SetEditor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def refuse(ref: str, changes: dict[str, Any]) -> ChangedJob:
        raise LedgerUnreachable("there", "it is away")

    monkeypatch.setattr(api.jobs, "edit_job", refuse)
    monkeypatch.setattr("sys.stdin", Terminal("\n"))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    use_editor(
        "if 'it is away' in text: sys.exit(1)\ntext = text.replace('Say hello.', 'Say goodbye.')"
    )
    result = daybook("edit", "weekly")
    assert result.code != 0
    (kept,) = tmp_path.glob("*.yaml")
    assert f"Your text is in {kept}" in result.err
    assert "Say goodbye." in kept.read_text(encoding="utf-8")


@pytest.mark.usefixtures("stored")
def test_edit_keeps_the_text_if_ctrl_c_gives_up_after_a_refusal(
    daybook: Daybook, use_editor: SetEditor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.stdin", InterruptedTerminal("\n"))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    use_editor("text = text.replace('0 9 * * 1', 'every Fryday')")
    result = daybook("edit", "weekly")
    assert result.code == 130
    (kept,) = tmp_path.glob("*.yaml")
    assert f"Your text is in {kept}" in result.err
    assert "every Fryday" in kept.read_text(encoding="utf-8")


@pytest.mark.usefixtures("stored")
def test_ctrl_c_in_the_editor_is_left_to_the_editor(
    daybook: Daybook, use_editor: SetEditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    async def edit_job(ref: str, changes: dict[str, Any]) -> ChangedJob:
        await checkpoint()
        asked.append(changes)
        return ChangedJob.model_construct(**dict(await api.jobs.show(ref)), changes=[], notes=[])

    monkeypatch.setattr(api.jobs, "edit_job", edit_job)
    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    use_editor(
        "import os, signal\n"
        "os.kill(os.getppid(), signal.SIGINT)\n"
        "text = text.replace('Say hello.', 'Say goodbye.')"
    )
    assert daybook("edit", "weekly").code == 0
    assert asked == [{"prompt": "Say goodbye."}]


@pytest.mark.parametrize(
    ("arguments", "is_servable"),
    [
        (["edit", "weekly"], False),
        (["edit", "weekly", "--json"], False),
        (["edit", "--", "weekly"], False),
        (["completion"], False),
        (["edit", "weekly", "New prompt"], True),
        (["edit", "weekly", "--every", "2h"], True),
    ],
)
def test_an_editor_never_runs_in_the_command_server(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], is_servable: bool
) -> None:
    monkeypatch.setattr(sys, "warnoptions", [])
    assert entry._is_servable(arguments) is is_servable
