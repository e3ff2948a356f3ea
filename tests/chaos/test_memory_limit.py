"""A worker that a program's listener makes grow is replaced, and its runs are not lost."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.jobs_of_up import PATIENCE_SECONDS, CountedUp
from tests.servers import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(2400)]

# Keeps 600 MB once, as soon as the file `leak` says so. The keeper calls it, in the worker.
LEAKS = """
from pathlib import Path
import daybook

kept = []

@daybook.listener
def keep(run):
    if (leak := Path({folder!r}, "leak")).exists():
        leak.unlink()
        kept.append(bytearray(b"x") * 600_000_000)
"""


@pytest.fixture
def up(tmp_path: Path) -> Iterator[CountedUp]:
    home, folder = tmp_path / "home", tmp_path / "folder"
    folder.mkdir()
    (folder / "leaks.py").write_text(LEAKS.format(folder=str(folder)))
    variables = {
        "DAYBOOK_MAX_PROCESS_MEMORY": "512",
        "DAYBOOK_PLUGINS": "leaks",
        "DAYBOOK_WEB_PORT": str(free_port()),
        "PYTHONPATH": os.pathsep.join([str(folder), os.environ["PYTHONPATH"]]),
    }
    running = CountedUp(home, folder, home / "ledger.db", variables)
    try:
        running.begin()
        yield running
    finally:
        running.end()


def test_a_worker_that_grows_is_replaced_and_its_runs_are_not_lost(up: CountedUp) -> None:
    begun, go_on = up.folder / "begun", up.folder / "go on"
    os.mkfifo(go_on)
    effect = f"echo x >> {begun}; read line < '{go_on}'"
    (up.folder / "long.sh").write_text(effect)
    up.daybook_json("agents", "add", "long", "--command", f"sh {up.folder / 'long.sh'}")
    up.daybook_json("add", "Go", "--agent", "long", "--name", "long", "--on-demand")
    up.until_a_run_succeeds()
    before = {each["name"]: each["pid"] for each in up.facts()["children"]}
    up.daybook_json("run", "long")
    while not begun.exists():
        up.passes(0.5)

    (up.folder / "leak").touch()
    log = up.home / "logs" / "worker.log"
    while "MB; it stops when no run is active" not in log.read_text():
        up.passes(0.5)
    assert not up.outcomes("long")  # the worker lets it end
    go_on.write_text("\n")

    up.until(lambda lines: bool(up.outcomes("long")), within=PATIENCE_SECONDS)
    assert "succeeded" in up.outcomes("long")[0]
    up.until_said("The worker stopped, because it used more memory than DAYBOOK_MAX_PROCESS_MEMORY")
    up.until_a_run_succeeds()
    after = {each["name"]: each["pid"] for each in up.facts()["children"]}
    changed = {name for name in before if before[name] != after.get(name)}
    assert changed == {"worker"}
    assert any("the worker was restarted once" in each for each in up.problems())
    assert begun.read_text() == "x\n"
    assert [each["status"] for each in up.daybook_json("runs", "long")] == ["succeeded"]
    up.check_outcomes()
