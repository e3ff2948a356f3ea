"""Generator of the pages of docs/ that come from the code, and of modules and parts of modules.

`python docs/generate.py` writes the pages that changed. With `--check` it writes nothing, lists the
outdated pages, and exits with 1 if there are any. `PAGES` has a function for each page, which
returns Markdown.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import re
import sys
import tempfile
import tomllib
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from pkgutil import iter_modules
from textwrap import wrap
from typing import TYPE_CHECKING

from daybook.schedules.durations import to_text
from docs import client_fields, floor, flow_parameters, picture, reference_pages
from docs.page_text import FOLDER, NOTE, between, cell, summary

if TYPE_CHECKING:
    from tests.unit.runs.ten_due_times import Became, Case


def limits() -> str:
    """Return the page of the limits on agents' own jobs, with a current table of `[limits]`."""
    from daybook.jobs.limits import Limits

    lines = ["| key | default | meaning |", "|---|---|---|"]
    plain = Limits().model_dump(mode="json")
    for name, field in Limits.model_fields.items():
        shown = '"1m"' if name == "min_interval" else json.dumps(plain[name])
        lines.append(f"| `{name}` | `{shown}` | {cell(field.description or '')} |")
    return between("guides/limits.md", lines)


def budgets() -> str:
    """Return the page of budgets with a current table of `[budget]`."""
    from daybook.policies.budgets import HomeBudget

    lines = ["| key | default | meaning |", "|---|---|---|"]
    plain = HomeBudget().model_dump(mode="json")
    for name, field in HomeBudget.model_fields.items():
        default = "none" if plain[name] in (None, {}) else f"`{json.dumps(plain[name])}`"
        lines.append(f"| `{name}` | {default} | {cell(field.description or '')} |")
    return between("guides/budgets.md", lines)


def tasks() -> str:
    """Return the page of tasks with a current table of `[tasks]`."""
    from daybook.features.tasks.policy import SchedulerPolicy

    plain = SchedulerPolicy().model_dump()
    lines = ["| key | default | meaning |", "|---|---|---|"]
    for name, field in SchedulerPolicy.model_fields.items():
        value = plain[name]
        shown = json.dumps(to_text(value) if isinstance(value, timedelta) else value)
        lines.append(f"| `{name}` | `{shown}` | {cell(field.description or '')} |")
    return between("guides/tasks.md", lines)


def tools() -> str:
    """Return the page of tools with a current table of the presets of tool servers."""
    from daybook.tools.server_presets import PRESETS, apply

    lines = ["| preset | server | needs | tools that only read |", "|---|---|---|---|"]
    for name, preset in PRESETS.items():
        settings = apply(name, {"command": ["/FOLDER"]} if preset.needs_folder else {})
        words = [each.removeprefix("/FOLDER") or "FOLDER" for each in settings.get("command", [])]
        named = [f"`{each}`" for each in (settings.get("headers") or {}).values()]
        named += [f"`{each}`" for each in preset.environment]
        needs = f"{', '.join(named)}: {preset.source}" if preset.source else "-"
        server = " ".join(words) or preset.url
        reads = ", ".join(f"`{each}`" for each in preset.read_only)
        lines.append(f"| `{name}` | `{server}` | {cell(needs)} | {reads} |")
    return between("guides/tools.md", lines)


def states() -> str:
    """Return the page of states, with current tables of the transitions and the claim rules."""
    from daybook.ledger import waits
    from daybook.ledger.states import as_markdown
    from daybook.runs.claim_rules import RULES

    rules = ["| | rule | what it does |", "|---|---|---|"]
    for number, rule in enumerate(RULES, start=1):
        rules.append(f"| {number} | `{rule.__name__}` | {cell(summary(rule))} |")
    reasons = waits.as_markdown().strip().splitlines()
    return between("reference/states.md", as_markdown().strip().splitlines(), reasons, rules)


def policies_page(found: dict[Case, list[Became]]) -> str:
    """Return the page of policies with current tables of the outcomes in the cases ``found``."""
    from tests.unit.runs import ten_due_times

    tables = [ten_due_times.as_markdown(found, full=full).splitlines() for full in (False, True)]
    return between("guides/policies.md", *tables)


