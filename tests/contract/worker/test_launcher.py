"""Selection of the launcher, and the logged reason for it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from daybook.worker import launcher as launchers
from daybook.worker.launcher import Launcher
from daybook.worker.messages import LaunchRequest
from tests.contract.worker.conftest import actions

HERE = "tests.contract.worker"


@pytest.fixture
def taken(tmp_path: Path) -> Callable[[str, str], AbstractAsyncContextManager[Launcher]]:
    def best(program: str, platform: str) -> AbstractAsyncContextManager[Launcher]:
        return launchers.open_launcher(tmp_path, program=f"{HERE}.{program}", platform=platform)

    return best


@pytest.mark.parametrize(
    ("program", "platform", "expected", "why"),
    [
        ("programs", "linux", True, []),
        ("programs", "darwin", False, ["the platform is darwin"]),
        ("threaded", "linux", False, ["2 threads run after the imports"]),
        ("broken", "linux", False, ["ImportError: it cannot be imported"]),
    ],
)
async def test_children_are_forked_only_if_that_is_safe(
    taken: Callable[[str, str], AbstractAsyncContextManager[Launcher]],
    caplog: pytest.LogCaptureFixture,
    *,
    program: str,
    platform: str,
    expected: bool,
    why: list[str],
) -> None:
    async with taken(program, platform) as launcher:
        assert launcher.preload is expected
        if program != "broken":
            began = await launcher.start(LaunchRequest({"id": "x"}, "ours", "end_normally"))
            assert await began.ended() == 0
    assert actions(caplog) == ["children_spawned"] * len(why)
    for record, part in zip(caplog.records, why, strict=True):
        assert part in record.getMessage()


async def test_a_child_is_started_fresh_if_the_parent_has_several_threads(tmp_path: Path) -> None:
    """A forked child would have one thread, and the locks that the other threads held."""
    async with Launcher(tmp_path, preload=True, program=f"{HERE}.threaded") as launcher:
        assert launcher.threads == 2
        began = await launcher.start(LaunchRequest({"id": "x"}, "ours", "end_normally"))
        assert await began.ended() == 0
        assert began.output.read_text() == "to stdout\nto stderr\n"
