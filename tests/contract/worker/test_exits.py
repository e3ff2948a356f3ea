"""How a process ends, what it prints, and which facts it reports."""

from __future__ import annotations

import os
import signal
import stat

import pytest

from daybook.processes import proc
from tests.contract.worker.conftest import Launching, actions, children, living


@pytest.mark.parametrize("code", [0, 3, 255])
@pytest.mark.slow
async def test_a_child_keeps_its_exit_code_and_prints_to_a_private_file(
    launching: Launching, code: int
) -> None:
    began = await launching.start("end_normally", flow_run={"code": code})
    assert await began.ended() == code
    assert began.output.read_text() == "to stdout\nto stderr\n"
    assert stat.S_IMODE(began.output.stat().st_mode) == 0o600
    assert began.output.parent == launching.folder


@pytest.mark.parametrize(
    ("kind", "code", "printed"),
    [
        ("exits_with_text", 1, "no such agent\n"),
        ("exits", 4, "a thread was waited for\nexit functions were called\n"),
        ("exits_at_once", 9, "printed before\n"),
        ("is_killed", -signal.SIGKILL, "printed before\n"),
        ("is_terminated", -signal.SIGTERM, ""),
    ],
)
@pytest.mark.slow
async def test_an_early_exit_keeps_its_code_and_output(
    launching: Launching, kind: str, code: int, printed: str
) -> None:
    began = await launching.start(kind)
    assert await began.ended() == code
    assert began.output.read_text() == printed


@pytest.mark.parametrize(
    ("kind", "code", "last"),
    [
        ("raises", 1, "LookupError: what was it?"),
        ("is_interrupted", -signal.SIGINT, "KeyboardInterrupt"),
    ],
)
@pytest.mark.slow
async def test_an_exception_prints_its_traceback(
    launching: Launching, kind: str, code: int, last: str
) -> None:
    began = await launching.start(kind)
    assert await began.ended() == code
    lines = began.output.read_text().splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1] == last
    assert not any(line.endswith("in serve") for line in lines)


async def test_facts_arrive_whole_and_in_order(
    launching: Launching, caplog: pytest.LogCaptureFixture
) -> None:
    began = await launching.start("tells")
    facts = [fact async for fact in began.facts()]
    assert facts == [{"first": 1}, {"long": "x" * 200_000}, {"last": True}]
    assert await began.ended() == 0
    assert actions(caplog) == [
        "fact_unreadable",
        "fact_unreadable",
    ]


@pytest.mark.slow
async def test_facts_can_be_read_after_the_end(launching: Launching) -> None:
    began = await launching.start("begins_and_ends")
    assert await began.ended() == 5
    assert [list(fact) async for fact in began.facts()] == [["children"]]
    assert [fact async for fact in began.facts()] == []


async def test_facts_end_with_a_killed_process(launching: Launching) -> None:
    began = await launching.start("waits")
    facts = []
    async for fact in began.facts():
        facts.append(fact)
        os.kill(began.pid, signal.SIGKILL)
    assert facts == [{"ready": True}]
    assert await began.ended() == -signal.SIGKILL


@pytest.mark.parametrize(
    ("kind", "code"), [("begins_and_dies", -signal.SIGKILL), ("begins_and_ends", 5)]
)
@pytest.mark.slow
async def test_processes_left_behind_have_ended_before_the_childs_end_is_reported(
    launching: Launching, kind: str, code: int
) -> None:
    began = await launching.start(kind)
    pids = await launching.until(began, "children")
    assert len(pids) == 3
    assert await began.ended() == code
    assert living(pids) == []


@pytest.mark.slow
async def test_the_parent_leaves_no_zombies(launching: Launching) -> None:
    for kind in ("begins_and_dies", "begins_and_ends", "end_normally"):
        await (await launching.start(kind)).ended()
    assert children(launching.launcher.pid) == []


async def test_a_process_is_identified_by_its_pid_and_start_time(launching: Launching) -> None:
    began = await launching.start("waits")
    await launching.until(began, "ready")
    assert proc.find(began.pid) == began.process
    assert began.process.pid == began.pid
    await began.end(0.0)
