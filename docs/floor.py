"""Generator of docs/floor.md: what the five systems do, and where Daybook shows it.

`tests/floor/a.toml` to `e.toml` list the behaviours of the systems A to E by requirement. A
behaviour works here if a test shows it, which has the marker
`@pytest.mark.floor("B", "TriggerJob works on a disabled job")`, or it differs on purpose, for the
reason in the file. Anything else is an error. The rows are not generated from the markers, because
a missing test would then be a missing row. The tests are parsed and not imported.

To add a row: write it to the file of its system, mark the test that asserts it, run `make docs`.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docs.page_text import cell

ROOT = Path(__file__).resolve().parent.parent
SYSTEMS = ("A", "B", "C", "D", "E")
NEVER_SHOWN = {"skip", "skipif", "xfail"}
"""Markers of tests that show nothing, because they may not run or not pass."""


@dataclass(frozen=True)
class Row:
    """A behaviour of a system: its requirement, and the reason if Daybook differs on purpose."""

    system: str
    requirement: int
    behaviour: str
    reason: str = ""


def page(root: Path = ROOT) -> str:
    """Return the page. Raise ValueError with each row and marker that is wrong."""
    titles, rows, problems = read_rows(root)
    shown, wrong = read_markers(root)
    problems += wrong
    known = {(row.system, row.behaviour): row for row in rows}
    for key, row in known.items():
        if key not in shown and not row.reason:
            problems.append(f"{_name(row)} has no test and no reason (mark the test that shows it)")
        if key in shown and row.reason:
            problems.append(f"{_name(row)} differs, but {shown[key][0]} shows that it works")
    for (system, behaviour), tests in shown.items():
        if (system, behaviour) not in known:
            file = f"tests/floor/{system.lower()}.toml"
            problems.append(f'{tests[0]}: {file} has no row "{behaviour}"')
    if problems:
        raise ValueError("\n".join(["docs/floor.md cannot be written:", *problems]))
    return _markdown(titles, rows, shown)


def read_rows(root: Path) -> tuple[dict[str, str], list[Row], list[str]]:
    """Return the titles of the systems, their rows in the order of the page, and what is wrong."""
    text = (root / "docs" / "requirements.md").read_text(encoding="utf-8")
    requirements = set(re.findall(r"^(\d+)\. ", text, re.MULTILINE))
    titles, rows, problems = dict[str, str](), list[Row](), list[str]()
    for system in SYSTEMS:
        file = f"tests/floor/{system.lower()}.toml"
        table = tomllib.loads((root / file).read_text(encoding="utf-8"))
        titles[system] = table.pop("title", "")
        if not titles[system]:
            problems.append(f"{file}: title is missing")
        seen = set[str]()
        for requirement, group in table.items():
            if requirement not in requirements:
                problems.append(f"{file}: docs/requirements.md has no requirement {requirement}")
                continue
            for row in _rows_of(system, int(requirement), group):
                rows.append(row)
                if row.behaviour in seen:
                    problems.append(f"{_name(row)} appears twice")
                seen.add(row.behaviour)
            problems += [
                f"{file}: {requirement}.{key}: unknown key (use works or differs)"
                for key in group.keys() - {"works", "differs"}
            ]
            problems += [
                f'{file}: "{behaviour}" differs without a reason'
                for behaviour, reason in group.get("differs", {}).items()
                if not reason.strip()
            ]
    return titles, sorted(rows, key=lambda row: (row.system, row.requirement)), problems


def _rows_of(system: str, requirement: int, group: dict[str, Any]) -> Iterator[Row]:
    for behaviour in group.get("works", ()):
        yield Row(system, requirement, behaviour)
    for behaviour, reason in group.get("differs", {}).items():
        yield Row(system, requirement, behaviour, reason)


def read_markers(root: Path) -> tuple[dict[tuple[str, str], list[str]], list[str]]:
    """Return the tests that show each behaviour, by system and behaviour, and what is wrong."""
    shown, problems = defaultdict[tuple[str, str], list[str]](list), list[str]()
    for path in sorted((root / "tests").rglob("test_*.py")):
        text = path.read_text(encoding="utf-8")
        if "mark.floor" not in text:
            continue
        name, tree = str(path.relative_to(root)), ast.parse(text)
        names = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
        lines = {node.lineno for node in names if _mark(node) == "floor"}
        for test in ast.walk(tree):
            if not isinstance(test, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if not test.name.startswith("test_"):
                continue
            marks = {_mark(node) for each in test.decorator_list for node in ast.walk(each)}
            if "floor" in marks and marks & NEVER_SHOWN:
                problems.append(f"{name}::{test.name}: a test that may not pass shows nothing")
            for marker in test.decorator_list:
                match marker:
                    case ast.Call(
                        func=mark,
                        args=[ast.Constant(value=str(system)), ast.Constant(value=str(behaviour))],
                        keywords=[],
                    ) if _mark(mark) == "floor" and system in SYSTEMS:
                        shown[system, behaviour].append(f"{name}::{test.name}")
                        lines.remove(marker.lineno)
        problems += [
            f'{name}:{line}: write @pytest.mark.floor("B", "the behaviour") above a test'
            for line in sorted(lines)
        ]
    return dict(shown), problems


def _mark(node: ast.AST) -> str:
    """Return `x` for `pytest.mark.x`, else an empty text."""
    match node:
        case ast.Attribute(value=ast.Attribute(attr="mark"), attr=name):
            return name
    return ""


def _name(row: Row) -> str:
    return f'tests/floor/{row.system.lower()}.toml: "{row.behaviour}"'


def _markdown(
    titles: dict[str, str], rows: Sequence[Row], shown: dict[tuple[str, str], list[str]]
) -> str:
    lines = [_HEAD, "| system | | behaviours | work | differ |", "|---|---|---|---|---|"]
    for system, title in titles.items():
        of_system = [row for row in rows if row.system == system]
        differ = sum(bool(row.reason) for row in of_system)
        counts = (len(of_system), len(of_system) - differ, differ)
        lines.append(f"| [{system}](#{system.lower()}) | {title} | {_joined(counts)} |")
    differ = sum(bool(row.reason) for row in rows)
    lines.append(f"| | all | {_joined((len(rows), len(rows) - differ, differ))} |")
    for system in titles:
        lines += ["", f"## {system}", "", "| requirement | behaviour | Daybook |", "|---|---|---|"]
        for row in rows:
            if row.system == system:
                tests = ", ".join(f"`{each}`" for each in shown.get((system, row.behaviour), ()))
                works = f"differs: {row.reason}" if row.reason else f"works: {tests}"
                lines.append(f"| {row.requirement} | {cell(row.behaviour)} | {cell(works)} |")
    return "\n".join(lines) + "\n"


def _joined(counts: Sequence[int]) -> str:
    return " | ".join(map(str, counts))


_HEAD = """\
<!-- Generated by `make docs` from `tests/floor` and the tests' markers; do not edit. -->

# Floor

The [requirements](requirements.md) call five existing schedulers, A to E, the minimum. This page
lists what they do. A behaviour *works* in Daybook if the named test shows it, or it *differs* on
purpose, for the given reason.
"""
