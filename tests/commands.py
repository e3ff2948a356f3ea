"""Command lines that run in the test's process.

A process of the command line reads the signature of one command once. To read it anew for each of
thousands of commands would be most of their cost, so this module keeps what was read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from functools import cache
from typing import Any, NamedTuple

import pytest
from cyclopts import Parameter
from cyclopts.argument import ArgumentCollection

from daybook.cli.main import main as main  # noqa: PLC0414 - a part of this module

_read: Any = vars(ArgumentCollection)["_from_callable"].__func__
_READ = dict[Any, tuple[Any, ArgumentCollection]]()


def _read_once(
    cls: type[ArgumentCollection], function: Any, *parameters: Any, **given: Any
) -> ArgumentCollection:
    given["reserved"] = tuple(given.get("reserved") or ())
    asked = (parameters, given)
    # An error reads the signature too, with other parameters.
    key = (function, repr(parameters), given.get("parse_docstring"), given.get("_resolve_groups"))
    if (known := _READ.get(key)) is None or known[0] != asked:
        known = _READ[key] = (asked, _read(cls, function, *parameters, **given))
    copies = {id(each): copy(each) for each in known[1]}
    for each in copies.values():
        each.tokens = []
        each.children = cls(copies[id(child)] for child in each.children)
    return cls(copies.values())


ArgumentCollection._from_callable = classmethod(_read_once)  # type: ignore[assignment]
Parameter.get_negatives = cache(Parameter.get_negatives)  # type: ignore[method-assign]


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
