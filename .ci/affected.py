"""Prints the test files that a change can affect, one per line: `.ci/affected.py [BASE]`.

The change is everything since the commit BASE (default: the commits of the last four hours), also
what is not committed. A test file is affected if it has changed, or a module that it imports, at
any depth. The tests of `PROCESSES` start processes whose code they do not import: for them, the
packages listed there count instead of their imports.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
PACKAGES = ("daybook", "flows", "blocks", "deployments", "chaos", "benchmarks")
EVERYTHING = ("pyproject.toml", "requirements.lock", "tests/conftest.py")
"""A change of one of these affects every test."""

_RUNS = [
    "daybook.worker",
    "daybook.execution",
    "daybook.runs",
    "daybook.prefect",
    "daybook.ledger",
    "daybook.timing",
    "daybook.processes",
    "daybook.jobs",
    "daybook.schedules",
    "flows",
]
PROCESSES = {
    "tests/e2e/worker/test_repositories.py": [
        *_RUNS,
        *("daybook.agents", "daybook.features.repositories"),
    ],
    "tests/e2e/worker": [*_RUNS, "daybook.agents", "daybook.tools"],
    "tests/e2e/keeper": [*_RUNS, "daybook.keeper"],
    "tests/e2e/prefect": ["daybook.prefect", "daybook.jobs", "daybook.ledger", "daybook.schedules"],
    "tests/e2e/delivery": ["daybook.delivery", "daybook.http", "daybook.keeper", "daybook.ledger"],
    "tests/e2e/mcp": ["daybook.mcp", "daybook.toolbox", "daybook.api", "daybook.features.tasks"],
    **{
        f"tests/e2e/test_{name}.py": [f"daybook.{package}" for package in packages.split()]
        for name, packages in {
            "callbacks_cli": "delivery resources http api cli",
            "channels": "delivery resources http api cli execution",
            "command_server": "cli processes operations home",
            "doctor": "diagnosis operations",
            "doctor_notifications": "diagnosis delivery resources",
            "heartbeat": "api cli jobs",
            "ledger_key": "resources ledger api cli operations",
            "model_agents": "agents resources api cli",
            "plugins": "registry tools delivery api execution",
            "secrets": "resources http api cli execution",
            "tasks_cli": "features.tasks api cli ledger",
            "tool_jobs": "tools jobs api cli execution",
            "tools": "tools resources api cli",
            "web": "web diagnosis operations mcp",
            "wheel": "repository diagnosis operations cli",
        }.items()
    },
    "tests/e2e": ["daybook", "flows", "blocks", "deployments", "prefect.yaml"],
    "tests/unit/features/test_features.py": ["daybook", "flows", "blocks"],
    "tests/unit/test_patterns.py": ["daybook", "flows", "blocks", "deployments"],
    "tests/flows": [*_RUNS, "daybook.agents", "daybook.tools", "daybook.http", "daybook.delivery"],
    "tests/chaos/test_killed_calls.py": [
        *_RUNS,
        *("daybook.agents", "daybook.tools", "daybook.http"),
        *(
            f"daybook.features.{each}"
            for each in ("web_tools", "work_tools", "memory", "notify_tool", "skills")
        ),
    ],
    "tests/chaos/test_killed_worktrees.py": [
        *_RUNS,
        *("daybook.keeper", "daybook.agents", "daybook.features.repositories"),
    ],
    "tests/chaos/test_killed_conversations.py": [
        *_RUNS,
        *("daybook.keeper", "daybook.delivery", "daybook.features.conversations", "chaos"),
    ],
    "tests/chaos": [*_RUNS, "daybook.keeper", "chaos"],
    "tests/contract/worker": ["daybook.worker", "daybook.processes", "daybook.timing"],
}
"""Packages whose changes affect the tests in a folder; the first folder that contains it counts."""


def changed(base: str) -> set[str]:
    """Return the paths that differ from ``base``, also untracked ones."""
    files = _git("diff", "--name-only", base) + _git("ls-files", "--others", "--exclude-standard")
    return set(files)


def affected(changes: set[str]) -> list[str]:
    """Return the paths of the affected test files."""
    tests = sorted(path.relative_to(ROOT) for path in (ROOT / "tests").rglob("test_*.py"))
    if changes.intersection(EVERYTHING):
        return [str(path) for path in tests]
    modules = {_module(Path(path)) for path in changes if path.endswith(".py")} | changes
    return [str(path) for path in tests if _needs(path, modules)]


def _needs(path: Path, modules: set[str]) -> bool:
    declared = next((PROCESSES[each] for each in PROCESSES if path.is_relative_to(each)), None)
    if declared is None:
        return not modules.isdisjoint(_imports(path))
    own = {name for name in _imports(path) if name.startswith("tests.")}
    prefixes = tuple(f"{name}." for name in declared)
    return any(name in own or name in declared or name.startswith(prefixes) for name in modules)


@cache
def _imports(path: Path) -> frozenset[str]:
    """Return the names of the modules that the file needs at any depth, and its own name.

    The `conftest.py` files of its folders belong to a test.
    """
    found, graph = set[str](), _graph()
    waiting = [path, *(each for each in (p / "conftest.py" for p in path.parents) if each.exists())]
    while waiting:
        file = waiting.pop()
        if _module(file) in found:
            continue
        found.add(_module(file))
        for name in _imported(file):
            if name in graph.modules:
                found |= {name, *graph.find_upstream_modules(name)}
            elif name.startswith("tests."):
                waiting += [each for each in _files(name) if each.exists()]
    return frozenset(found)


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{each.name}" for each in node.names)


def _files(module: str) -> tuple[Path, Path]:
    path = Path(*module.split("."))
    return path.with_suffix(".py"), path / "__init__.py"


def _module(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


@cache
def _graph() -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES, cache_dir=None)


def _git(*arguments: str) -> list[str]:
    command = ["git", *arguments]
    return subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()


def main() -> None:
    base = sys.argv[1] if len(sys.argv) > 1 and sys.argv[1] else ""
    base = base or next(iter(_git("rev-list", "-1", "--before=4 hours ago", "HEAD")), "HEAD")
    print("\n".join(affected(changed(base))))


if __name__ == "__main__":
    main()
