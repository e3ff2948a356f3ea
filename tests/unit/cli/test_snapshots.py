"""Snapshots of the command line: the help of every command, and the shapes of `--json`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cyclopts import App

from daybook.cli.main import app
from daybook.clock import SYSTEM_CLOCK
from daybook.home import Home
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Status
from daybook.testing import ManualClock
from tests import rows
from tests.commands import Daybook
from tests.conftest import REPOSITORY
from tests.unit.features.imports import files
from tests.unit.features.tasks.conftest import TaskCommands
from tests.world import World

Snapshot = Callable[[str, str], None]


def _commands(above: App, *path: str) -> Iterator[tuple[str, ...]]:
    yield path
    for name in above.resolved_commands():
        if not name.startswith("-") and name == above[name].name[0]:  # no alias
            yield from _commands(above[name], *path, name)


def test_the_help_of_every_command_matches_the_snapshot(
    daybook: Daybook, snapshot: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    helps = []
    for path in _commands(app):
        result = daybook(*path, "--help", "--all")
        assert result.code == 0, path
        helps.append(f"$ {' '.join(['daybook', *path, '--help --all'])}\n{result.out.strip()}\n")
    snapshot("cli-help.txt", "\n".join(line.rstrip() for line in "\n".join(helps).splitlines()))


VERBS = [
    *("up", "down", "status", "doctor", "sync", "add", "list", "show", "edit", "pause", "resume"),
    *("remove", "next", "run", "runs", "logs", "cancel", "today"),
    *(f"agents {verb}" for verb in ("add", "list", "show", "test", "remove")),
    "ledger prune",
    "ledger rekey",
]


def _helps() -> dict[str, str]:
    """Return the help of each command from the snapshot."""
    text = (REPOSITORY / "tests" / "snapshots" / "cli-help.txt").read_text()
    pages = [each.partition("\n") for each in text.split("$ daybook")[1:]]
    return {head.removesuffix("--help --all").strip(): page for head, _, page in pages}


def test_the_help_of_a_command_has_an_example_and_json() -> None:
    helps = _helps()
    for verb, row in rows.each(VERBS):
        with row:
            assert f"Example: daybook {verb}" in helps[verb]
            assert "--json" in helps[verb]


def test_help_texts_are_wrapped_only_at_the_width_of_the_terminal() -> None:
    """Check that no line of a paragraph had room for the first word of the next line."""
    for (verb, page), row in rows.each(_helps().items()):
        with row:
            for line, following in pairwise(page.partition("╭")[0].splitlines()):
                if line and following:
                    assert len(line) + 1 + len(following.split()[0]) > 80, (verb, line)


def _shape(value: Any) -> Any:
    """Return the value with type names for scalars, and lists reduced to distinct shapes."""
    if isinstance(value, dict):
        return {name: _shape(each) for name, each in value.items()}
    if isinstance(value, list):
        shapes = [_shape(each) for each in value]
        return [each for place, each in enumerate(shapes) if each not in shapes[:place]]
    return type(value).__name__


async def _fill(home: Home) -> None:
    """Add a job with a succeeded and a failed run, and another with a waiting run."""
    clock = ManualClock(SYSTEM_CLOCK.now())
    async with Ledger(f"sqlite+aiosqlite:///{home.path}/ledger.db", clock) as ledger:
        world = World(ledger, clock)
        usage = {"input_tokens": 14, "output_tokens": 8, "cost_usd": 0.25}
        notify = {"on_complete": "https://ops.example.org/hook", "channel": "inbox"}
        brief = await world.jobs.add("brief", cron="0 9 * * *", tags=["team"], **notify)
        other = await world.jobs.add("other", on_demand=True)
        await world.runs.finished(brief, Status.SUCCEEDED, output="All is well.", usage=usage)
        await world.runs.finished(brief, Status.FAILED, error="no answer")
        await world.runs.request(other)


JOBS = [
    *("list", "show brief", "runs brief", "next brief", "next --every 5m", "inbox"),
    *("callbacks list", "session list", "tokens list", "ledger prune --dry-run"),
    *("memory create house", "memory list", "memory show house"),
]


def test_the_shapes_of_json_output_match_the_snapshot(
    daybook: Daybook,
    daybook_home: Home,
    snapshot: Snapshot,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    asyncio.run(_fill(daybook_home))
    shapes = {}
    for typed in JOBS:
        result = daybook(*typed.split(), "--json")
        assert result.code == 0, result.err
        shapes[typed] = _shape(result.json)
    path = str(files.hotplex(tmp_path))
    imported = daybook("import", "hotplex", path, "--dry-run", "--json")
    shapes["import --dry-run"] = _shape(imported.json)
    tasks = TaskCommands(daybook_home.path, daybook, monkeypatch)
    claimed = tasks.claimed()
    shapes["task next"] = _shape(claimed)
    for typed in ("list", "show", "session list", "session show alpha", "scheduler status"):
        words = [*typed.split(), *([claimed["task"]["id"]] if typed == "show" else [])]
        shapes[f"task {typed}"] = _shape(tasks.json(*words))
    shapes["task complete"] = _shape(tasks.json("complete", claimed["run_id"]))
    snapshot("json-shapes.json", json.dumps(shapes, indent=1))
