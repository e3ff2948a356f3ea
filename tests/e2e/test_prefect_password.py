"""The password of a Prefect server is rotated as `docs/operations/fleet.md` says."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import pytest

from daybook.home import CLIENT_CREDENTIAL, SERVER_CREDENTIAL
from daybook.operations import server
from tests.at_prefect import basic
from tests.e2e.first_light import Up
from tests.servers import free_port, start_prefect
from tests.timings import SHORT
from tests.waiting import becomes_true

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(400)]

OLD, NEW = "daybook:first-password", "daybook:second-password"


@asynccontextmanager
async def prefect(folder: Path, port: int, credential: str) -> AsyncIterator[str]:
    """Start Prefect's own server with this credential; yield the address of its API."""
    address = ("--host", "127.0.0.1", "--port", str(port), "--no-ui")
    child = await start_prefect(folder, "start", *address, settings={SERVER_CREDENTIAL: credential})
    try:
        api_url = server.api_url(port)
        await server.wait_until_healthy(api_url, child=child)
        yield api_url
    finally:
        await child.terminate()


@contextmanager
def machine(folder: Path, api_url: str, credential: str) -> Iterator[Up]:
    """Run `daybook up` at this Prefect, as after `join`."""
    variables = {"PREFECT_API_URL": api_url, CLIENT_CREDENTIAL: credential, **SHORT.environment()}
    up = Up(folder / "home", folder, variables=variables)
    try:
        yield up
    finally:
        up.end()


def statuses(up: Up, job: str) -> Counter[str]:
    return Counter(each["status"] for each in up.daybook_json("runs", job))


async def becomes(up: Up, job: str, status: str, number: int = 1) -> None:
    async def has() -> bool:
        return statuses(up, job)[status] >= number

    assert await becomes_true(has, 120.0), (statuses(up, job), up.lines)


async def test_no_run_is_lost_while_the_password_of_prefect_is_rotated(tmp_path: Path) -> None:
    port, answer = free_port(), tmp_path / "answer"
    wait_for_answer = f"until [ -e {answer} ]; do sleep 0.1; done; echo answered"
    async with AsyncExitStack() as old:
        api_url = await old.enter_async_context(prefect(tmp_path / "prefect", port, OLD))
        with machine(tmp_path, api_url, OLD) as up:
            up.until(lambda _: bool(up.outcomes("first-light")), within=120.0)
            up.daybook_json("agents", "add", "slow", "--", "sh", "-c", wait_for_answer)
            up.daybook_json("add", "Wait", "--name", "long", "--on-demand", "--agent", "slow")
            up.daybook_json("add", "Tick", "--name", "tick", "--every", "5s")
            long = up.daybook_json("run", "long")
            await becomes(up, "long", "running")
            await becomes(up, "tick", "succeeded", 2)
            (worker,) = up.daybook_json("workers", "list")
            up.daybook_json("workers", "drain", worker["name"])
            await old.aclose()
            async with prefect(tmp_path / "prefect", port, NEW):
                answer.touch()
                await becomes(up, "long", "succeeded")
                up.end()
                with machine(tmp_path, api_url, NEW) as restarted:
                    before = statuses(restarted, "tick")["succeeded"]
                    restarted.daybook_json("workers", "resume", worker["name"])
                    await becomes(restarted, "tick", "succeeded", before + 2)
                    assert await becomes_true(lambda: is_completed(api_url, long), 60.0)
                    ended = statuses(restarted, "tick") + statuses(restarted, "long")
                    logs = "".join(each.read_text() for each in (up.home / "logs").iterdir())
    assert set(ended) <= {"succeeded", "skipped", "waiting", "claimed", "running"}
    assert ended["succeeded"] >= 5
    assert not any(password in logs for password in (OLD, NEW))


async def is_completed(api_url: str, run: Mapping[str, str]) -> bool:
    """Return whether Prefect shows that the run has succeeded."""
    async with httpx.AsyncClient(auth=basic(NEW)) as client:
        found = await client.get(f"{api_url}/flow_runs/{run['flow_run_id']}")
    return bool(found.json()["state"]["type"] == "COMPLETED")
