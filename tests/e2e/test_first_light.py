"""The main use of Daybook: `daybook up`, real programs as agents, schedules, and Prefect's UI."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from daybook.processes import proc
from tests.e2e.first_light import Up

REPOSITORY = Path(__file__).parents[2]
CHROMIUM = "/usr/bin/chromium"
DAYBOOK = f"{sys.executable} -m daybook"
PREFECT = f"{sys.executable} -m prefect"

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    # In an empty folder, so that no file of the checkout is found by accident.
    running = Up(tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("empty"))
    try:
        yield running
    finally:
        running.end()


@pytest.fixture(scope="module")
def git_agent(up: Up, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Add an agent that runs `git log` in this checkout, or else in a new repository."""
    folder = REPOSITORY
    if not (REPOSITORY / ".git").exists():
        folder = tmp_path_factory.mktemp("repository")
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
        commit = ["git", *identity, "commit", "-q", "--allow-empty", "-m", "The first commit"]
        subprocess.run(commit, cwd=folder, check=True)
    _ready(up)
    up.daybook_json("agents", "add", "git-log", "--command", f"git -C {folder} log -3 --format=%s")
    return "git-log"


def _ready(up: Up) -> None:
    up.until(lambda lines: any(line.startswith("Ready") for line in lines), within=120)


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _looked_at_since(up: Up, instant: datetime) -> bool:
    """Return whether the keeper has observed all jobs since that instant."""
    observed = up.daybook_json("status")["keeper"]["observed_at"]
    return observed is not None and _instant(observed) > instant


def _prefect(up: Up, method: str, path: str, **content: Any) -> Any:
    url = up.facts()["api_url"] + path
    answer = httpx.request(method, url, auth=up.auth(), trust_env=False, timeout=30, **content)
    answer.raise_for_status()
    return answer.json() if answer.content else None


@pytest.mark.journey
def test_up_prints_the_example_jobs_first_outcome_within_a_minute(up: Up) -> None:
    _ready(up)
    lines = up.until(lambda _: bool(up.outcomes("first-light")), within=60)
    assert "succeeded" in up.outcomes("first-light")[0]
    address = str(up.facts()["ui_url"])
    assert any(address in line for line in lines)
    (run,) = up.daybook_json("runs", "first-light")
    assert (run["status"], run["trigger"], run["attempts"]) == ("succeeded", "manual", 1)
    assert "no model is configured" in run["output"]
    flow_run = _prefect(up, "GET", f"/flow_runs/{run['flow_run_id']}")
    assert flow_run["state"]["name"] == "Completed"


