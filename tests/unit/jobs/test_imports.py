"""Imports of models, rules and schedules: none is heavy, so that commands start fast."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[3] / "daybook"
HEAVY = ["prefect", "sqlalchemy", "sqlmodel", "pydantic_settings", "httpx", "asyncio"]


def test_pure_modules_import_nothing_heavy() -> None:
    modules = [
        f"daybook.{name}.{path.stem}"
        for name in ("schedules", "jobs")
        for path in sorted((PACKAGE / name).glob("*.py"))
        if path.stem not in {"__init__", "scheduled", "store", "stored_columns", "summaries"}
    ]
    modules += [
        f"daybook.{name}" for name in ("names", "owners", "validation", "features.tasks.model")
    ]
    assert {"daybook.jobs.model", "daybook.schedules.due"} <= set(modules)

    code = f"import sys, {', '.join(modules)}"
    code += f"; print(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
