"""Health page and metrics of a running Daybook."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from daybook.clock import SYSTEM_CLOCK
from daybook.home import Home
from daybook.processes import proc
from daybook.timing import TIMING
from tests.e2e.first_light import Up
from tests.servers import migrate

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.anyio, pytest.mark.timeout(420)]

LOOK_AGAIN = timedelta(milliseconds=300)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    home = migrate(Home(tmp_path_factory.mktemp("home")))
    running = Up(home.path, tmp_path_factory.mktemp("empty"))
    try:
        running.until(lambda lines: any(line.startswith("Health: ") for line in lines), 150)
        # Wait for the first run: other tests cover a worker that is killed during a run.
        running.until(lambda _: bool(running.outcomes("first-light")), 150)
        yield running
    finally:
        running.end()


async def wait_for_code(url: str, code: int, within: float) -> dict[str, Any]:
    """Wait until the health page answers with this code, and return the answer."""
    end = time.monotonic() + within
    async with httpx.AsyncClient(trust_env=False, timeout=10.0) as client:
        while (answer := await client.get(f"{url}/health")).status_code != code:
            assert time.monotonic() < end, answer.text
            await SYSTEM_CLOCK.wait_until(SYSTEM_CLOCK.now() + LOOK_AGAIN)
    return dict(answer.json())


def child(up: Up, name: str) -> int:
    (found,) = (each["pid"] for each in up.facts()["children"] if each["name"] == name)
    return int(found)


async def test_health_is_503_without_a_leader_or_without_prefect(up: Up) -> None:
    url = up.facts()["web_url"]
    end = time.monotonic() + 60
    while not (view := await wait_for_code(url, 200, within=60))["prefect"]["answers"]:
        assert time.monotonic() < end  # one slow answer is cached for a while
        await SYSTEM_CLOCK.wait_until(SYSTEM_CLOCK.now() + LOOK_AGAIN)
    assert view["problems"] == []
    status = up.daybook_json("status")
    assert view["ledger"]["id"] == status["ledger"]["id"]

    # `up` replaces a suspended worker after two minutes only, and a dead one at once.
    worker, lease = child(up, "worker"), TIMING.leader_lease.total_seconds()
    os.kill(worker, signal.SIGSTOP)
    view = await wait_for_code(url, 503, within=lease + 10)
    assert view["keeper"]["leads"] is False
    assert view["problems"][0]["title"].startswith("no keeper leads")
    os.kill(worker, signal.SIGKILL)
    await wait_for_code(url, 200, within=60)

    server = proc.find(child(up, "server"))
    assert server is not None
    proc.send_signal([server], signal.SIGSTOP)
    try:
        view = await wait_for_code(url, 503, within=25)
    finally:
        proc.send_signal([server], signal.SIGCONT)
    assert view["prefect"]["answers"] is False
    assert view["problems"][0]["title"].startswith("Prefect has not answered for 1")
    await wait_for_code(url, 200, within=60)


async def test_metrics_show_ended_runs_jobs_and_overdue_runs(up: Up) -> None:
    up.until(lambda _: bool(up.outcomes("first-light")), within=60)
    async with httpx.AsyncClient(trust_env=False) as client:
        text = (await client.get(f"{up.facts()['web_url']}/metrics")).text
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["daybook_ended_runs_last_day", "succeeded"] >= 1  # two if it is nine o'clock now
    assert found["daybook_jobs", "true"] == 1
    assert found["daybook_late",] == found["daybook_overdue",] == 0