def policies() -> str:
    """Run the cases, which takes half a minute; return their `policies_page`."""
    from tests.unit.runs import ten_due_times

    with tempfile.TemporaryDirectory() as folder:
        address = f"sqlite+aiosqlite:///{folder}/ledger.db"
        return policies_page(asyncio.run(ten_due_times.all_of_them(address)))


def package(name: str) -> str:
    """Return the package's `__init__.py` with its current modules, which type checkers need."""
    folder = FOLDER.parent.joinpath("daybook", *name.split("."))
    names = sorted(each.name for each in iter_modules([str(folder)]))
    listed = "".join(f"        {name} as {name},\n" for name in names)
    text = (folder / "__init__.py").read_text(encoding="utf-8")
    return re.sub(rf"(from daybook\.{name} import \([^\n]*\n)[^)]*", rf"\1{listed}    ", text)


def feature_operations() -> str:
    """Return `daybook/api/feature_operations.pyi` with the operations of the current features."""
    from daybook.feature import features

    adding = [each for each in features() if each.operations]
    imports, asynchronous, blocking = [], [], []
    for each in adding:
        module, _, name = each.operations.partition(":")
        names = ", ".join(sorted((name, f"Sync{name}")))
        imports.append(f"from {each.package}.{module} import {names}")
        asynchronous.append(f"    {each.name}: {name}")
        blocking.append(f"    {each.name}: Sync{name}")
    return _FEATURE_OPERATIONS.format(
        imports="\n".join(imports),
        asynchronous="\n".join(asynchronous),
        blocking="\n".join(blocking),
    )


_FEATURE_OPERATIONS = '''\
"""Attributes of the clients that features add, for type checkers.

Generated by `make docs` from the features' descriptors: change those.
"""

{imports}

class FeatureOperations:
    """Attributes of `Client`."""

{asynchronous}

class SyncFeatureOperations(FeatureOperations):
    """Attributes of `SyncClient`."""

{blocking}
'''


def design() -> str:
    """Return the page of the design with a current table of packages, and the single modules."""
    lines = ["| | contains |", "|---|---|"]
    modules = []
    for name in (name for layer in _layers() for name in layer.split(" | ")):
        module = importlib.import_module(f"daybook.{name}")
        if hasattr(module, "__path__"):
            lines.append(f"| `{name}` | {cell(summary(module))} |")
        else:
            modules.append(f"`{name}`")
    lines += ["", *wrap(f"Single modules: {', '.join(modules)}.", 100)]
    return between("design.md", lines)


def contributing() -> str:
    """Return CONTRIBUTING with the current layers, from low to high."""
    text = " → ".join(reversed(_layers()))
    lines = wrap(text, 100, initial_indent="    ", subsequent_indent="    ")
    return between("../CONTRIBUTING.md", lines)


def _layers() -> list[str]:
    """Return the layers of the package from high to low, as the import contract has them."""
    project = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = {each["id"]: each for each in project["tool"]["importlinter"]["contracts"]}
    layers: list[str] = contracts["packages"]["layers"]
    return layers


def services() -> str:
    """Return the page of the keeper's services."""
    from daybook.keeper.services import loops

    everywhere = [each for loop in loops() if loop.everywhere for each in loop.services]
    lines = [NOTE.format(source="`daybook/keeper/services.py`") + _SERVICES]
    lines += ["| service | interval | runs in | does |", "|---|---|---|---|"]
    for loop in loops():
        process = "every process" if loop.everywhere else "the leader"
        interval = to_text(loop.interval())
        for each in loop.services:
            if loop.everywhere or each not in everywhere:
                lines.append(f"| `{each.name}` | {interval} | {process} | {cell(each.does)} |")
            interval = f"after `{each.name}`"
    return "\n".join(lines) + "\n"


_SERVICES = """\
# Services of the keeper

The [keeper](../operations/running.md#the-keeper) runs these services. The interval is the usual
pause after a cycle. `daybook status --json` shows the last cycle of each under `passes`.
"""


