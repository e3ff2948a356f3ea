"""The checks together: in which order, and what becomes of one that fails itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from daybook.home import Home
from daybook.operations import doctor
from daybook.operations.findings import Finding, problem, warning
from tests.unit.operations.checks.test_installation import installed

pytestmark = pytest.mark.anyio


def of(found: list[dict[str, Any]], check: str) -> list[dict[str, Any]]:
    return [each for each in found if each["check"] == check]


@pytest.fixture
def nowhere(daybook_home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    """A home with a Prefect configured that does not answer."""
    monkeypatch.setattr(doctor, "PREFECT_CHECKS", ())
    # Not the session's server, which an earlier test may have started.
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        yield daybook_home


async def test_each_check_is_told_and_what_is_sound_has_no_mend(nowhere: Home) -> None:
    found = await doctor.doctor()
    assert [each["check"] for each in found] == [
        "versions",
        "entry points",
        "worker imports",
        "settings",
        "plugins",
        "home",
        "modes",
        "leftovers",
        "outcomes",
        "ledger",
        "ledger key",
        "sync",
        "jobs",
        "leases",
        "one prefect",
        "ledger clock",
        "outbox",
        "tasks",
        "prefect",
    ]
    for each in found[:-1]:
        assert (each["ok"], each["problem"], each["fix"]) == (True, "", "")
    assert (found[-1]["ok"], bool(found[-1]["fix"])) == (False, True)


async def test_open_modes_are_seen_before_they_are_mended(
    nowhere: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere.path.chmod(0o755)
    (modes,) = of(await doctor.doctor(), "modes")
    assert not modes["ok"]
    assert modes["fix"] == f"chmod 700 {nowhere.path}"


async def test_a_check_that_fails_itself_hides_no_other(
    nowhere: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> list[Finding]:
        raise ModuleNotFoundError("No module named 'cyclops'")

    async def sound() -> list[Finding]:
        return []

    monkeypatch.setattr(doctor, "LOCAL_CHECKS", (("first", broken), ("second", sound)))
    found = await doctor.doctor()
    assert "ModuleNotFoundError: No module named 'cyclops'" in of(found, "first")[0]["problem"]
    assert not of(found, "first")[0]["ok"]
    assert of(found, "second")[0]["ok"]


async def test_a_harmless_problem_is_told_and_ok(
    nowhere: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told() -> list[Finding]:
        return [
            warning("weather", "it rains", "an umbrella"),
            problem("weather", "it burns", "water"),
        ]

    monkeypatch.setattr(doctor, "LOCAL_CHECKS", (("weather", told),))
    rain, fire = of(await doctor.doctor(), "weather")
    assert rain == {
        "check": "weather",
        "ok": True,
        "severity": "warning",
        "problem": "it rains",
        "fix": "an umbrella",
    }
    assert (fire["ok"], fire["severity"], fire["problem"]) == (False, "problem", "it burns")


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/api", None])
async def test_without_a_prefect_its_checks_are_listed_as_not_checked(
    daybook_home: Home, address: str | None
) -> None:
    with temporary_settings({PREFECT_API_URL: address}):
        found = await doctor.doctor()
    (server,) = of(found, "prefect")
    assert (server["ok"], server["severity"]) == (False, "problem")
    skipped = [each for each in found if each["severity"] == "skipped"]
    assert [each["check"] for each in skipped] == [name for name, _ in doctor.PREFECT_CHECKS]
    for each in skipped:
        assert (each["ok"], each["fix"]) == (False, "")
        assert each["problem"].startswith("not checked, because ")


async def test_where_the_ledger_is_broken_its_checks_are_listed_as_not_checked(
    nowhere: Home,
) -> None:
    (nowhere.path / "ledger.db").write_text("no database" * 100)
    found = await doctor.doctor()
    (ledger,) = of(found, "ledger")
    assert ledger["severity"] == "problem"
    assert [each["check"] for each in found if each["severity"] == "skipped"] == [
        name for name, _ in doctor.LEDGER_CHECKS[1:]
    ]


async def test_a_home_in_the_way_of_a_file_is_a_finding_and_no_crash(
    nowhere: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = nowhere.path / "file"
    file.write_text("")
    monkeypatch.setenv("DAYBOOK_HOME", str(file))
    found = await doctor.doctor()
    assert [each["ok"] for each in of(found, "home")] == [False]
    assert of(found, "prefect")


BROKEN = "raise ModuleNotFoundError(\"No module named 'python_socks'\")\n"


@pytest.mark.slow
def test_a_prefect_that_cannot_be_imported_is_a_finding_beside_the_versions(
    daybook_home: Home, tmp_path: Path
) -> None:
    front = tmp_path / "front"
    (front / "prefect").mkdir(parents=True)
    (front / "prefect" / "__init__.py").write_text(BROKEN)
    installed(front, "prefect", "3.4.0")
    path = os.pathsep.join([str(front), os.environ["PYTHONPATH"]])
    done = subprocess.run(
        [sys.executable, "-m", "daybook", "doctor", "--json"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")
    found = {each["check"]: each for each in json.loads(done.stdout)}
    assert found["versions"]["problem"] == "prefect 3.4.0 is outside of <3.9,>=3.8.8"
    assert "No module named 'python_socks'" in found["prefect"]["problem"]
    assert "install" in found["prefect"]["fix"]
    assert found["ledger"]["ok"]
