"""What `up`, `down`, `status`, `sync` and `logs` print of what the service tells them."""

from __future__ import annotations

import json
import os
import re
import sys
import webbrowser
from collections.abc import AsyncIterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from daybook.api import runs as service_runs
from daybook.api import sync as service_sync
from daybook.cli import machine, runs
from daybook.operations import doctor as service_doctor
from daybook.operations import keeper as service_keeper
from daybook.operations import status as service_status
from daybook.operations import up as service_up
from daybook.prefect import client as connection
from daybook.prefect import reconcile
from daybook.prefect.report import ReconcileReport

pytestmark = pytest.mark.usefixtures("stored")

FACTS = {
    "api_url": "http://127.0.0.1:4200/api",
    "ui_url": "http://127.0.0.1:4200",
    "open_url": "http://127.0.0.1:4200/daybook/login?token=once",
    "web_url": "http://127.0.0.1:4280",
    "ledger": "sqlite+aiosqlite:////home/ledger.db",
    "jobs": 1,
    "example": "first-light",
}

SYNCED = ReconcileReport(
    created=["again"],
    remade=["again"],
    conflicts={"c": {"schedule": {}}},
    refused={"d": "no such zone"},
    failed={"f": "too big"},
)


INNER = ("observed", "left")
"""What a report tells the keeper, and nobody else."""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> None:
    """An `up` that is ready at once, sees a job's run and a direct call end, and ends."""

    async def up(talk: service_up.UpReporter, *, link: bool = True) -> None:
        talk.say("Starting the worker")
        talk.synced(service_sync.report_view(SYNCED))
        talk.synced(service_sync.report_view(ReconcileReport(unchanged=3)))
        talk.ready(FACTS)
        (run,) = await service_runs.history("weekly")
        talk.outcome({**run, "status": "succeeded", "output": "Good morning."})
        talk.outcome({**run, "job": None, "status": "succeeded", "output": "By a script."})

    monkeypatch.setattr(service_up, "up", up)
    monkeypatch.setattr(service_up, "detach", up)


@pytest.mark.usefixtures("started")
def test_up_shows_its_steps_the_address_and_each_answer(daybook: Any) -> None:
    said = daybook("up", "--no-browser")
    assert said.code == 0
    assert said.err.splitlines()[:6] == [
        "Starting the worker",
        "Synced with Prefect: 1 created, 0 updated, 0 imported, 0 removed",
        "! missing in Prefect, created again: again",
        "! changed on both sides, kept the ledger's values: c (schedule)",
        "! edited in Prefect, not imported: d (no such zone)",
        "! not reconciled: f (too big)",
    ]
    assert said.err.splitlines()[6].startswith("Running the example job")
    assert "http://127.0.0.1:4200/daybook/login?token=once\n" in said.out
    assert "http://127.0.0.1:4280/health\n" in said.out
    assert "weekly: succeeded" in said.out
    assert "\n  Good morning.\n" in said.out


@pytest.mark.usefixtures("started")
def test_up_says_what_to_do_next_after_the_examples_answer(
    daybook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "program_name", lambda: ".venv/bin/daybook")
    monkeypatch.setitem(FACTS, "example", "weekly")
    said = daybook("up", "--no-browser", "--detach")
    assert said.code == 0
    answer, following = said.out.partition("\nNext:\n")[::2]
    assert "Prefect UI" in answer and answer.endswith("\n  Good morning.")
    assert "Next:" not in following
    commands = [line.split("  ")[-1].strip() for line in following.splitlines()[:3]]
    assert [line.split()[:2] for line in commands] == [
        [".venv/bin/daybook", "agents"],
        [".venv/bin/daybook", "add"],
        [".venv/bin/daybook", "runs"],
    ]


