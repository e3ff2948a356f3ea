"""The output of `up`, `down`, `status`, `doctor`, `sync` and `logs`, with fake services."""

from __future__ import annotations

import json
import os
import re
import sys
import webbrowser
from collections.abc import AsyncIterator
from contextlib import nullcontext
from dataclasses import asdict
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import segno

from daybook import finding
from daybook.api import runs as service_runs
from daybook.api.sync import SyncReport
from daybook.cli import machine, runs
from daybook.clock import SYSTEM_CLOCK
from daybook.delivery.views import RunDetails
from daybook.diagnosis import doctor as service_doctor
from daybook.diagnosis import status as service_status
from daybook.features.tasks.status import QueueStatus
from daybook.finding import Finding
from daybook.ledger.views import Run
from daybook.operations import browser as browsers
from daybook.operations import keeper as service_keeper
from daybook.operations import preload, preparation
from daybook.operations import up as service_up
from daybook.operations.browser import LoginLink
from daybook.prefect import client as connection
from daybook.prefect import reconcile, work_pool
from daybook.prefect.report import ReconcileReport
from daybook.processes.image import Image
from tests.unit.cli.conftest import MADE
from tests.unit.conftest import view

pytestmark = pytest.mark.usefixtures("stored")

FACTS = {
    "api_url": "http://127.0.0.1:4200/api",
    "ui_url": "http://127.0.0.1:4200",
    "open_url": "http://127.0.0.1:4280/daybook/login?token=once",
    "prefect_open_url": "http://127.0.0.1:4200/daybook/login?token=once",
    "web_url": "http://127.0.0.1:4280",
    "ledger": "sqlite+aiosqlite:////home/ledger.db",
    "jobs": 1,
    "example": "first-light",
    "model_steps": [["ask a model", "daybook agents add default --replace --model x"]],
    "started_by": "",
}

SYNCED = ReconcileReport(
    created=["again"],
    remade=["again"],
    conflicts={"c": {"schedule": {}}},
    refused={"d": "no such zone"},
    failed={"f": "too big"},
)


