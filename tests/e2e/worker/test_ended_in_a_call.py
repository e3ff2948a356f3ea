"""A run whose agent is ended in the middle of a tool's call: what it took, and what it has done."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from daybook.service import runs
from tests.calling import Asked, calls
from tests.crew import SEEN, Crew
from tests.floor import PREFECT_LEAVES_A_SOCKET
from tests.providers import provider
from tests.toolbox import install, served

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]

ITS_TIME = 75.0
"""Its 25 s, 15 s by which the worker waits longer, 10 s to end, and what a busy machine adds."""

HANGS = """
@server.tool
def write() -> str:
    tell("begun")
    had()
    forever()
"""


async def test_cancelled_its_tokens_are_in_the_book(crew: Crew) -> None:
    with provider() as here:
        async with served(crew.floor, HANGS) as server:
            asked = await Asked(crew.floor, here).given(server.name)
            here.script = [calls(f"{server.name}_write")]
            job = await crew.floor.job(on_demand=True, agent=asked.name)
            await crew.worker()
            await crew.floor.asked(job)
            await server.says("begun")

            await runs.cancel((await crew.row(job)).id)

            row = await crew.ends(job, "cancelled", within=SEEN)
    assert row.usage is not None
    assert (row.usage["input_tokens"], row.usage["output_tokens"]) == (100, 20)


async def test_killed_after_its_tool_has_acted_it_is_not_asked_again(
    crew: Crew, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What goes on in a thread is ended by nothing but the end of its process.
    site, had = tmp_path / "site", tmp_path / "had"
    source = (
        "import threading\n"
        "def stuck() -> str:\n"
        f"    open({str(had)!r}, 'a').write('x')\n"
        "    threading.Event().wait()\n"
    )
    install(site, source, "stuck")
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ['PYTHONPATH']}")
    with provider() as here:
        asked = await Asked(crew.floor, here).given("stuck")
        here.script = [calls("stuck"), calls("stuck")]
        policy = {"timeout": "25s", "retries": 1, "retry_delay": "1s"}
        job = await crew.floor.job(on_demand=True, agent=asked.name, policy=policy)
        await crew.worker()

        await crew.floor.asked(job)

        row = await crew.ends(job, "timed_out", within=ITS_TIME)
    assert (row.attempts, had.read_text()) == (1, "x")
    assert row.usage is not None
    assert row.usage["input_tokens"] == 100
