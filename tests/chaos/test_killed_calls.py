"""Real workers and the processes of their runs are killed during each call of Daybook's own tools.

Ten runs begin at once. Each calls all of `CALLS`, in an order of its own, and is killed during each
of its first calls (`KILLS`): in `HOLDS`, which waits before or after the tool's work, or in the
middle of a command. So both tests kill each tool ten times. Files, the lines of commands, notebooks
and the outbox show what the calls did.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from daybook.execution import journal
from daybook.features.memory import operations as notebooks
from daybook.features.skills import operations as skills
from daybook.jobs.store import StoredJob
from tests.calling import ModelAgent, calls
from tests.conftest import PrefectServer
from tests.providers import Answer, ModelRequest, provider
from tests.timings import SHORT
from tests.toolbox import install
from tests.waiting import becomes_true
from tests.world.home import at_prefect
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import JUDGED, PREFECT_LEAVES_A_SOCKET

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    *PREFECT_LEAVES_A_SOCKET,
]

WITHIN = 2 * JUDGED
"""Seconds in which ten processes have come to their calls, or a killed worker's runs ended."""

CALLS: Mapping[str, Mapping[str, Any]] = {
    "files.write": {"path": "written.txt", "content": "new"},
    "files.edit": {"path": "edited.txt", "old": "end", "new": "end!"},
    "files.read": {"path": "edited.txt"},
    "shell.run": {"command": "{command}"},
    "memory.append": {"text": "line"},
    "memory.replace": {"old": "start", "new": "start!"},
    "notify.send": {"text": "Half is done."},
    "web.fetch": {"url": "{address}/page"},
    "web.search": {"query": "lamp"},
    "skills.release-notes": {},
}
NEVER_REPEATED = {"files.write", "files.edit", "shell.run"}
RUNS = range(len(CALLS))
KILLS = ("runs", "worker", "runs", "worker and runs", "worker")
"""What is killed in each phase, when each run has come to its next call."""

HOLDS = """
import asyncio, dataclasses, urllib.request
from daybook.execution import builtin_tools
find = builtin_tools.find

def hold() -> str:
    "Do nothing."
    return ""

def report(run, tool, moment):
    urllib.request.urlopen(f"{address}/{{run}}/{{tool}}/{{moment}}").read()

async def find_held(entry, context):
    def held(name, tool):
        async def call(arguments):
            run = context.granted.job.row.name
            await asyncio.to_thread(report, run, name, "before")
            answer = await tool.call(arguments)
            await asyncio.to_thread(report, run, name, "after")
            return answer
        return dataclasses.replace(tool, call=call)
    return {{name: held(name, tool) for name, tool in (await find(entry, context)).items()}}

builtin_tools.find = find_held
"""
"""A tool whose import lets each tool of a feature report its calls to `Outside`."""


def name_of(run: int) -> str:
    return f"run-{run}"


def sequence(run: int) -> list[str]:
    """Return the tools in the order of the run's calls; it is killed during the first ones."""
    return [*CALLS][run:] + [*CALLS][:run]


