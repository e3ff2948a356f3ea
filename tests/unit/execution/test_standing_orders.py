"""What stands at the place of a heartbeat's orders, and cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from daybook.errors import InvalidInput
from daybook.execution import heartbeat


def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"file: .* cannot be read: File name too long"):
        heartbeat.read(str(tmp_path / ("x" * 300)))


def test_one_beneath_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match=r"file: .* cannot be read: Not a directory"):
        heartbeat.read(str(tmp_path / "file" / "orders.md"))


def test_a_folder_is_no_file_and_none_is_none(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is not a file"):
        heartbeat.read(str(tmp_path))
    with pytest.raises(FileNotFoundError):
        heartbeat.read(str(tmp_path / "orders.md"))
