"""The files of `daybook apply -f`."""

from __future__ import annotations

from pathlib import Path

import pytest

from daybook.errors import InvalidInput
from daybook.files import sources


def test_a_folder_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read any folder, so the error of the system is raised by a fake."""

    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(InvalidInput, match=f"^file: {tmp_path} cannot be read: Permission denied"):
        sources.of_paths([str(tmp_path)])
