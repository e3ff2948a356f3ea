"""Command lines that run in the test's process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import pytest

from daybook.cli.main import main


class CommandResult(NamedTuple):
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Daybook = Callable[..., CommandResult]
DaybookJson = Callable[..., Any]


def run(capsys: pytest.CaptureFixture[str], *tokens: str) -> CommandResult:
    capsys.readouterr()
    code = main(tokens)
    captured = capsys.readouterr()
    return CommandResult(code, captured.out, captured.err)


@contextmanager
def json_commands(capsys: pytest.CaptureFixture[str]) -> Iterator[DaybookJson]:
    """Yield a function that runs a command line with `--json`; delete all jobs at the end."""

    def carry_out(*tokens: str, code: int = 0) -> Any:
        end = tokens.index("--") if "--" in tokens else len(tokens)
        result = run(capsys, *tokens[:end], "--json", *tokens[end:])
        assert result.code == code, result
        return result.json

    yield carry_out
    for job in carry_out("list"):
        carry_out("remove", job["id"], "--yes")
