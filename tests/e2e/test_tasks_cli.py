"""Tasks on the command line in real processes: claim, tokens, drain. No Prefect is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from daybook.home import Home
from tests.at_prefect import typed

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

DAYBOOK = [sys.executable, "-m", "daybook", "task"]
Task = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def task(daybook_home: Home) -> Task:
    """Return a function that runs `daybook task` with arguments, standard input and variables."""

    def run(*tokens: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*DAYBOOK, *tokens],
            input=stdin,
            capture_output=True,
            text=True,
            env=os.environ | variables,
            check=False,
        )

    return run


def printed(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.floor("D", "A command line adds, claims, renews and completes tasks")
@pytest.mark.journey
def test_a_task_is_added_claimed_renewed_and_completed_with_its_token(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run the commands in this process: the other tests here cover processes."""

    def task(*tokens: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            return typed("task", *tokens, given=stdin)

    made = printed(task("add", "Review", "--capability", "python", "--json"))
    assert task("next", "--session", "alpha").returncode == 3  # no such session
    printed(task("session", "register", "alpha", "--capability", "python", "--json"))
    claim = task("next", "--session", "alpha", "--lease", "60s", "--json")
    found = printed(claim)
    assert found["run_id"] == made["run_id"] and claim.stderr == ""
    assert task("next", "--session", "alpha").returncode == 3
    run, token = found["run_id"], found["token"]

    nobody = task("complete", run)
    assert (nobody.returncode, nobody.stdout) == (2, "")
    assert "DAYBOOK_TASK_TOKEN" in nobody.stderr
    beat = task("heartbeat", run, "--lease", "5m", "--json", DAYBOOK_TASK_TOKEN=token)
    assert printed(beat)["lease_until"] > found["lease_until"]
    done = task("complete", run, "--output", "two remarks", "--json", stdin=f"{token}\n")
    assert printed(done)["status"] == "completed"
    again = task("complete", run, DAYBOOK_TASK_TOKEN=token)
    assert (again.returncode, again.stdout) == (2, "")
    assert not [each for each in (nobody, beat, done, again) if token in each.stdout + each.stderr]


def test_of_five_processes_that_claim_two_task_runs_two_get_one_each(task: Task) -> None:
    for number in range(5):
        printed(task("session", "register", f"s{number}", "--json"))
    runs = {printed(task("add", title, "--json"))["run_id"] for title in ("a", "b")}
    with ThreadPoolExecutor(5) as pool:
        done = list(pool.map(lambda n: task("next", "--session", f"s{n}", "--json"), range(5)))
    won = [json.loads(each.stdout) for each in done if each.returncode == 0]
    lost = [json.loads(each.stdout) for each in done if each.returncode == 3]
    assert {each["run_id"] for each in won} == runs and len(won) == 2
    assert [each["error"]["code"] for each in lost] == ["nothing_claimable"] * 3
    assert len({each["token"] for each in won}) == 2


@pytest.mark.floor("D", "A command line pauses the scheduler and drains it")
def test_a_drain_waits_for_claimed_runs_and_allows_no_new_claim(task: Task) -> None:
    for name in ("alpha", "beta"):
        printed(task("session", "register", name, "--json"))
        printed(task("add", f"for {name}", "--owner", f"session:{name}", "--json"))
    held = printed(task("next", "--session", "alpha", "--json"))
    with subprocess.Popen(
        [*DAYBOOK, "scheduler", "drain", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as drain:
        assert drain.stderr is not None
        assert "Waiting for for alpha (alpha, until" in drain.stderr.readline()
        late = task("next", "--session", "beta")
        assert late.returncode == 3 and "paused: draining" in late.stderr
        assert drain.poll() is None
        short = task("scheduler", "drain", "--timeout", "1s", "--json")
        assert short.returncode == 1
        assert [each["session"] for each in json.loads(short.stdout)["left"]] == ["alpha"]
        printed(task("complete", held["run_id"], "--json", DAYBOOK_TASK_TOKEN=held["token"]))
        out, _ = drain.communicate()
    assert drain.returncode == 0
    assert json.loads(out)["drained"] is True
    assert task("next", "--session", "beta").returncode == 3  # until the scheduler is resumed
    printed(task("scheduler", "resume", "--json"))
    assert printed(task("next", "--session", "beta", "--json"))["task"]["title"] == "for beta"
