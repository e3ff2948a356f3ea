"""`daybook backup`, `restore` and `ledger move`: their passphrases, output and errors."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from daybook import owners
from daybook.errors import InvalidInput
from daybook.features.backups import archive
from daybook.home import Home
from daybook.operations import ledger_setting
from tests.commands import Daybook

WORDS = "correct horse battery"


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, daybook_home: Home) -> Home:
    monkeypatch.setattr(archive, "SCRYPT_COST", 2)
    return daybook_home


@pytest.fixture
def words(tmp_path: Path) -> str:
    """Return the name of a file with the passphrase."""
    file = tmp_path / "words.txt"
    file.write_text(f"{WORDS}\n")
    return str(file)


def _from_stdin(monkeypatch: pytest.MonkeyPatch, home: Home) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{WORDS}\n"))


def _from_variable(monkeypatch: pytest.MonkeyPatch, home: Home) -> None:
    monkeypatch.setenv("DAYBOOK_BACKUP_PASSPHRASE", WORDS)


def _from_setting(monkeypatch: pytest.MonkeyPatch, home: Home) -> None:
    (home.path / "config.toml").write_text(f'backup_passphrase = "{WORDS}"\n')


@pytest.mark.parametrize("given", [_from_stdin, _from_variable, _from_setting])
def test_a_passphrase_comes_from_standard_input_the_environment_or_the_settings(
    daybook: Daybook,
    monkeypatch: pytest.MonkeyPatch,
    home: Home,
    tmp_path: Path,
    given: Callable[[pytest.MonkeyPatch, Home], None],
) -> None:
    given(monkeypatch, home)
    file = tmp_path / "a.backup"
    made = daybook("backup", str(file), "--json")
    assert made.code == 0, made
    assert made.json["bytes"] == file.stat().st_size
    (tmp_path / "out").mkdir()
    archive.extract(file, tmp_path / "out", ["ledger.db"], WORDS)


def test_a_backup_is_restored_into_another_home_and_not_into_the_same(
    daybook: Daybook, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: str
) -> None:
    assert daybook("add", "every 1h", "Hello?", "--name", "brief", "--json").code in (0, 4)
    file = str(tmp_path / "a.backup")
    assert daybook("backup", file, "--passphrase-file", words).code == 0
    again = daybook("backup", file, "--passphrase-file", words)
    assert (again.code, "exists (use another name, or --replace)" in again.err) == (2, True)
    assert daybook("backup", file, "--passphrase-file", words, "--replace").code == 0
    same = daybook("restore", file, "--passphrase-file", words)
    assert (same.code, "is not empty" in same.err) == (2, True)

    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path / "new"))
    restored = daybook("restore", file, "--passphrase-file", words, "--json")
    assert restored.code == 0, restored
    assert restored.json["home"] == str(tmp_path / "new")
    assert [job["name"] for job in daybook("list", "--json").json] == ["brief"]


def test_the_words_of_a_restore_name_what_does_not_run_again(
    daybook: Daybook, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: str
) -> None:
    file = str(tmp_path / "a.backup")
    daybook("backup", file, "--passphrase-file", words)
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path / "new"))
    result = daybook("restore", file, "--passphrase-file", words)
    assert [line.split()[0] for line in result.out.splitlines()] == [
        *("Restored", "ledger", "missed", "unknown", "not", "paused")
    ]
    assert "daybook up" in result.err


@pytest.mark.parametrize("content", ["", "short\n"])
def test_an_empty_or_short_passphrase_is_refused(
    daybook: Daybook, tmp_path: Path, content: str
) -> None:
    file = tmp_path / "words.txt"
    file.write_text(content)
    result = daybook("backup", str(tmp_path / "a.backup"), "--passphrase-file", str(file))
    assert (result.code, "passphrase" in result.err.lower()) == (2, True)
    assert not (tmp_path / "a.backup").exists()


def test_two_different_words_at_the_prompts_are_refused(
    daybook: Daybook, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    typed = iter([WORDS, f"{WORDS}!"])
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", lambda _: next(typed))
    result = daybook("backup", str(tmp_path / "a.backup"))
    assert (result.code, "the two are not equal" in result.err) == (2, True)


def test_an_address_with_a_password_can_come_from_a_file(daybook: Daybook, tmp_path: Path) -> None:
    address = f"sqlite+aiosqlite:///{tmp_path}/other.db"
    (tmp_path / "address.txt").write_text(f"{address}\n")
    moved = daybook("ledger", "move", f"@{tmp_path}/address.txt", "--json")
    assert moved.code == 0, moved
    assert moved.json["moved_to"] == address
    again = daybook("ledger", "move", f"@{tmp_path}/address.txt")
    assert (again.code, again.out) == (
        0,
        f"The ledger is already at {address}; nothing was moved.\n",
    )
    for wrong, why in (("mysql://x/y", "is not a ledger address"), ("", "is empty")):
        refused = daybook("ledger", "move", wrong)
        assert (refused.code, why in refused.err) == (2, True), refused


def test_a_restore_reads_the_address_of_a_database_from_a_file(
    daybook: Daybook, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: str
) -> None:
    file = str(tmp_path / "a.backup")
    assert daybook("backup", file, "--passphrase-file", words).code == 0
    address, to = tmp_path / "address.txt", f"@{tmp_path}/address.txt"
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path / "new"))
    address.write_text("\n")
    refused = daybook("restore", file, "--passphrase-file", words, "--ledger", to)
    assert (refused.code, "address.txt is empty" in refused.err) == (2, True), refused
    address.write_text(f"sqlite+aiosqlite:///{tmp_path}/other.db\n")
    restored = daybook("restore", file, "--passphrase-file", words, "--ledger", to, "--json")
    assert restored.code == 0, restored
    assert (tmp_path / "other.db").exists()


@pytest.mark.parametrize("content", ['ledger_url = """\\\n"""\n', "= 1\n"])
def test_an_address_that_cannot_be_written_is_refused_without_its_password(
    tmp_path: Path, content: str
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(content)
    with pytest.raises(InvalidInput, match="ledger_url cannot be changed") as refused:
        ledger_setting.set_ledger_url(file, "postgresql://daybook:geheim@localhost/daybook")
    assert "geheim" not in str(refused.value)
    assert file.read_text() == content


def test_a_move_copies_nothing_if_the_address_cannot_be_written(
    daybook: Daybook, home: Home, tmp_path: Path
) -> None:
    (home.path / "config.toml").write_text('ledger_url = """\\\n"""\n')
    refused = daybook("ledger", "move", f"sqlite+aiosqlite:///{tmp_path}/other.db")
    assert (refused.code, "ledger_url cannot be changed" in refused.err) == (2, True), refused
    assert not (tmp_path / "other.db").exists()


@pytest.mark.anyio
async def test_an_agent_can_neither_back_up_nor_move_the_ledger(home: Home, tmp_path: Path) -> None:
    from daybook.features.backups import operations
    from daybook.operations import ledger_move

    with owners.acting_as(owners.Actor("agent:maria", via="mcp")):
        with pytest.raises(InvalidInput, match="ask the operator"):
            await operations.create(tmp_path / "a.backup", passphrase=WORDS)
        with pytest.raises(InvalidInput, match="ask the operator"):
            await ledger_move.move(f"sqlite+aiosqlite:///{tmp_path}/other.db")