class Outside:
    """What the runs call: it holds each run at its next call, until the next phase.

    It holds them before or after the work of the tool (``moment``). ``counts`` has the calls of
    each tool by run; ``held`` are the runs that wait for an answer.
    """

    def __init__(self, moment: str) -> None:
        self.moment = moment
        self.counts = Counter[tuple[str, str]]()
        self.held = set[str]()
        self.phase = 0
        self.address = ""
        self._lock = threading.Lock()
        self._is_over = threading.Event()

    def next_phase(self) -> None:
        with self._lock:
            self.phase += 1
            self.held.clear()

    def reached(self, name: str, tool: str, moment: str) -> None:
        run = int(name.removeprefix("run-"))
        with self._lock:
            if moment == "before":
                self.counts[name, tool] += 1
            is_held = (
                self.phase < len(KILLS)
                and tool == sequence(run)[self.phase]
                and moment == ("during" if tool == "shell.run" else self.moment)
            )
            if is_held:
                self.held.add(name)
        if is_held:
            self._is_over.wait()

    def command(self, run: int) -> str:
        """Return a command that reports itself, and adds a line to the file `commands`."""
        port = urlsplit(self.address).port
        asked = f"GET /{name_of(run)}/shell.run/during HTTP/1.0\\r\\n\\r\\n"
        report = (
            f"bash -c 'exec 3<>/dev/tcp/127.0.0.1/{port}; printf \"{asked}\" >&3; read -r x <&3'"
        )
        line = "echo line >> commands"
        return "; ".join([report, line] if self.moment == "before" else [line, report])

    def arguments(self, run: int, tool: str) -> dict[str, Any]:
        return {
            name: value.format(address=self.address, command=self.command(run))
            for name, value in CALLS[tool].items()
        }

    def model(self, request: ModelRequest) -> Answer:
        """Call each tool once, and try once more to repeat a call whose outcome is unknown."""
        messages = request.body["messages"]
        (run,) = [each for each in RUNS if f"as {name_of(each)}." in str(messages[:2])]
        replies = [str(each["content"]) for each in messages if each["role"] == "tool"]
        for tool in sequence(run):
            if not replies:
                return calls(tool.replace(".", "_"), **self.arguments(run, tool))
            is_unknown = journal.UNKNOWN in replies.pop(0)
            assert is_unknown <= (tool in NEVER_REPEATED), tool
            if is_unknown:
                if not replies:
                    return calls(tool.replace(".", "_"), **self.arguments(run, tool))
                replies.pop(0)
        return Answer("All done.")

    @contextmanager
    def serving(self) -> Iterator[None]:
        outside = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path, kind, body = urlsplit(self.path).path, "text/html", "<p>The lamp is on.</p>"
                if path == "/search":
                    row = {"title": "Lamps", "url": "https://a.org/", "content": "A lamp."}
                    kind, body = "application/json", json.dumps({"results": [row]})
                elif path != "/page":
                    outside.reached(*path.strip("/").split("/"))
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 50

            def handle_error(self, request: object, client_address: object) -> None:
                """The caller was killed."""

        server = Server(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        self.address = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            server.shutdown()
            thread.join()
            server.server_close()


async def all_are_held(world: PrefectWorld, outside: Outside) -> None:
    async def they_are() -> bool:
        return len(outside.held) == len(RUNS)

    if not await becomes_true(they_are, WITHIN):
        raise AssertionError(
            f"phase {outside.phase}: only {sorted(outside.held)}\n{world.workers.logs()}"
        )


async def _added(world: PrefectWorld, run: int, agent: str) -> StoredJob:
    folder = world.workers.root / name_of(run)
    folder.mkdir()
    (folder / "edited.txt").write_text("the end")
    stored = await world.deploy(
        name=name_of(run),
        agent=agent,
        prompt=f"Work as {name_of(run)}.",
        channel="inbox",
        policy={
            "on_lost": "rerun",
            "retries": len(KILLS),
            "retry_delay": "1s",
            "timeout": "5m",
            "work_dir": str(folder),
        },
    )
    await notebooks.write(stored.id, "start")
    return stored


def _skill(folder: Path) -> str:
    folder.mkdir()
    head = "---\nname: release-notes\ndescription: Write release notes.\n---\n"
    (folder / "SKILL.md").write_text(f"{head}\nBe brief.\n")
    return str(folder)


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_killed_call_writes_runs_and_sends_nothing_twice(
    prefect_server: PrefectServer, tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside, site = Outside(moment), tmp_path / "site"
    with outside.serving(), provider() as fake_provider:
        install(site, HOLDS.format(address=outside.address), "hold")
        fake_provider.script = [outside.model]
        async with at_prefect(tmp_path, prefect_server, timing=SHORT) as world:
            monkeypatch.setenv("DAYBOOK_HOME", str(world.home.path))
            world.workers.variables |= {
                "PYTHONPATH": f"{site}{os.pathsep}{os.environ['PYTHONPATH']}",
                "DAYBOOK_ALLOWED_HOSTS": "127.0.0.1",
                "DAYBOOK_ALLOWED_WORK_DIRS": str(tmp_path),
                "DAYBOOK_ALLOW_SHELL": "true",
                "DAYBOOK_WEB_SEARCH_URL": f"{outside.address}/search",
            }
            await skills.add(_skill(tmp_path / "skill"))
            agent = await ModelAgent(world, fake_provider).given("hold", *CALLS)
            jobs = [await _added(world, run, agent.name) for run in RUNS]
            worker = await world.workers.begin(most=len(RUNS))
            for job in jobs:
                await world.prefect.custom_run(job)

            for killed in KILLS:
                await all_are_held(world, outside)
                heads = worker.heads()
                assert len(heads) == len(RUNS)
                outside.next_phase()
                if "worker" in killed:
                    os.kill(worker.pid, signal.SIGKILL)
                if "runs" in killed:
                    for head in heads:
                        os.kill(head.pid, signal.SIGKILL)
                if "worker" in killed:
                    worker = await world.workers.begin(most=len(RUNS))

            ends = [world.wait_for_end(job, "succeeded", within=WITHIN) for job in jobs]
            rows = await asyncio.gather(*ends)
            for run, row in zip(RUNS, rows, strict=True):
                assert (row.attempts, row.output) == (len(KILLS) + 1, "All done."), run
                _check_effects(outside, world, run, row.id)
                text = (await notebooks.show(name_of(run))).text
                assert text == "start!\nline", run


def _check_effects(outside: Outside, world: PrefectWorld, run: int, run_id: str) -> None:
    """Check how often each tool was called, and what its calls left."""
    name, killed = name_of(run), sequence(run)[: len(KILLS)]
    for tool in CALLS:
        is_repeated = tool in killed and tool not in NEVER_REPEATED
        assert outside.counts[name, tool] == 1 + is_repeated, (run, tool)
    undone = killed if outside.moment == "before" else []
    expected = {"edited.txt": "the end" if "files.edit" in undone else "the end!"}
    if "files.write" not in undone:
        expected["written.txt"] = "new"
    if "shell.run" not in undone:
        expected["commands"] = "line\n"
    found = (world.workers.root / name).iterdir()
    left = {each.name: each.read_text() for each in found if not each.name.startswith(".")}
    assert left == expected, run
    with closing(sqlite3.connect(world.home.path / "ledger.db")) as ledger:
        query = "SELECT body FROM outbox WHERE run_id = ? AND event = 'message'"
        assert ledger.execute(query, (run_id,)).fetchall() == [("Half is done.",)], run
