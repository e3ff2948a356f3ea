"""The file of a backup: complete and readable with its passphrase, or refused."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from daybook.errors import InvalidInput
from daybook.features.backups import archive

WORDS = "correct horse battery"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "SCRYPT_COST", 2)
    monkeypatch.setattr(archive, "BLOCK_BYTES", 1000)


@pytest.fixture
def content(tmp_path: Path) -> Path:
    """Return a file that fills several blocks, and that compression does not shrink."""
    file = tmp_path / "ledger.db"
    file.write_bytes(os.urandom(4500))
    return file


@pytest.fixture
def backup(tmp_path: Path, content: Path) -> Path:
    file = tmp_path / "a.backup"
    archive.write(file, [content], WORDS, replace=False)
    return file


def _extract(file: Path, to: Path, passphrase: str = WORDS) -> list[str]:
    to.mkdir()
    archive.extract(file, to, ["ledger.db"], passphrase)
    return sorted(each.name for each in to.iterdir())


def test_a_backup_contains_the_files_and_nothing_in_plain_text(
    tmp_path: Path, backup: Path, content: Path
) -> None:
    assert _extract(backup, tmp_path / "out") == ["ledger.db"]
    assert (tmp_path / "out" / "ledger.db").read_bytes() == content.read_bytes()
    assert content.read_bytes()[:64] not in backup.read_bytes()
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "out" / "ledger.db").stat().st_mode) == 0o600


def test_only_the_known_files_are_written(tmp_path: Path, content: Path) -> None:
    other = tmp_path / "other"
    other.write_text("x")
    file = tmp_path / "b.backup"
    archive.write(file, [other, content], WORDS, replace=False)
    assert _extract(file, tmp_path / "out") == ["ledger.db"]


def test_two_backups_of_the_same_content_differ(
    tmp_path: Path, backup: Path, content: Path
) -> None:
    other = tmp_path / "b.backup"
    archive.write(other, [content], WORDS, replace=False)
    assert other.read_bytes()[60:] != backup.read_bytes()[60:]


def test_a_wrong_passphrase_is_refused(tmp_path: Path, backup: Path) -> None:
    with pytest.raises(InvalidInput, match="passphrase: does not open"):
        _extract(backup, tmp_path / "out", WORDS + " ")


_BLOCK = 1016
_HEADER = len(archive.MAGIC) + 23

DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "a bit": lambda data: data[:2000] + bytes([data[2000] ^ 1]) + data[2001:],
    "cut off at a block": lambda data: data[: _HEADER + 2 * _BLOCK],
    "cut off in a block": lambda data: data[:-10],
    "without its last block": lambda data: data[: _HEADER + 4 * _BLOCK],
    "longer": lambda data: data + b"x",
    "exchanged blocks": lambda data: (
        data[:_HEADER]
        + data[_HEADER + _BLOCK : _HEADER + 2 * _BLOCK]
        + data[_HEADER : _HEADER + _BLOCK]
        + data[_HEADER + 2 * _BLOCK :]
    ),
    "another nonce": lambda data: data[: _HEADER - 1] + b"x" + data[_HEADER:],
    "empty": lambda data: b"",
    "only the header": lambda data: data[:_HEADER],
    "another file": lambda data: b"SQLite format 3\x00" + data,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused(tmp_path: Path, backup: Path, damage: str) -> None:
    damaged = tmp_path / "damaged.backup"
    damaged.write_bytes(DAMAGES[damage](backup.read_bytes()))
    with pytest.raises(InvalidInput, match=r"file|passphrase"):
        _extract(damaged, tmp_path / "out")


def test_an_existing_file_stays_unless_it_is_to_be_replaced(backup: Path, content: Path) -> None:
    before = backup.read_bytes()
    with pytest.raises(InvalidInput, match="exists"):
        archive.write(backup, [content], WORDS, replace=False)
    assert backup.read_bytes() == before
    archive.write(backup, [content], WORDS, replace=True)
    assert backup.read_bytes() != before
    assert sorted(each.name for each in backup.parent.iterdir()) == ["a.backup", "ledger.db"]


def test_a_missing_file_and_a_missing_folder_are_named(tmp_path: Path, content: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read: No such file"):
        _extract(tmp_path / "none", tmp_path / "out")
    with pytest.raises(FileNotFoundError):
        archive.write(tmp_path / "none" / "a.backup", [content], WORDS, replace=False)


def test_a_file_system_without_hard_links_gets_a_complete_backup_and_no_second_one(
    tmp_path: Path, content: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(source: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")  # as of exFAT

    monkeypatch.setattr(os, "link", link)
    file = tmp_path / "a.backup"
    size = archive.write(file, [content], WORDS, replace=False)
    assert file.stat().st_size == size
    assert _extract(file, tmp_path / "out") == ["ledger.db"]
    with pytest.raises(InvalidInput, match="exists"):
        archive.write(file, [content], WORDS, replace=False)
    assert file.stat().st_size == size
    assert sorted(each.name for each in tmp_path.glob("*.*")) == ["a.backup", "ledger.db"]


def test_only_a_plain_file_is_replaced(tmp_path: Path, content: Path, backup: Path) -> None:
    link, folder, pipe = tmp_path / "link", tmp_path / "folder", tmp_path / "pipe"
    link.symlink_to(backup)
    folder.mkdir()
    os.mkfifo(pipe)
    for file in (link, folder, pipe):
        before = file.lstat()
        for attempt in (archive.new_file, _replace(content)):
            with pytest.raises(InvalidInput, match="is not a plain file"):
                attempt(file, replace=True)
        assert file.lstat() == before
    archive.write(backup, [content], WORDS, replace=True)
    assert not list(tmp_path.glob(f".*{archive.DRAFT_SUFFIX}"))


def _replace(content: Path) -> Callable[..., object]:
    return lambda file, replace: archive.write(file, [content], WORDS, replace=replace)


def test_a_passphrase_with_a_nul_is_refused(tmp_path: Path, content: Path, backup: Path) -> None:
    for passphrase in (f"{WORDS}\0", f"{WORDS}\0more"):
        with pytest.raises(InvalidInput, match="passphrase: contains a NUL"):
            archive.write(tmp_path / "n.backup", [content], passphrase, replace=False)
        with pytest.raises(InvalidInput, match="passphrase: contains a NUL"):
            archive.extract(backup, tmp_path, ["ledger.db"], passphrase)
    assert not (tmp_path / "n.backup").exists()


def test_a_file_that_stands_twice_or_is_too_large_is_refused(
    tmp_path: Path, content: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twice, large = tmp_path / "twice.backup", tmp_path / "large.backup"
    archive.write(twice, [content, content], WORDS, replace=False)
    with pytest.raises(InvalidInput, match=r"has ledger\.db twice"):
        _extract(twice, tmp_path / "a")
    archive.write(large, [content], WORDS, replace=False)
    monkeypatch.setattr(archive, "MAX_MEMBER_BYTES", 4499)
    with pytest.raises(InvalidInput, match=r"has a ledger\.db of 4,500 bytes"):
        _extract(large, tmp_path / "b")
    assert list((tmp_path / "b").iterdir()) == []
    archive.extract(large, tmp_path / "b", ["ledger.db"], WORDS, large="ledger.db")
