"""`daybook.jobs` is pure: what it imports, and so how fast a command that needs no more starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOM = Path(__file__).parents[3] / "daybook" / "spec"
MODULES = sorted(path.stem for path in ROOM.glob("*.py") if path.stem != "__init__")
HEAVY = ["prefect", "sqlalchemy", "sqlmodel", "pydantic_settings", "httpx", "asyncio"]


def test_the_room_is_not_empty() -> None:
    assert {"job", "schedule", "due", "policy", "words", "lateness", "durations"} <= set(MODULES)


def test_it_imports_nothing_heavy() -> None:
    modules = ", ".join(f"daybook.jobs.{module}" for module in MODULES)
    code = f"import sys, {modules}; print(*[name for name in {HEAVY} if name in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.split() == []
