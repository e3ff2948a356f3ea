"""A work directory, and the tools of a job that has it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from daybook.agents.base import Tool
from daybook.execution import builtin_tools
from daybook.execution.builtin_tools import ToolContext
from daybook.home import Home
from daybook.http.secrets import SecretStore
from daybook.policies.policy import Policy
from daybook.runs.claim_requests import Granted

SECRET = "SECRET-7f3a"


class NoLedger(ToolContext):
    """A context whose tools write nothing to the ledger."""

    async def write(self, work: Any) -> Any:
        return None


def context(work_dir: Path | None, seconds: float = 60.0, **policy: Any) -> ToolContext:
    given = Policy(timeout=timedelta(seconds=seconds), **policy)
    granted = cast("Granted", SimpleNamespace(job=None, policy=given))
    path = str(work_dir.resolve()) if work_dir else ""
    return NoLedger(granted, "brief", path, secrets=cast("SecretStore", None))


async def tools(
    entry: str, work_dir: Path | None, seconds: float = 60.0, **policy: Any
) -> dict[str, Tool]:
    return await builtin_tools.find(entry, context(work_dir, seconds, **policy))


class Files:
    """The tools `files` of a work directory."""

    def __init__(self, found: dict[str, Tool], path: Path) -> None:
        self._tools, self.path = found, path

    async def __call__(self, name: str, **arguments: Any) -> str:
        return await self._tools[f"files.{name}"].call(arguments)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    path = tmp_path / "work"
    path.mkdir()
    return path


@pytest.fixture
async def files(work: Path, daybook_home: Home) -> Files:
    return Files(await tools("files", work), work)