def decisions() -> str:
    """Return the page that lists the decision notes."""
    entries = read_notes(FOLDER / "decisions")
    lines = [
        NOTE.format(source="the notes in this folder") + _DECISIONS,
        "## Ten decisions that bind every change\n",
        *(entries[number] for number in _BINDING),
        "\n## All decisions\n",
        *entries.values(),
    ]
    return "\n".join(lines) + "\n"


def read_notes(folder: Path) -> dict[str, str]:
    """Return a line of the list for each decision note in ``folder``, by number.

    Raise ValueError if there are too many notes, or if a note is too long.
    """
    entries = {}
    problems = []
    for path in sorted(folder.glob("0*.md")):
        text = path.read_text(encoding="utf-8")
        number, _, title = text.partition("\n")[0][2:].partition(" ")
        entries[number] = f"- {number} [{title}]({path.name})"
        if (words := len(text.split())) > MAX_NOTE_WORDS:
            problems.append(f"{path.name} has {words} words; the maximum is {MAX_NOTE_WORDS}")
    if len(entries) > MAX_NOTES:
        problems.append(f"{len(entries)} notes; merge or delete some until {MAX_NOTES} are left")
    if problems:
        raise ValueError("\n".join(problems))
    return entries


MAX_NOTES = 50
MAX_NOTE_WORDS = 500
"""Maximum length of a decision note: one page."""

_DECISIONS = """\
# Decisions

Each note has one subject: its context, the decisions that are in force, and their consequences. A
decision that was overturned is deleted here; git keeps it.
"""

_BINDING = ["0001", "0002", "0009", "0013", "0014", "0018", "0022", "0026", "0038", "0044"]
"""The numbers of the decisions that a change of the code is most likely to touch."""


PAGES: dict[str, Callable[[], str]] = {
    "../daybook/api/__init__.py": partial(package, "api"),
    "../daybook/diagnosis/__init__.py": partial(package, "diagnosis"),
    "../daybook/features/tasks/__init__.py": partial(package, "features.tasks"),
    "../daybook/operations/__init__.py": partial(package, "operations"),
    "../daybook/prefect/__init__.py": partial(package, "prefect"),
    "../daybook/api/feature_operations.pyi": feature_operations,
    "../daybook/api/job_fields.py": client_fields.module,
    "../flows/agent_prompt.py": partial(flow_parameters.module, "agent-prompt"),
    "../flows/heartbeat.py": partial(flow_parameters.module, "heartbeat"),
    "../flows/tool_call.py": partial(flow_parameters.module, "tool-call"),
    "../flows/webhook.py": partial(flow_parameters.module, "webhook"),
    "design.md": design,
    "decisions/index.md": decisions,
    "floor.md": floor.page,
    "pictures/processes.svg": picture.processes,
    "../CONTRIBUTING.md": contributing,
    "reference/states.md": states,
    "guides/limits.md": limits,
    "guides/budgets.md": budgets,
    "guides/tasks.md": tasks,
    "guides/tools.md": tools,
    "reference/cli.md": reference_pages.cli,
    "reference/errors.md": reference_pages.errors,
    "reference/http.md": reference_pages.http,
    "reference/job.md": reference_pages.job_fields,
    "reference/json.md": reference_pages.json_output,
    "reference/python.md": reference_pages.python,
    "reference/services.md": services,
    "reference/settings.md": reference_pages.settings,
}

TESTED: dict[str, Callable[[], str]] = {"guides/policies.md": policies}
"""Slow pages: a test checks that they are up to date, and `--check` does not."""


def main() -> None:
    outdated = []
    checks = "--check" in sys.argv
    if not checks:
        sys.path.insert(0, str(FOLDER.parent))  # one page is made from a test
    for name, page in (PAGES if checks else PAGES | TESTED).items():
        text, path = page(), FOLDER / name
        if path.exists() and path.read_text() == text:
            continue
        outdated.append(os.path.normpath(f"docs/{name}"))
        if not checks:
            path.write_text(text)
            print(f"wrote {outdated[-1]}")
    if outdated and checks:
        sys.exit(f"outdated, run `make docs`: {', '.join(outdated)}")


if __name__ == "__main__":
    main()