@pytest.mark.usefixtures("started")
@pytest.mark.parametrize(("jobs", "said"), [(1, True), (2, False)])
def test_without_an_example_that_is_said_until_there_is_an_own_job(
    daybook: Any, monkeypatch: pytest.MonkeyPatch, jobs: int, said: bool
) -> None:
    monkeypatch.setitem(FACTS, "example", None)
    monkeypatch.setitem(FACTS, "jobs", jobs)
    assert ("\nNext:\n" in daybook("up", "--no-browser").out) is said


@pytest.mark.parametrize("words", [command.split()[:2] for _, command in machine.NEXT_STEPS])
def test_what_is_to_be_done_next_is_a_command(daybook: Any, words: list[str]) -> None:
    known = words if words[0] == "agents" else words[:1]
    assert daybook(*known, "--help").code == 0


@pytest.mark.parametrize(
    ("folder", "path", "called"),
    [
        ("clone", "/usr/bin", ".venv/bin/daybook"),
        ("elsewhere", "/usr/bin", "{}/clone/.venv/bin/daybook"),
        ("clone", "{}/clone/.venv/bin", "daybook"),
    ],
)
def test_the_command_is_written_as_it_can_be_typed_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, path: str, called: str
) -> None:
    place = tmp_path / "clone" / ".venv" / "bin"
    place.mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (place / "daybook").write_text("")
    (place / "daybook").chmod(0o700)
    monkeypatch.chdir(tmp_path / folder)
    monkeypatch.setenv("PATH", path.format(tmp_path))
    monkeypatch.setattr(sys, "executable", str(place / "python"))
    assert machine.program_name() == called.format(tmp_path)


@pytest.mark.usefixtures("started")
def test_up_for_programs_is_a_line_of_json_for_each_event(daybook: Any) -> None:
    ready, ended, _ = map(json.loads, daybook("up", "--json").out.splitlines())
    assert ready == {"ready": FACTS}
    assert (ended["run"]["job"], ended["run"]["output"]) == ("weekly", "Good morning.")


OWN = str(Path(sys.executable).parent)


@pytest.mark.parametrize("command", ["up", "keeper"])
def test_what_is_started_finds_programs_beside_the_interpreter(
    daybook: Any, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    seen: list[str] = []

    async def started(_: object, **_options: object) -> None:
        seen.append(os.environ["PATH"])

    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(service_up, "up", started)
    monkeypatch.setattr(service_keeper, "run_keeper", started)
    assert daybook(command).code == 0
    assert seen == [f"{OWN}:/usr/bin:/bin"]


def test_so_does_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    from daybook.worker import __main__ as worker

    seen: list[str] = []

    async def working(*_: object) -> None:
        seen.append(os.environ["PATH"])

    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(worker, "_work", working)
    assert worker.main(["--pool", "daybook", "--name", "one"]) == 0
    assert seen == [f"{OWN}:/usr/bin:/bin"]


@pytest.mark.usefixtures("started")
@pytest.mark.parametrize(
    ("typed", "there", "opened"),
    [
        (["up"], {"terminal", "display"}, True),
        (["up"], {"display"}, False),
        (["up"], {"terminal"}, False),
        (["up", "--no-browser"], {"terminal", "display"}, False),
        (["up", "--json"], {"terminal", "display"}, False),
    ],
)
def test_up_opens_a_browser_only_where_somebody_would_see_it(
    daybook: Any,
    monkeypatch: pytest.MonkeyPatch,
    typed: list[str],
    there: set[str],
    opened: bool,
) -> None:
    seen: list[str] = []
    monkeypatch.setattr(webbrowser, "open", seen.append)
    monkeypatch.setattr(machine, "display_likely", lambda: "display" in there)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: "terminal" in there)
    assert daybook(*typed).code == 0
    assert seen == ([FACTS["open_url"]] if opened else [])


