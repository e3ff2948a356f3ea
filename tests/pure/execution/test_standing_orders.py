"""Paths of a heartbeat's standing orders that cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from daybook.errors import InvalidInput
from daybook.execution import heartbeat


def test_a_file_name_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"file: .* cannot be read: File name too long"):
        heartbeat.read(str(tmp_path / ("x" * 300)))


def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match=r"file: .* cannot be read: Not a directory"):
        heartbeat.read(str(tmp_path / "file" / "orders.md"))


def test_a_folder_is_refused_and_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is not a file"):
        heartbeat.read(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        heartbeat.read(str(tmp_path / "orders.md"))
