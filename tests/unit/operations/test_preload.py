"""The import of Prefect's server before the fork: with its own settings, and only if it is used."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from daybook.home import Home

pytestmark = pytest.mark.slow  # each program imports Prefect's server

PROGRAM = """
import json, os, sys
from daybook import home
home.configure_prefect()
from daybook.operations import preload
from prefect.settings import get_current_settings

before = dict(os.environ), os.getcwd()
preload._import_server()
facts = {
    "is_imported": "prefect.server.api.server" in sys.modules,
    "is_restored": before == (dict(os.environ), os.getcwd()),
    "own": get_current_settings().server.services.late_runs.loop_seconds,
    "threads": len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 1,
}
if facts["is_imported"]:
    import inspect
    from prefect.server.services.late_runs import monitor_late_runs
    looks = inspect.signature(monitor_late_runs).parameters["perpetual"].default
    facts["interval"] = looks.every.total_seconds()
print(json.dumps(facts))
"""


def run(home: Home, **variables: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={"DAYBOOK_HOME": str(home.path), **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def test_modules_that_read_settings_at_their_import_read_those_of_the_server(
    daybook_home: Home,
) -> None:
    facts = run(daybook_home)
    assert facts == {
        "is_imported": True,
        "is_restored": True,
        "own": 5.0,
        "threads": 1,
        "interval": 15.0,
    }


def test_the_server_is_not_imported_if_another_one_is_configured(daybook_home: Home) -> None:
    facts = run(daybook_home, PREFECT_API_URL="http://127.0.0.1:1/api")
    assert not facts["is_imported"] and facts["is_restored"]
