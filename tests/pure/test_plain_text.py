"""Texts with the byte-order mark and the line breaks of Windows, in every input of a person."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from daybook import home, json_text, settings
from daybook.cli import documents, editor, field_options, options
from daybook.delivery import home_secret
from daybook.execution import heartbeat
from daybook.features.imports import crontab, systemd
from daybook.features.imports import source as import_source
from daybook.features.tasks import commands
from daybook.files import sources
from daybook.home import Home
from daybook.operations import ledger_setting, service
from daybook.resources import encryption
from tests.rows import each

SECRET = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"
TIMER = "[Timer]\r\nOnCalendar=daily\r\n"
SERVICE = "[Service]\r\nExecStart=/bin/true\r\n"


def written(folder: Path, name: str, text: str) -> Path:
    file = folder / name
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    return file


def at(file: Path) -> str:
    return f"@{file}"


def of_timer(folder: Path) -> str:
    written(folder, "x.service", SERVICE)
    [job] = systemd.read(written(folder, "x.timer", TIMER)).jobs
    return job.name


READERS: dict[str, tuple[Callable[[Path], Any], Any]] = {
    "a jobs file": (
        lambda folder: sources.of_paths([str(written(folder, "a.yaml", "jobs: []"))])[0].text,
        "jobs: []",
    ),
    "a jobs file on standard input": (
        lambda _: sources.of_paths(["-"], lambda: b"\xef\xbb\xbfjobs: []")[0].text,
        "jobs: []",
    ),
    "a crontab": (
        lambda _: len(crontab.read_text("x", b"\xef\xbb\xbf0 9 * * * /bin/true\r\n").jobs),
        1,
    ),
    "the units of a timer": (of_timer, "x"),
    "a JSON file of another system": (
        lambda folder: import_source.read_json(written(folder, "a.json", '{"a": 1}\r\n')),
        {"a": 1},
    ),
    "JSON": (lambda _: json_text.read("\ufeff[1]\r\n"), [1]),
    "config.toml": (
        lambda folder: (
            written(folder, "config.toml", 'summary_agent = "x"\r\n'),
            settings.load().summary_agent,
        )[1],
        "x",
    ),
    "a changed config.toml": (
        lambda folder: ledger_setting.with_ledger_url(
            written(folder, "config.toml", 'timezone = "UTC"\n'), ""
        ),
        'timezone = "UTC"\n',
    ),
    "the credential": (
        lambda folder: (
            written(folder, "prefect-credential", "a:b\r\n"),
            Home(folder).credential(),
        )[1],
        "a:b",
    ),
    "the secret of callbacks": (
        lambda folder: (
            written(folder, "webhook-secret", f"{SECRET}\r\n"),
            home_secret.read_secrets(Home(folder)),
        )[1],
        [(SECRET, None)],
    ),
    "the ledger's key": (
        lambda folder: (
            encryption.read_or_create_key(folder / "key"),
            written(folder, "key", (folder / "key").read_text()),
            encryption.read_key(folder / "key") is not None,
        )[2],
        True,
    ),
    "the variables of the service": (
        lambda folder: (
            written(folder, "service.env", "A=1\r\nB=2\r\n"),
            service.read_environment(home.current_home()),
        )[1],
        {"A": "1", "B": "2"},
    ),
    "the heartbeat's file": (
        lambda folder: heartbeat.read(str(written(folder, "a.md", "Look.\r\n"))),
        "Look.",
    ),
    "@file": (
        lambda folder: options.text_or_file("body", at(written(folder, "a", "x\r\n"))),
        "x\n",
    ),
    "@file with JSON": (
        lambda folder: options.parse_json_object("headers", at(written(folder, "a", "{}\r\n"))),
        {},
    ),
    "a prompt's file": (
        lambda folder: options.prompt_or_file(at(written(folder, "a", "Say hello.\r\n"))),
        "Say hello.",
    ),
}
TYPED: dict[str, Callable[[], Any]] = {
    "a secret, a hook's secret, a channel's URL, a passphrase": lambda: documents.read_hidden_value(
        "secret", "Secret", "secret.txt"
    ),
    "--key-stdin, --token-stdin": lambda: field_options._read_secret("key", None, True),
    "the token of a task": lambda: commands._read_token((), None),
}


def test_a_byte_order_mark_and_the_line_breaks_of_windows_are_no_part_of_a_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DAYBOOK_SUMMARY_AGENT", raising=False)
    monkeypatch.delenv("DAYBOOK_TASK_TOKEN", raising=False)
    for number, (name, trying) in enumerate(each(READERS)):
        folder = tmp_path / str(number)
        folder.mkdir()
        monkeypatch.setenv("DAYBOOK_HOME", str(folder))
        with trying:
            read, expected = READERS[name]
            assert read(folder) == expected
    for name, trying in each(TYPED):
        given = io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbfhush\r\n"), encoding="utf-8")
        monkeypatch.setattr(sys, "stdin", given)
        with trying:
            assert TYPED[name]() == "hush"


def test_a_text_from_an_editor_has_no_byte_order_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "editor.py"
    program.write_text(
        "import pathlib, sys\n"
        "pathlib.Path(sys.argv[1]).write_bytes(b'\\xef\\xbb\\xbfname: x\\r\\n')\n"
    )
    monkeypatch.setenv("VISUAL", f"{sys.executable} {program}")
    assert editor.open_editor("name: y\n") == "name: x\n"
