"""`daybook import`: what it prints, and its exit codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from daybook.home import Home
from tests.unit.imports import files
from tests.unit.imports.files import valid, write_json

pytestmark = pytest.mark.usefixtures("daybook_home")


def test_a_dry_run_an_import_and_its_repetition(
    daybook: Any, daybook_home: Home, tmp_path: Path
) -> None:
    path = str(valid("hotplex", tmp_path))
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
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
