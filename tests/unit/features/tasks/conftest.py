"""The commands of `daybook task` in this process, in a home of their own."""

from __future__ import annotations

import io
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from daybook.home import Home
from tests.commands import CommandResult, Daybook


class TaskCommands:
    """`daybook task` in its own home; `json` returns the output of a command with `--json`."""

    def __init__(self, home: Path, say: Daybook, patch: pytest.MonkeyPatch) -> None:
        self.home, self.say, self._patch = home, say, patch

    def json(self, *tokens: str, code: int = 0) -> Any:
        result = self.say("task", *tokens, "--json")
        assert result.code == code, result.err
        return result.json

    def __call__(self, *tokens: str) -> CommandResult:
        return self.say("task", *tokens)

    def shows(self, token: str = "", stdin: str = "") -> None:
        """Set the token in the environment and the standard input of the next commands."""
        self._patch.setenv("DAYBOOK_TASK_TOKEN", token)
        self._patch.setattr(sys, "stdin", io.StringIO(stdin))

    def claimed(self, *options: str) -> dict[str, Any]:
        """Claim a task for the session `alpha`, and set its token for the next commands."""
        self.json("session", "register", "alpha", "--capability", "python")
        self.json("add", "Review pull request 12", "--capability", "python")
        found: dict[str, Any] = self.json("next", "--session", "alpha", *options)
        self.shows(found["token"])
        return found

    def execute(self, statement: str, *values: str) -> list[Any]:
        with closing(sqlite3.connect(self.home / "ledger.db")) as file:
            rows = file.execute(statement, values).fetchall()
            file.commit()
            return rows


@pytest.fixture
def tasks(daybook_home: Home, daybook: Daybook, monkeypatch: pytest.MonkeyPatch) -> TaskCommands:
    monkeypatch.delenv("DAYBOOK_TASK_TOKEN", raising=False)
    return TaskCommands(daybook_home.path, daybook, monkeypatch)