def test_interval_cron_and_one_time_jobs_run_once_for_each_due_time(up: Up, git_agent: str) -> None:
    ask = ["add", "Summarise the git log", "--agent", git_agent]
    every = up.daybook_json(*ask, "--name", "by-interval", "--every", "15s")
    cron = up.daybook_json(*ask, "--name", "by-cron", "--cron", "*/15 * * * * *")
    once = up.daybook_json(*ask, "--name", "by-time", "--at", "in 20s")
    promised = {job["name"]: job["next_due"] for job in (every, cron, once)}
    assert len(promised["by-time"]) == 1

    def enough(_: list[str]) -> bool:
        counts = [len(up.outcomes(name)) for name in ("by-interval", "by-cron", "by-time")]
        return counts[0] >= 3 and counts[1] >= 3 and counts[2] >= 1

    up.until(enough, within=150)
    for name in ("by-interval", "by-cron"):
        up.daybook_json("pause", name)
    subjects = subprocess.run(
        up.daybook_json("agents", "show", git_agent)["settings"]["command"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for name, due_times in promised.items():
        # A due time may have passed between the job's creation and the answer of `add`.
        runs = [
            run
            for run in reversed(up.daybook_json("runs", name))
            if _instant(run["scheduled_for"]) >= _instant(due_times[0])
        ]
        first = runs[: len(due_times)][:3]
        # Each run belongs to its due time, in order; none is missing, none early.
        assert [_instant(run["scheduled_for"]) for run in first] == [
            _instant(due) for due in due_times[: len(first)]
        ]
        for run in first:
            assert (run["status"], run["trigger"]) == ("succeeded", "schedule")
            assert run["output"].strip() == subjects.strip()
            assert _instant(run["started_at"]) >= _instant(run["scheduled_for"])
            flow_run = _prefect(up, "GET", f"/flow_runs/{run['flow_run_id']}")
            assert flow_run["state"]["type"] == "COMPLETED"
            assert _instant(flow_run["expected_start_time"]) == _instant(run["scheduled_for"])
    shown = up.daybook_json("show", "by-time")
    assert (shown["enabled"], shown["disabled_reason"]) == (False, "fired, succeeded")
    assert len(up.daybook_json("runs", "by-time")) == 1
    deployment = _prefect(up, "GET", f"/deployments/name/{shown['deployment']}")
    assert deployment["paused"] is True


def test_a_schedule_edited_in_the_ui_applies_from_its_next_run(up: Up, git_agent: str) -> None:
    job = up.daybook_json(
        "add", "What is new?", "--agent", git_agent, "--name", "edited", "--cron", "0 0 1 1 *"
    )
    # A pass of the keeper that began before could overwrite the edit with the new job's schedule.
    made_at = datetime.now(UTC)  # noqa: TID251 - a later pass finds both sides equal
    while not _looked_at_since(up, made_at):
        pass
    path = f"/deployments/name/{job['deployment']}"
    deployment = _prefect(up, "GET", path)
    (schedule,) = deployment["schedules"]
    # Prefect's cron has the seconds last: every ten seconds.
    edit = {"schedule": {"cron": "* * * * * */10", "timezone": "Asia/Tokyo"}, "active": True}
    edited_at = datetime.now(UTC)  # noqa: TID251 - the test is the user at the UI
    own = f"/deployments/{deployment['id']}/schedules/{schedule['id']}"
    _prefect(up, "PATCH", own, json=edit)
    _prefect(up, "POST", f"/deployments/{deployment['id']}/schedule", json={})
    up.until(lambda _: bool(up.outcomes("edited")), within=60)
    up.daybook_json("pause", "edited")
    run = up.daybook_json("runs", "edited")[-1]
    assert (run["status"], run["trigger"]) == ("succeeded", "schedule")
    due = _instant(run["scheduled_for"])
    assert due.second % 10 == 0
    assert edited_at - timedelta(seconds=1) < due
    shown = up.daybook_json("show", "edited")
    assert shown["schedule"]["expr"] == "*/10 * * * * *"
    assert shown["schedule"]["timezone"] == "Asia/Tokyo"


@pytest.mark.skipif(shutil.which(CHROMIUM) is None, reason="service absent: chromium")
def test_prefects_ui_shows_the_job_its_schedule_and_its_run(up: Up) -> None:
    from playwright.sync_api import expect, sync_playwright

    _ready(up)
    up.until(lambda _: bool(up.outcomes("first-light")), within=60)
    ui = up.facts()["ui_url"]
    shown = up.daybook_json("show", "first-light")
    deployment = _prefect(up, "GET", f"/deployments/name/{shown['deployment']}")
    run = up.daybook_json("runs", "first-light")[0]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        asked = set[str]()
        page.on("request", lambda request: asked.add(urlsplit(request.url).hostname or ""))
        # The links that `up` printed log one browser in without a password, and a second one not.
        words = [word for line in up.lines for word in line.split()]
        own_link, link = [word for word in words if "?token=" in word]
        page.goto(own_link)
        expect(page.get_by_role("heading", name="Today")).to_be_visible()
        page.goto(f"{up.facts()['web_url']}/runs/{run['id']}")
        page.get_by_role("link", name="Show the log").click()
        expect(page.locator("ol.log")).to_contain_text("succeeded", timeout=60_000)
        page.goto(link)
        expect(page.get_by_role("link", name="Deployments").first).to_be_visible(timeout=30_000)
        other = browser.new_context().new_page()
        other.goto(link)
        expect(other.get_by_text("This link has been used")).to_be_visible()
        other.goto(up.daybook_json("open", "--prefect", "--no-browser")["url"])
        expect(other.get_by_role("link", name="Deployments").first).to_be_visible(timeout=30_000)
        page.goto(f"{ui}/deployments/deployment/{deployment['id']}")
        expect(page.get_by_text("At 09:00 AM every day").first).to_be_visible(timeout=30_000)
        page.goto(f"{ui}/runs/flow-run/{run['flow_run_id']}")
        expect(page.get_by_text("Completed").first).to_be_visible(timeout=30_000)
        page.goto(f"{ui}/deployments/deployment/{deployment['id']}/run")
        expect(page.get_by_text("Prompt for the agent.").first).to_be_visible(timeout=30_000)
        assert asked - {""} == {"127.0.0.1"}  # the UI sends no telemetry
        browser.close()


def test_a_shell_prepared_by_daybook_env_runs_prefects_own_commands(up: Up) -> None:
    _ready(up)
    deployment = up.daybook_json("show", "first-light")["deployment"]
    done = up.shell(
        f'eval "$({DAYBOOK} env)" && {PREFECT} deployment ls && '
        f"{PREFECT} deployment run {deployment} --watch"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "first-light" in done.stdout
    assert "telemetry" not in (done.stdout + done.stderr).lower()
    refused = up.shell(f'eval "$({DAYBOOK} env)" && PREFECT_API_AUTH_STRING=a:b {DAYBOOK} list')
    assert refused.returncode == 0  # Daybook knows the credential of its own server


def test_no_process_or_agent_has_the_credential_in_its_environment(up: Up) -> None:
    """The tests run as root, which may read files that the same user may not."""
    _ready(up)
    spy = "env; tr '\\0' '\\n' < /proc/$PPID/environ; tr '\\0' '\\n' < /proc/$PPID/cmdline"
    up.daybook_json("agents", "add", "spy", "--command", shlex.join(["sh", "-c", spy]))
    up.daybook_json("add", "Look around", "--agent", "spy", "--name", "spying", "--on-demand")
    output = up.daybook_json("run", "spying", "--wait")["output"]
    assert "PATH=" in output
    _, secret = up.auth()
    assert "PREFECT_API_AUTH_STRING" not in output
    assert secret not in output
    head = proc.find(up.process.pid)
    assert head is not None
    family = proc.process_tree(head)
    assert len(family) >= 5  # up, server, web, worker, and the run launcher
    for each in family:
        folder = Path(f"/proc/{each.pid}")
        for file in ("cmdline", "environ"):
            with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
                assert secret.encode() not in (folder / file).read_bytes(), each
    for log in (up.home / "logs").iterdir():
        assert secret not in log.read_text(errors="replace")
    all_output = up.shell(f"{DAYBOOK} status; {DAYBOOK} doctor; {DAYBOOK} status --json")
    assert secret not in all_output.stdout + all_output.stderr
    assert secret not in "\n".join(up.lines)
    found = list(up.home.rglob("*telemetry*"))
    assert found == []  # Prefect has stored no device id


@pytest.mark.journey
def test_down_stops_up_and_all_its_child_processes(up: Up) -> None:
    up.until(lambda lines: any(line.startswith("Health: ") for line in lines), within=120)
    facts = up.facts()
    children = [proc.find(each["pid"], each["started"]) for each in facts["children"]]
    names = {each["name"] for each in facts["children"]}
    assert names - {"command server"} == {"server", "web", "worker"}
    assert all(children)
    up.daybook_json("down")
    assert up.process.wait(30) == 0
    for each in facts["children"]:
        assert proc.find(each["pid"], each["started"]) is None
    assert not (up.home / "up.json").exists()
