"""Shell completion: the scripts, and the names that Tab offers."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from daybook.cli import completion
from daybook.delivery.channels import registry
from daybook.home import Home
from daybook.ledger.credential_tables import BlockCopyRow
from daybook.ledger.engine import Ledger
from tests.commands import Daybook


def offered(daybook: Daybook, *words: str) -> dict[str, str]:
    """Return the names, with their descriptions, that Tab offers for the last word."""
    _, begin, lines = daybook("__complete", *words).out.partition("\x1fbegin\n")
    assert begin
    return {name: text for name, _, text in (line.partition("\t") for line in lines.splitlines())}


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize("typed", [("edit", ""), ("run", "we"), ("next", ""), ("runs", "")])
def test_tab_offers_the_names_of_jobs_with_their_schedules(
    daybook: Daybook, typed: tuple[str, ...]
) -> None:
    names = offered(daybook, *typed)
    assert set(names) == {"weekly", "often", "by hand"}
    assert names["weekly"] == "at 09:00 on Mondays, Europe/Berlin"


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize("command", ["show", "logs", "cancel"])
def test_tab_offers_jobs_and_runs_where_both_are_legal(daybook: Daybook, command: str) -> None:
    (run,) = daybook("runs", "--json").json
    names = offered(daybook, command, "")
    assert names[run["id"][:8]] == "weekly, waiting"
    assert "often" in names


COPIES = [
    ("daybook-model-agent", "quick"),
    ("daybook-command-agent", "claude"),
    ("daybook-command-agent", "quick"),
    ("daybook-secret", "ops-token"),
    ("daybook-tool-server", "time"),
    ("daybook-destination", "ops"),
    ("daybook-hook", "pulls"),
]


@pytest.fixture
def with_documents(daybook_home: Home) -> Home:
    """Return a home whose ledger has copies of settings documents."""

    async def fill() -> None:
        address = f"sqlite+aiosqlite:///{daybook_home.path / 'ledger.db'}"
        async with Ledger(address) as ledger, ledger.write() as session:
            for slug, name in COPIES:
                session.add(
                    BlockCopyRow(
                        slug=slug, name=name, type_id="t", sealed="", updated_at=ledger.now()
                    )
                )

    asyncio.run(fill())
    return daybook_home


@pytest.mark.usefixtures("with_documents")
@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("agents show", {"claude", "quick"}),
        ("agents test", {"claude", "quick"}),
        ("agents remove", {"claude", "quick"}),
        ("add --agent", {"claude", "quick"}),
        ("secrets remove", {"ops-token"}),
        ("tools show", {"time"}),
        ("tools test", {"time"}),
        ("tools remove", {"time"}),
        ("callbacks destinations rotate", {"ops"}),
        ("callbacks destinations test", {"ops"}),
        ("callbacks destinations remove", {"ops"}),
        ("callbacks destinations add --token", {"ops-token"}),
        ("hooks show", {"pulls"}),
        ("hooks rotate", {"pulls"}),
        ("hooks test", {"pulls"}),
        ("hooks remove", {"pulls"}),
    ],
)
def test_tab_offers_names_of_documents_without_prefect(
    daybook: Daybook, monkeypatch: pytest.MonkeyPatch, typed: str, expected: set[str]
) -> None:
    monkeypatch.setattr("daybook.prefect.client.connected", None)
    assert set(offered(daybook, *typed.split(), "")) == expected


@pytest.mark.usefixtures("with_documents")
def test_tab_offers_the_names_of_tokens(daybook: Daybook) -> None:
    assert daybook("tokens", "add", "--owner", "agent:claude").code == 0
    assert offered(daybook, "tokens", "remove", "") == {"agent:claude": "agent:claude"}


@pytest.mark.parametrize("command", ["remove", "test"])
def test_tab_does_not_wait_for_channels_of_a_prefect_that_does_not_answer(
    daybook: Daybook, daybook_home: Home, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(completion, "PREFECT_TIMEOUT_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/api"
        with temporary_settings({PREFECT_API_URL: address}):
            result = daybook("__complete", "channels", command, "")
            assert (result.code, result.err) == (0, "")
            assert offered(daybook, "channels", command, "") == {}
    assert not (daybook_home.path / "ledger.db").exists()


@pytest.mark.usefixtures("daybook_home")
@pytest.mark.parametrize("typed", ["channels remove", "channels test", "add --channel"])
def test_tab_offers_the_names_of_channels_with_their_kinds(
    daybook: Daybook, monkeypatch: pytest.MonkeyPatch, typed: str
) -> None:
    async def names(client: object) -> dict[str, str]:
        return {"inbox": "inbox", "team": "slack-webhook"}

    monkeypatch.setattr(registry, "names", names)
    # On another machine: of this one it is known that nothing listens there.
    with temporary_settings({PREFECT_API_URL: "http://prefect.example:4200/api"}):
        assert offered(daybook, *typed.split(), "") == {"inbox": "inbox", "team": "slack-webhook"}


def test_tab_offers_the_choices_of_an_option(daybook: Daybook) -> None:
    assert set(offered(daybook, "add", "--output-format", "")) == {"text", "json", "structured"}


def test_tab_offers_nothing_without_a_ledger(
    daybook: Daybook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (tmp_path / "none", tmp_path):
        monkeypatch.setenv("DAYBOOK_HOME", str(folder))
        for command in ("show", "edit", "agents show", "secrets remove"):
            result = daybook("__complete", *command.split(), "")
            assert (result.code, result.err) == (0, "")
            assert offered(daybook, *command.split(), "") == {}
        assert not (folder / "ledger.db").exists()
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell_knows_commands_and_options(daybook: Daybook, shell: str) -> None:
    script = daybook("completion", shell).out
    for word in ("heartbeat", "--schedule", "__complete"):
        assert word in script


def test_an_unknown_shell_is_refused(daybook: Daybook) -> None:
    result = daybook("completion", "tcsh")
    assert result.code == 2
    assert '"bash", "zsh", "fish"' in result.err


def test_bash_completes_commands_and_names(daybook: Daybook, stored: Path, tmp_path: Path) -> None:
    script = tmp_path / "completion.bash"
    script.write_text(daybook("completion", "bash").out, encoding="utf-8")
    program = tmp_path / "daybook"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m daybook "$@"\n', encoding="utf-8")
    program.chmod(0o755)

    def complete(*words: str) -> list[str]:
        """Press Tab after the words."""
        typed = " ".join(f"'{word}'" for word in words)
        command = (
            f"source {script}; COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; "
            'F=$(complete -p daybook | sed "s/.*-F \\([^ ]*\\).*/\\1/"); '
            '$F; printf "%s\\n" "${COMPREPLY[@]}"'
        )
        done = subprocess.run(
            ["bash", "--norc", "-c", command],
            env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.split("\n")[:-1]

    assert complete("daybook", "heartb") == ["heartbeat"]
    assert complete("daybook", "add", "--sched") == ["--schedule"]
    assert complete("daybook", "show", "week") == ["weekly"]
    assert complete("daybook", "edit", "by") == ["by\\ hand"]


def test_the_script_is_installed_where_the_shell_looks(
    daybook: Daybook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    result = daybook("completion", "fish", "--install")
    file = tmp_path / ".config/fish/completions/daybook.fish"
    assert result.out == f"Wrote {file}\n"
    assert "__complete" in file.read_text(encoding="utf-8")
