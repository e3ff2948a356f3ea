"""`pip install -U` under a running service, with real processes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import daybook
from daybook.home import Home
from daybook.ledger import schema, transfer
from daybook.ledger.engine import Ledger
from daybook.operations import service_units
from tests.e2e.first_light import environment
from tests.e2e.test_wheel import REPOSITORY, build, build_environment, install
from tests.migrations.test_schema import NEXT, NEXT_SCHEMA
from tests.stand_in import StandIn

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux's"),
]

NEW_VERSION = "9.9.9"


def new_wheel(sdist: Path, folder: Path) -> Path:
    """Return the wheel of a later version, which has one more migration."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    for name in ("pyproject.toml", "daybook/__init__.py"):
        text = (source / name).read_text()
        newer = text.replace(f'"{daybook.__version__}"', f'"{NEW_VERSION}"', 1)
        assert newer != text
        (source / name).write_text(newer)
    migrations = source / "daybook" / "ledger" / "migrations"
    (migrations / "versions" / f"{NEXT}_next.py").write_text(NEXT_SCHEMA)
    (migrations / "HEAD").write_text(f"{NEXT}\n")
    return build(source, folder / "built").wheel


async def test_a_service_restarts_on_the_version_that_pip_installs_and_finishes_its_run(
    tmp_path: Path,
) -> None:
    built = build(REPOSITORY, tmp_path / "built")
    later = new_wheel(built.sdist, tmp_path / "source")
    python = build_environment(tmp_path / "venv", built.wheel)
    home = Home(tmp_path / "home").make()
    variables = environment(home.path) | {"PYTHONPATH": ""}  # nothing of the checkout
    unit = service_units.systemd_units(service_units.ServiceDefinition(home.path, str(python)))
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        line = [str(python), "-P", "-m", "daybook", *words]
        return subprocess.run(line, env=variables, capture_output=True, text=True, check=False)

    def command(*words: str) -> str:
        done = run(*words)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    with StandIn(unit["daybook-" + home.mark + ".service"], tmp_path, 2.0) as started:
        started.until("READY=1", within=240)
        before = home.running() or {}
        command("agents", "add", "slow", "--command", f"cat {fifo}")
        command("add", "Wait.", "--name", "long", "--on-demand", "--agent", "slow")
        command("run", "long")
        writer = os.open(fifo, os.O_WRONLY)  # returns when the run's program reads

        install(python, later)
        started.until_logged(rf"Daybook {NEW_VERSION} was installed", within=120)
        assert (home.running() or {}).get("ready_at") == before["ready_at"]  # it waits for the run
        refused = run("runs")
        assert refused.returncode == 4
        assert "restarts within minutes" in refused.stderr
        os.write(writer, b"done")
        os.close(writer)

        started.until("READY=1", within=240)
        started.until("WATCHDOG=1", within=30)
        after = home.running() or {}
        assert after["pid"] == before["pid"] == started.process.pid
        assert before["ready_at"] and after["ready_at"] and after["ready_at"] > before["ready_at"]
        assert after["api_url"] == before["api_url"]
        assert not {each["pid"] for each in after["children"]} & {
            each["pid"] for each in before["children"]
        }
        (ended,) = json.loads(command("runs", "long", "--json"))
        assert (ended["status"], ended["attempts"], ended["output"]) == ("succeeded", 1, "done")
        assert re.search(rf"prefect-daybook {NEW_VERSION}", command("doctor", "-v"))
        command("down")
        assert started.process.wait(60) == 0
        assert "STOPPING=1" not in started.received
    (copy,) = (home.path / "backups").iterdir()
    async with Ledger(transfer.sqlite_address(copy)) as ledger:
        assert copy.name == f"{ledger.id}-{schema.head()}.db"
