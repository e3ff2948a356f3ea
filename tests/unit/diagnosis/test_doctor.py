"""All checks of `doctor` together: their order, and a check that itself raises an error."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings
from sqlalchemy.ext.asyncio import AsyncSession

from daybook.diagnosis import doctor
from daybook.diagnosis.checks.facts import fact, read_once
from daybook.feature import features
from daybook.finding import Finding, problem, warning
from daybook.home import Home
from daybook.jobs import store
from daybook.ledger.engine import Ledger
from tests.servers import NOWHERE
from tests.unit.operations.test_versions import installed

pytestmark = pytest.mark.anyio


def of(found: list[Finding], check: str) -> list[Finding]:
    return [each for each in found if each.check == check]


@pytest.fixture
def nowhere(daybook_home: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Return a home whose configured Prefect does not answer."""
    monkeypatch.setattr(doctor, "PREFECT_CHECKS", ())
    return daybook_home


async def test_an_unusable_variable_is_a_finding(
    nowhere: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/gone/certificates.pem")
    [found] = of(await doctor.doctor(), "prefect")
    assert not found.ok
    assert "SSL_CERT_FILE" in found.message
    assert "unset SSL_CERT_FILE" in found.fix


async def test_doctor_lists_every_check_and_a_passed_one_has_no_fix(nowhere: Home) -> None:
    found = await doctor.doctor()
    assert [each.check for each in found] == [
        "worker imports",
        "features",
        "versions",
        "entry points",
        "settings",
        "plugins",
        "service",
        "home",
        "disk",
        "prefect database",
        "modes",
        "leftovers",
        "processes",
        "outcomes",
        "ledger",
        "ledger key",
        "feature tables",
        "sync",
        "jobs",
        "leases",
        "sandbox",
        "one prefect",
        "ledger clock",
        "outbox",
        "message links",
        "maintenance",
        "backups",
        "git",
        "tasks",
        "workers",
        "prefect",
    ]
    for each in found[:-1]:
        assert (each.ok, each.severity, each.fix) == (True, "ok", "")
    assert of(found, "home")[0].message == str(nowhere.path)
    assert (found[-1].ok, bool(found[-1].fix)) == (False, True)


async def test_doctor_opens_the_ledger_for_its_first_checks_and_once_for_all_others(
    nowhere: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Ledger(f"sqlite+aiosqlite:///{nowhere.path / 'ledger.db'}"):
        pass  # it creates the ledger
    opened: list[str] = []
    enter = Ledger.__aenter__

    async def entered(ledger: Ledger) -> Ledger:
        opened.append(ledger.place)
        return await enter(ledger)

    monkeypatch.setattr(Ledger, "__aenter__", entered)
    assert {each.severity for each in (await doctor.doctor())[:-1]} == {"ok"}
    assert len(opened) == 3  # to read its jobs, to check that it can be written, and for the others


async def test_doctor_reports_open_modes_before_anything_corrects_them(
    nowhere: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere.path.chmod(0o755)
    (modes,) = of(await doctor.doctor(), "modes")
    assert not modes.ok
    assert modes.fix == f"chmod 700 {nowhere.path}"


async def test_a_check_that_raises_is_a_problem_and_the_others_still_run(
    nowhere: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> list[Finding]:
        raise ModuleNotFoundError("No module named 'cyclops'")

    async def sound() -> list[Finding]:
        return []

    monkeypatch.setattr(doctor, "LOCAL_CHECKS", (("first", broken), ("second", sound)))
    found = await doctor.doctor()
    assert "ModuleNotFoundError: No module named 'cyclops'" in of(found, "first")[0].message
    assert not of(found, "first")[0].ok
    assert of(found, "second")[0].ok


async def test_a_warning_is_listed_and_counts_as_ok(
    nowhere: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def findings() -> list[Finding]:
        return [
            warning("weather", "it rains", "an umbrella"),
            problem("weather", "it burns", "water"),
        ]

    monkeypatch.setattr(doctor, "LOCAL_CHECKS", (("weather", findings),))
    rain, fire = of(await doctor.doctor(), "weather")
    assert rain.model_dump(mode="json") == {
        "check": "weather",
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
    assert (fire.ok, fire.severity, fire.message) == (False, "problem", "it burns")


@pytest.mark.parametrize("address", [NOWHERE, None])
async def test_without_a_prefect_its_checks_are_listed_as_not_checked(
    daybook_home: Home, address: str | None
) -> None:
    with temporary_settings({PREFECT_API_URL: address}):
        found = await doctor.doctor()
    (server,) = of(found, "prefect")
    assert (server.ok, server.severity) == (False, "problem")
    skipped = [each for each in found if each.severity == "skipped"]
    assert [each.check for each in skipped] == [name for name, _ in doctor.PREFECT_CHECKS]
    for each in skipped:
        assert (each.ok, each.fix) == (False, "")
        assert each.message.startswith("not checked, because ")


async def test_with_a_broken_ledger_its_checks_are_listed_as_not_checked(
    nowhere: Home,
) -> None:
    (nowhere.path / "ledger.db").write_text("no database" * 100)
    found = await doctor.doctor()
    (ledger,) = of(found, "ledger")
    assert ledger.severity == "problem"
    assert [each.check for each in found if each.severity == "skipped"] == [
        *(name for name, _ in doctor.LEDGER_CHECKS[1:]),
        *(name for each in features() for name, _ in each.ledger_checks),
    ]


async def test_a_home_that_is_a_file_is_a_finding_and_no_crash(
    nowhere: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = nowhere.path / "file"
    file.write_text("")
    monkeypatch.setenv("DAYBOOK_HOME", str(file))
    found = await doctor.doctor()
    assert [each.ok for each in of(found, "home")] == [False]
    assert of(found, "prefect")


BROKEN = "raise ModuleNotFoundError(\"No module named 'python_socks'\")\n"


@pytest.mark.slow
def test_a_prefect_that_cannot_be_imported_is_a_finding_next_to_its_version(
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
    assert found["versions"]["title"] == "prefect 3.4.0 is outside of <3.10,>=3.8.8"
    assert "No module named 'python_socks'" in found["prefect"]["title"]
    assert "install" in found["prefect"]["fix"]
    assert found["ledger"]["ok"]


async def test_a_fact_is_read_once_in_a_doctor_and_anew_in_the_next() -> None:
    reads, gate = list[str](), asyncio.Event()
    asyncio.get_running_loop().call_soon(gate.set)

    @fact
    async def weather(place: str) -> str:
        reads.append(place)
        await gate.wait()
        return f"rain in {place}"

    for _ in range(2):
        with read_once():
            found = await asyncio.gather(weather("Rome"), weather("Oslo"), weather("Rome"))
            assert [*found, await weather("Rome")] == [
                "rain in Rome",
                "rain in Oslo",
                "rain in Rome",
                "rain in Rome",
            ]
    assert reads == ["Rome", "Oslo"] * 2
    assert await weather("Rome") == await weather("Rome")
    assert len(reads) == 6


async def test_a_doctor_reads_the_jobs_once(nowhere: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Ledger(f"sqlite+aiosqlite:///{nowhere.path / 'ledger.db'}"):
        pass
    reads, read_all = [0], store.read_all

    async def counted(session: AsyncSession) -> list[store.StoredJob]:
        reads[0] += 1
        return await read_all(session)

    monkeypatch.setattr(store, "read_all", counted)
    found = await doctor.doctor()
    of_jobs = [each for each in found if each.check in ("ledger", "sync", "jobs")]
    assert [each.severity for each in of_jobs] == ["ok"] * 3
    assert reads == [1]


async def test_a_doctor_does_not_read_all_settings_of_prefect_again(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy by Prefect itself reads them all, which takes 30 ms."""
    monkeypatch.setattr("prefect.settings.Settings.copy_with_update", None)
    (found,) = [each for each in await doctor.doctor() if each.check == "prefect"]
    assert "does not answer" in found.message