@pytest.mark.parametrize(
    ("platform", "variables", "likely"),
    [
        ("darwin", {}, True),
        ("linux", {}, False),
        ("linux", {"DISPLAY": ":0"}, True),
        ("linux", {"WAYLAND_DISPLAY": "wayland-0"}, True),
        ("linux", {"DISPLAY": ":10", "SSH_CONNECTION": "10.0.0.1 1 10.0.0.2 22"}, False),
    ],
)
def test_a_display_is_likely_on_a_desktop(
    monkeypatch: pytest.MonkeyPatch, platform: str, variables: dict[str, str], likely: bool
) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert machine.display_likely() is likely


SINCE = "2027-01-15T11:30:00Z"


@pytest.mark.parametrize("ran", [True, False])
def test_down_says_whether_something_ran(
    daybook: Any, monkeypatch: pytest.MonkeyPatch, ran: bool
) -> None:
    async def down() -> bool:
        return ran

    monkeypatch.setattr(service_up, "down", down)
    said = daybook("down", "--json")
    assert (said.code, said.json) == (0, {"stopped": ran})
    assert daybook("down").err == ("Stopped.\n" if ran else "Nothing was running.\n")


def test_status_shows_what_runs_what_is_due_and_what_is_wrong(
    daybook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {
        "ready": True,
        "prefect": {"reachable": True, "api_url": FACTS["api_url"], "ui_url": FACTS["ui_url"]},
        "worker": {
            "online": 1,
            "workers": [{"name": "here-1", "ours": True}, {"name": "there-2", "ours": False}],
        },
        "keeper": {
            "running": True,
            "holder": "here:4711:abc",
            "observed_at": "2027-01-15T11:59:50Z",
        },
        "ledger": {"place": FACTS["ledger"], "jobs": 2, "enabled": 1, "live": {"waiting": 3}},
        "outbox": {"pending": 2, "oldest_pending_at": SINCE, "failed": 1, "unread": 4},
        "tasks": {"queued": 2, "claimed": 0, "needs_attention": 1, "free": 0, "busy": 3},
        "due_soon": [{"job": "weekly", "due": "2027-01-15T12:00:00Z"}],
        "problems": ["weekly failed 2 times in a row: no answer"],
    }

    async def status() -> dict[str, Any]:
        return found

    monkeypatch.setattr(service_status, "status", status)
    said = daybook("status")
    assert said.code == 0
    assert said.out.startswith("ready\n")
    assert "worker    here-1\n            (another Daybook's: there-2)\n" in said.out
    assert "keeper    here:4711:abc, has observed Prefect at 2027-01-15 " in said.out
    assert re.search(r"outbox +2 pending, the oldest since 2027-01-1\d \d\d:30:00; 1 fai", said.out)
    assert "inbox     4 unread\n" in said.out
    assert "tasks     2 queued, 1 needs attention; sessions: 3 busy\n" in said.out
    for words in ("3 waiting", "weekly", "! weekly failed 2 times in a row: no answer"):
        assert words in said.out
    found["worker"] = {"online": 0, "workers": [{"name": "there-2", "ours": False}]}
    found["prefect"] = {"reachable": False, "api_url": FACTS["api_url"], "ui_url": None}
    found["ready"] = False
    found["keeper"] = {"running": False, "holder": "", "observed_at": None}
    said = daybook("status")
    assert "keeper    no leader\n" in said.out
    assert "worker    none online\n            (another Daybook's: there-2)\n" in said.out
    assert f"{FACTS['api_url']}, does not answer\n" in said.out
    found["prefect"] = {"reachable": False, "api_url": None, "ui_url": None}
    assert re.search(r"prefect +no server is known\n", daybook("status").out)
    assert daybook("status").out.startswith("not ready\n")
    said = daybook("status", "--json")
    assert (said.code, said.json) == (1, found)


def test_doctor_has_a_line_for_each_check_and_is_well_only_if_all_are(
    daybook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def finding(check: str, severity: str, problem: str = "", fix: str = "") -> dict[str, Any]:
        ok = severity in ("ok", "warning")
        given = {"severity": severity, "problem": problem, "fix": fix}
        return {"check": check, "ok": ok} | given

    found = [
        finding("versions", "ok"),
        finding("entry points", "warning", "it rains", "an umbrella"),
        finding("ui", "warning", "there is fog"),
    ]

    async def doctor() -> list[dict[str, Any]]:
        return found

    monkeypatch.setattr(service_doctor, "doctor", doctor)
    said = daybook("doctor")
    assert said.code == 0
    assert said.out.splitlines() == [
        "ok       versions",
        "warning  entry points  it rains; fix: an umbrella",
        "warning  ui            there is fog",
    ]
    found.append(finding("worker", "problem", "none", "daybook up"))
    found.append(finding("late", "skipped", "not checked, because it rains"))
    said = daybook("doctor")
    assert said.code == 1
    assert said.out.splitlines()[3:] == [
        "problem  worker        none; fix: daybook up",
        "skipped  late          not checked, because it rains",
    ]
    said = daybook("doctor", "--json")
    assert (said.code, said.json) == (1, found)


def test_sync_names_what_it_did(daybook: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    report = ReconcileReport(
        created=["a", "again"],
        remade=["again"],
        pulled=["b"],
        conflicts={"c": {"schedule": {}}},
        refused={"d": "no such zone"},
        foreign={"e": "a second schedule"},
        failed={"f": "too big"},
        unchanged=4,
    )

    async def everything(*_: Any) -> ReconcileReport:
        return report

    async def answers(*_: Any) -> None:
        pass

    monkeypatch.setattr(connection, "connected", nullcontext)
    monkeypatch.setattr(connection, "check_connection", answers)
    monkeypatch.setattr(reconcile, "reconcile_all", everything)
    said = daybook("sync")
    assert said.out.splitlines() == [
        "created in Prefect: a",
        "created in Prefect: again",
        "imported from Prefect: b",
        "missing in Prefect, created again: again",
        "changed on both sides, kept the ledger's values: c (schedule)",
        "edited in Prefect, not imported: d (no such zone)",
        "not reconciled: f (too big)",
        "left unchanged in Prefect: e (a second schedule)",
    ]
    assert said.err == "4 unchanged, 2 written to Prefect.\n"
    assert said.code == daybook("sync", "--json").code == 1
    report.failed.clear()
    assert daybook("sync").code == daybook("sync", "--json").code == 0
    told = {name: value for name, value in asdict(report).items() if name not in INNER}
    assert daybook("sync", "--json").json == {**told, "writes": 2}


def test_following_a_log_ends_some_looks_after_the_run(
    daybook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prefect gets the last lines late: they are shown although the run has ended."""
    looks = 0

    async def show(ref: str) -> dict[str, Any]:
        nonlocal looks
        looks += 1
        return {"id": ref, "status": "running" if looks < 3 else "succeeded"}

    async def logged(ref: str) -> dict[str, Any]:
        return {"id": f"the run of {ref}", "job_removed": False}

    async def logs(ref: str) -> AsyncIterator[dict[str, Any]]:
        assert ref == "the run of weekly"
        for number in range(min(looks, 5)):
            yield {"at": "2027-01-15T12:00:00Z", "level": 40, "message": f"line {number}"}

    monkeypatch.setattr(runs, "POLL_INTERVAL_SECONDS", 0.0)
    monkeypatch.setattr(service_runs, "show", show)
    monkeypatch.setattr(service_runs, "find_logged", logged)
    monkeypatch.setattr(service_runs, "logs", logs)
    shown = daybook("logs", "weekly", "--follow", "--json").out.splitlines()
    assert [json.loads(line)["message"] for line in shown] == [f"line {n}" for n in range(5)]
    assert looks == 5 + runs.MAX_EMPTY_POLLS
    said = daybook("logs", "weekly")
    assert [line.split(" ", 2)[2] for line in said.out.splitlines()] == [
        f"ERROR   line {n}" for n in range(5)
    ]