INNER = ("observed", "left")
"""What a report says to the keeper, and to no other process."""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace `up` by one that is ready at once, reports two outcomes, and ends."""

    async def up(
        talk: service_up.UpReporter,
        *,
        link: bool = True,
        started_by: preparation.StartedBy = "",
        forked_from: Image | None = None,
    ) -> None:
        talk.say("Starting the worker")
        talk.synced(SyncReport.of(SYNCED))
        talk.synced(SyncReport.of(ReconcileReport(unchanged=3)))
        talk.ready(preparation.UpFacts.model_validate({**FACTS, "started_by": started_by}))
        (run,) = await service_runs.history("weekly")
        ended = run.model_copy(update={"status": "succeeded", "output": "Good morning."})
        talk.outcome(ended)
        talk.outcome(ended.model_copy(update={"job": None, "output": "By a script."}))

    monkeypatch.setattr(service_up, "up", up)
    monkeypatch.setattr(preload, "fork_image", lambda: None)
    monkeypatch.setattr(service_up, "detach", partial(up, started_by="detach"))


@pytest.mark.usefixtures("started")
def test_up_prints_its_steps_the_addresses_and_each_answer(daybook: Any) -> None:
    result = daybook("up", "--no-browser")
    assert result.code == 0
    assert result.err.splitlines()[:6] == [
        "Starting the worker",
        "Synced with Prefect: 1 created, 0 updated, 0 imported, 0 removed",
        "! missing in Prefect, recreated: again",
        "! changed on both sides, kept the ledger's values: c (schedule)",
        "! edited in Prefect, not imported: d (no such zone)",
        "! not reconciled: f (too big)",
    ]
    assert result.err.splitlines()[6].startswith("Running the example job")
    assert "http://127.0.0.1:4200/daybook/login?token=once\n" in result.out
    assert "http://127.0.0.1:4280/health\n" in result.out
    assert "weekly: succeeded" in result.out
    assert "\n  Good morning.\n" in result.out


@pytest.mark.usefixtures("started")
def test_up_lists_next_steps_after_the_answer_of_the_example(
    daybook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "program_name", lambda: ".venv/bin/daybook")
    monkeypatch.setitem(FACTS, "example", "weekly")
    result = daybook("up", "--no-browser", "--detach")
    assert result.code == 0
    answer, following = result.out.partition("\nNext:\n")[::2]
    assert "Prefect UI" in answer and answer.endswith("\n  Good morning.")
    assert "Next:" not in following
    commands = [line.split("  ")[-1].strip() for line in following.splitlines()[:3]]
    assert [line.split()[:2] for line in commands] == [
        [".venv/bin/daybook", "agents"],
        [".venv/bin/daybook", "add"],
        [".venv/bin/daybook", "runs"],
    ]


@pytest.mark.usefixtures("started")
@pytest.mark.parametrize(("jobs", "is_shown"), [(1, True), (2, False)])
def test_without_an_example_up_lists_next_steps_until_the_user_adds_a_job(
    daybook: Any, monkeypatch: pytest.MonkeyPatch, jobs: int, is_shown: bool
) -> None:
    monkeypatch.setitem(FACTS, "example", None)
    monkeypatch.setitem(FACTS, "jobs", jobs)
    assert ("\nNext:\n" in daybook("up", "--no-browser").out) is is_shown


@pytest.mark.parametrize("words", [command.split()[1:3] for _, command in machine.NEXT_STEPS])
def test_each_next_step_is_an_existing_command(daybook: Any, words: list[str]) -> None:
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
def test_program_name_is_the_shortest_form_that_works_here(
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
def test_up_json_prints_one_line_of_json_per_event(daybook: Any) -> None:
    ready, ended, _ = map(json.loads, daybook("up", "--json").out.splitlines())
    assert ready == {"ready": FACTS}
    assert (ended["run"]["job"], ended["run"]["output"]) == ("weekly", "Good morning.")


OWN = str(Path(sys.executable).parent)


@pytest.mark.parametrize("command", ["up", "keeper"])
def test_up_and_keeper_add_the_folder_of_the_interpreter_to_path(
    daybook: Any, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    urls: list[str] = []

    async def started(*_: object, **_options: object) -> None:
        urls.append(os.environ["PATH"])

    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(service_up, "up", started)
    monkeypatch.setattr(service_keeper, "run_keeper", started)
    assert daybook(command).code == 0
    assert urls == [f"{OWN}:/usr/bin:/bin"]


def test_a_worker_adds_the_folder_of_the_interpreter_to_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from daybook.worker import __main__ as worker

    urls: list[str] = []

    async def working(*_: object) -> None:
        urls.append(os.environ["PATH"])

    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setattr(worker, "_work", working)
    assert worker.main(["--pool", "daybook", "--name", "one"]) == 0
    assert urls == [f"{OWN}:/usr/bin:/bin"]


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
def test_up_opens_a_browser_only_on_a_terminal_with_a_display(
    daybook: Any,
    monkeypatch: pytest.MonkeyPatch,
    typed: list[str],
    there: set[str],
    opened: bool,
) -> None:
    urls: list[str] = []
    monkeypatch.setattr(webbrowser, "open", urls.append)
    monkeypatch.setattr(machine, "display_likely", lambda: "display" in there)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: "terminal" in there)
    assert daybook(*typed).code == 0
    assert urls == ([FACTS["open_url"]] if opened else [])


@pytest.mark.parametrize(
    ("typed", "there", "is_public"),
    [
        (["open"], {"terminal", "display"}, False),
        (["open"], {"terminal"}, True),
        (["open", "--no-browser"], {"terminal", "display"}, True),
        (["open", "--json"], {"terminal", "display"}, True),
    ],
)
@pytest.mark.parametrize("public_url", ["", "https://daybook.example.org"])
def test_open_opens_a_link_of_this_machine_and_prints_one_for_the_public_url(
    daybook: Any,
    monkeypatch: pytest.MonkeyPatch,
    *,
    public_url: str,
    typed: list[str],
    there: set[str],
    is_public: bool,
) -> None:
    """The link that a browser gets as an argument is checked for the user who opens it."""
    requested, urls = list[bool](), list[str]()

    async def link(*, is_public: bool) -> LoginLink:
        requested.append(is_public)
        return LoginLink(url="http://127.0.0.1:4280/daybook/login?token=x", expires_in_seconds=600)

    monkeypatch.setenv("DAYBOOK_PUBLIC_URL", public_url)

    def opened(url: str) -> bool:
        urls.append(url)
        return True

    monkeypatch.setattr(browsers, "link", link)
    monkeypatch.setattr(webbrowser, "open", opened)
    monkeypatch.setattr(machine, "display_likely", lambda: "display" in there)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: "terminal" in there)
    assert daybook(*typed).code == 0
    assert requested == [is_public and public_url != ""]
    assert len(urls) == (0 if is_public else 1)


def test_a_shared_link_is_printed_once_and_revoked_as_a_token(daybook: Any) -> None:
    created = daybook("open", "--share", "hall")
    assert created.code == 0
    (url,) = created.out.splitlines()
    assert url.startswith("http://127.0.0.1:4280/daybook/login?token=dbview_")
    assert "daybook tokens remove hall" in created.err
    listed = daybook("tokens", "list")
    assert ("hall" in listed.out, "viewer" in listed.out) == (True, True)
    assert url.partition("=")[2] not in listed.out
    assert daybook("open", "--share", "hall").code == 2
    assert daybook("open", "--share", "other", "--prefect").code == 2
    assert daybook("tokens", "remove", "hall").code == 0
    assert "hall" not in daybook("tokens", "list").out


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
def test_down_says_whether_it_stopped_anything(
    daybook: Any, monkeypatch: pytest.MonkeyPatch, ran: bool
) -> None:
    async def down() -> bool:
        return ran

    monkeypatch.setattr(service_up, "down", down)
    result = daybook("down", "--json")
    assert (result.code, result.json) == (0, {"stopped": ran})
    assert daybook("down").err == ("Stopped.\n" if ran else "Nothing was running.\n")


def test_status_prints_services_counts_due_times_and_problems(
    daybook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    there: dict[str, Any] = {"name": "there-2", "last_heartbeat": None, "ours": False}
    prefect = {"api_url": FACTS["api_url"], "ui_url": FACTS["ui_url"], "own": True}
    found: dict[str, Any] = {
        "ready": True,
        "prefect": {"reachable": True, **prefect, "version": "3.8.8"},
        "worker": {
            "online": 1,
            "workers": [{"name": "here-1", "last_heartbeat": SINCE, "ours": True}, there],
        },
        "keeper": {
            "running": True,
            "holder": "here:4711:abc",
            "until": "2027-01-15T12:00:20Z",
            "observed_at": "2027-01-15T11:59:50Z",
            "passes": {},
        },
        "ledger": {
            "place": FACTS["ledger"],
            "id": "0123456789ab",
            "jobs": 2,
            "enabled": 1,
            "live": {"waiting": 3, "running": 0},
        },
        "outbox": {
            "pending": 2,
            "oldest_pending_at": SINCE,
            "in_flight": 0,
            "failed": 1,
            "paused": [],
            "unread": 4,
            "unread_alerts": 0,
        },
        "tasks": {
            **{"claimed": 0, "needs_attention": 1, "queued": 2, "oldest_seconds": 1.5},
            **{"starving": 0, "attention": 1, "free": 0, "busy": 3, "paused": False},
        },
        "due_soon": [{"job": "weekly", "due": "2027-01-15T12:00:00Z"}],
        "late": [],
        "maintenance": [],
        "problems": [
            finding.warning("jobs", "weekly failed 2 times in a row: no answer").model_dump()
        ],
    }

    async def status() -> service_status.StatusReport:
        tasks = QueueStatus.model_validate(found["tasks"])
        return service_status.StatusReport.model_validate({**found, "tasks": tasks})

    monkeypatch.setattr(service_status, "status", status)
    result = daybook("status")
    assert result.code == 0
    assert result.out.startswith("ready\n")
    assert "worker    here-1\n            (of another Daybook: there-2)\n" in result.out
    assert re.search(r"keeper +here:4711:abc, last observed Prefect (in )?\d+ ", result.out)
    assert re.search(r"outbox +2 pending, the oldest from .*; 1 fai", result.out)
    assert re.search(r"due soon +.*\d+ days( ago)?  weekly\n", result.out)
    absolute = daybook("status", "--absolute").out
    assert "here:4711:abc, last observed Prefect 2027-01-15 " in absolute
    assert re.search(r"the oldest from 2027-01-1\d \d\d:30:00; 1 fai", absolute)
    assert re.search(r"due soon +2027-01-1\d \d\d:\d\d:00  weekly\n", absolute)
    assert re.search(r"times in +\w+", absolute)
    assert "inbox     4 unread\n" in result.out
    assert "tasks     2 queued, 1 needs attention; sessions: 3 busy\n" in result.out
    for words in ("3 waiting", "weekly", "! weekly failed 2 times in a row"):
        assert words in result.out
    found["worker"] = {"online": 0, "workers": [there]}
    found["prefect"] |= {"reachable": False, "ui_url": None, "version": None}
    found["ready"] = False
    found["keeper"] |= {"running": False, "holder": "", "until": None, "observed_at": None}
    result = daybook("status")
    assert "keeper    no leader\n" in result.out
    assert "worker    none online\n            (of another Daybook: there-2)\n" in result.out
    assert f"{FACTS['api_url']} does not answer\n" in result.out
    found["prefect"]["api_url"] = None
    assert re.search(r"prefect +no server is known\n", daybook("status").out)
    assert daybook("status").out.startswith("not ready\n")
    window = {"id": "5f0c", "begin": "2027-01-15T11:00:00Z", "end": "2027-01-15T13:00:00Z"}
    found["maintenance"].append(window | {"note": "new disks", "active": True})
    assert re.search(r"maintenance +from .* until .*: new disks\n", daybook("status").out)
    result = daybook("status", "--json")
    assert (result.code, result.json) == (1, found)


def test_doctor_prints_a_line_per_check_and_exits_with_1_on_a_problem(
    daybook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [
        finding.passed("versions", "prefect 3.8.8"),
        finding.warning("entry points", "it rains", "an umbrella"),
        finding.warning("ui", "there is fog"),
    ]

    async def doctor(pool: str = "") -> list[Finding]:
        return found

    monkeypatch.setattr(service_doctor, "doctor", doctor)
    result = daybook("doctor")
    assert result.code == 0
    assert result.out.splitlines() == [
        "warning  entry points  it rains; fix: an umbrella",
        "warning  ui            there is fog",
    ]
    assert result.err == "1 check found no problem; `daybook doctor -v` lists them.\n"
    result = daybook("doctor", "-v")
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines() == [
        "ok       versions      prefect 3.8.8",
        "warning  entry points  it rains; fix: an umbrella",
        "warning  ui            there is fog",
    ]
    found.append(finding.problem("worker", "none", "daybook up"))
    found.append(finding.skipped("late", "it rains"))
    result = daybook("doctor", "--verbose")
    assert result.code == 1
    assert result.out.splitlines()[3:] == [
        "problem  worker        none; fix: daybook up",
        "skipped  late          not checked, because it rains",
    ]
    result = daybook("doctor", "--json")
    assert (result.code, result.json) == (1, [each.model_dump() for each in found])
    assert result.json[1] == {
        "check": "entry points",
        "severity": "warning",
        "title": "it rains",
        "why": "",
        "fix": "an umbrella",
        "kind": "",
        "job_id": None,
        "run_id": None,
        "action": None,
        "ok": True,
    }


def test_sync_prints_each_change_and_exits_with_1_on_a_failure(
    daybook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    monkeypatch.setattr(work_pool, "ensure", answers)
    result = daybook("sync")
    assert result.out.splitlines() == [
        "created in Prefect: a",
        "created in Prefect: again",
        "imported from Prefect: b",
        "missing in Prefect, recreated: again",
        "changed on both sides, kept the ledger's values: c (schedule)",
        "edited in Prefect, not imported: d (no such zone)",
        "not reconciled: f (too big)",
        "left unchanged in Prefect: e (a second schedule)",
    ]
    assert result.err == "4 unchanged, 2 written to Prefect.\n"
    assert result.code == daybook("sync", "--json").code == 1
    report.failed.clear()
    assert daybook("sync").code == daybook("sync", "--json").code == 0
    counts = {name: value for name, value in asdict(report).items() if name not in INNER}
    assert daybook("sync", "--json").json == {**counts, "writes": 2}


def test_logs_follow_polls_a_few_more_times_after_the_run_has_ended(
    daybook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that log lines which reach Prefect after the end of the run are printed."""
    looks, ended_at = 0, cast("datetime | None", None)

    async def show(ref: str) -> RunDetails:
        nonlocal looks
        looks += 1
        ended = None if looks < 3 else (ended_at or SYSTEM_CLOCK.now())
        status = "running" if looks < 3 else "succeeded"
        return view(RunDetails, id=ref, status=status, finished_at=ended)

    async def logged(ref: str) -> Run:
        return view(Run, id=f"the run of {ref}", job=None, job_removed=False)

    async def logs(ref: str) -> AsyncIterator[service_runs.LogLine]:
        assert ref == "the run of weekly"
        for number in range(min(looks, 5)):
            yield service_runs.LogLine(at=MADE, level=40, message=f"line {number}")

    monkeypatch.setattr(runs, "POLL_INTERVAL_SECONDS", 0.0)
    monkeypatch.setattr(service_runs, "show", show)
    monkeypatch.setattr(service_runs, "find_logged", logged)
    monkeypatch.setattr(service_runs, "logs", logs)
    shown = daybook("logs", "weekly", "--follow", "--json").out.splitlines()
    assert [json.loads(line)["message"] for line in shown] == [f"line {n}" for n in range(5)]
    assert looks == 5 + runs.MAX_EMPTY_POLLS
    ended_at = SYSTEM_CLOCK.now() - runs.LATEST_LINE - timedelta(seconds=1)
    assert len(daybook("logs", "weekly", "--follow", "--json").out.splitlines()) == 5
    assert looks == 6 + runs.MAX_EMPTY_POLLS
    result = daybook("logs", "weekly")
    assert [line.split(" ", 2)[2] for line in result.out.splitlines()] == [
        f"ERROR   line {n}" for n in range(5)
    ]


def test_open_for_a_phone_prints_a_qr_code_or_what_it_needs(
    daybook: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "https://daybook.example.org/daybook/login?token=x"

    async def link(*, is_public: bool) -> LoginLink:
        assert is_public
        return LoginLink(url=url, expires_in_seconds=600)

    monkeypatch.setattr(browsers, "link", link)
    monkeypatch.setattr(webbrowser, "open", pytest.fail)
    refused = daybook("open", "--phone")
    assert refused.code == 2
    assert "DAYBOOK_PUBLIC_URL" in refused.err and "phone.md" in refused.err
    monkeypatch.setenv("DAYBOOK_PUBLIC_URL", "https://daybook.example.org")
    printed = daybook("open", "--phone")
    *code, last = printed.out.splitlines()
    assert (printed.code, last) == (0, url)
    modules = int(segno.make(url, error="l", micro=False).symbol_size(border=2)[0])
    assert {len(each) for each in code} == {modules} and len(code) == -(-modules // 2)
    assert code[0] == "█" * modules  # the margin is light
    assert code[1].startswith("██ ▄▄▄▄▄ █")  # the first corner's mark
    assert daybook("open", "--phone", "--prefect").code == 2
