"""Child processes: their end with all descendants, and their logs."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from daybook.home import Home
from daybook.processes import children, proc

pytestmark = pytest.mark.anyio

# Starts three processes: one in its own group, one in a new session, and one below that one. Then
# all four wait. The first one ignores the signals in {ignored}.
FAMILY = """
import signal, subprocess, sys
for number in {ignored}:
    signal.signal(number, signal.SIG_IGN)
wait = "import signal; signal.pause()"
deeper = (
    "import subprocess, sys, signal;"
    f"p = subprocess.Popen([sys.executable, '-c', {{wait!r}}], start_new_session=True);"
    "print(p.pid, flush=True); signal.pause()"
)
near = subprocess.Popen([sys.executable, "-c", wait])
print(near.pid, flush=True)
far = subprocess.Popen([sys.executable, "-c", deeper], start_new_session=True)
print(far.pid, flush=True)
signal.pause()
"""


async def begin(home: Home, program: str, **more: str) -> children.Child:
    return await children.start(
        "child",
        [sys.executable, "-u", "-c", program],
        environment={**os.environ, **more},
        log=home.logs / "child.log",
        folder=home.path,
    )


async def lines(child: children.Child, count: int) -> list[str]:
    """Wait until the child's log has ``count`` lines."""
    async with asyncio.timeout(30):
        while len(found := child.tail().splitlines()) < count:
            await asyncio.wait([asyncio.ensure_future(child.wait())], timeout=0.02)
            assert child.exit_code is None, child.tail()
    return found


@pytest.mark.parametrize(
    ("ignored", "code"),
    [("()", -signal.SIGTERM), ("(signal.SIGTERM,)", -signal.SIGKILL)],
    ids=["polite", "deaf"],
)
async def test_all_descendants_end_with_a_terminated_child(
    daybook_home: Home, ignored: str, code: int
) -> None:
    child = await begin(daybook_home, FAMILY.format(ignored=ignored))
    pids = [int(line) for line in await lines(child, 3)]
    family = [proc.find(pid) for pid in [child.pid, *pids]]
    assert None not in family
    assert {p.pid for p in proc.process_tree(child.process)} == {child.pid, *pids}
    assert await child.terminate(grace=0.3, last=0.3) == code
    assert [proc.find(p.pid, p.started) for p in family if p is not None] == [None] * 4


async def test_a_child_leads_its_own_process_session(daybook_home: Home) -> None:
    child = await begin(daybook_home, "import signal; signal.pause()")
    try:
        assert os.getsid(child.pid) == child.pid
    finally:
        await child.terminate()


async def test_a_childs_exit_code_and_log_are_available(daybook_home: Home) -> None:
    first = await begin(daybook_home, "print('one'); raise SystemExit(3)")
    assert await first.wait() == 3
    second = await begin(daybook_home, "import sys; print('two'); print('three', file=sys.stderr)")
    assert await second.wait() == 0
    assert (first.exit_code, second.exit_code) == (3, 0)
    assert second.tail() == "two\nthree"
    assert second.tail(1) == "three"
    assert second.log.read_text() == "one\ntwo\nthree\n"
    assert second.log.stat().st_mode & 0o777 == 0o600
    assert await second.terminate() == 0  # it has already ended


async def test_a_child_gets_only_the_given_environment(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOMETHING_OF_MINE", "x")
    child = await children.start(
        "child",
        [sys.executable, "-c", "import os; print(sorted(set(os.environ) - {'LC_CTYPE'}))"],
        environment={"GIVEN": "1"},
        log=daybook_home.logs / "child.log",
        folder=daybook_home.path,
    )
    await child.wait()
    assert child.tail() == "['GIVEN']"


def test_a_long_log_keeps_its_newest_whole_lines(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    written = [f"line {n}" for n in range(1000)]
    log.write_text("\n".join(written) + "\n")
    children.trim_log(log, limit=5_000, keep_bytes=100)
    lines = log.read_text().splitlines()
    assert 0 < len(lines) < 1000
    assert lines == written[-len(lines) :]
    assert len(log.read_bytes()) <= 100
    assert log.stat().st_mode & 0o777 == 0o600
    children.trim_log(log, limit=5_000, keep_bytes=10)
    assert log.read_text().splitlines() == lines  # short enough, so unchanged
    children.trim_log(tmp_path / "none.log")


def test_a_log_that_a_process_appends_to_is_truncated_in_place(tmp_path: Path) -> None:
    log = tmp_path / "up.log"
    lines = [f"line {number}\n" for number in range(1_000)]
    with log.open("a", buffering=1) as writing:
        writing.writelines(lines)
        children.truncate_logs(tmp_path, limit=20_000, keep_bytes=100)
        assert log.read_text() == "".join(lines)  # not long enough
        begins = log.stat().st_size
        children.truncate_logs(tmp_path, limit=5_000, keep_bytes=100)
        writing.write("later\n")
    assert log.read_text() == "later\n"
    older = tmp_path / "up.log.old"
    assert older.read_text() == "".join(lines)[-100:].partition("\n")[2]
    assert older.stat().st_mode & 0o777 == 0o600
    assert children.read_tail(log, begins) == "later"
    assert not (tmp_path / "none.log").exists()


async def test_no_signal_is_sent_for_a_child_that_has_ended(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = await begin(daybook_home, "pass")
    await child.wait()
    reports: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: reports.append(pid))
    monkeypatch.setattr(os, "killpg", lambda pid, number: reports.append(pid))
    assert await child.terminate() == 0
    assert reports == []


async def test_an_orphan_in_the_group_of_a_child_ends_with_it(daybook_home: Home) -> None:
    child = await begin(
        daybook_home,
        "import subprocess, sys, signal\n"
        "wait = 'import signal; signal.pause()'\n"
        "begin = 'import subprocess, sys; p = subprocess.Popen([sys.executable, \"-c\", '\n"
        "begin += repr(wait) + ']); print(p.pid, flush=True)'\n"
        "subprocess.run([sys.executable, '-c', begin])\n"
        "print('started', flush=True)\n"
        "signal.pause()\n",
    )
    orphan = proc.find(int((await lines(child, 2))[0]))
    assert orphan is not None
    assert orphan.parent != child.pid
    await child.terminate(grace=1.0, last=1.0)
    assert proc.find(orphan.pid, orphan.started) is None
