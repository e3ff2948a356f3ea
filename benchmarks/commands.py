"""Duration of commands while `daybook up` runs: in its command server, and in a process of its own.

The two ways of each command take turns, and so do the commands and the two baselines, an empty
Python program and `prefect version`. The first turn only warms the caches.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median

from benchmarks.report import header, progress, row
from daybook.home import Home

TURNS = 7
MAX_SECONDS = 0.35
"""Target: the longest median of a command in the command server."""
START_TIMEOUT_SECONDS = 60.0
COMMANDS = (
    *("list", "runs", "show first-light", "next first-light", "status", "doctor"),
    *("agents list", "channels list", "pause first-light", "resume first-light"),
    *("edit first-light --timeout 5m", "run first-light", "inbox", "task list", "--help"),
)
_OWN_PROCESS = "import sys; from daybook.cli.main import main; sys.exit(main())"
_BASELINES = {"`python -c pass`": ["-c", "pass"], "`prefect version`": ["-m", "prefect", "version"]}


def measure(turns: int = TURNS) -> dict[str, list[float]]:
    """Return the seconds of each baseline, command, and command in a process of its own."""
    measured: dict[str, list[float]] = {}
    with started() as (_, run):
        for turn in range(turns + 1):
            progress(f"commands: turn {turn} of {turns}")
            seconds = {label: run(*words) for label, words in _BASELINES.items()}
            for each in COMMANDS:
                seconds[each] = run("-m", "daybook", *each.split())
                seconds[f"own {each}"] = run("-c", _OWN_PROCESS, *each.split())
            for label, value in seconds.items() if turn else ():
                measured.setdefault(label, []).append(value)
    return measured


@contextmanager
def started() -> Iterator[tuple[Home, Callable[..., float]]]:
    """Run `daybook up` in a new home until the block ends.

    Yields the home and a function that runs Python with its arguments, in the home's environment,
    and returns the duration in seconds.
    """
    with tempfile.TemporaryDirectory(prefix="daybook-bench-") as folder:
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PREFECT_", "DAYBOOK_"))
        } | {"DAYBOOK_HOME": folder}

        def run(*arguments: str) -> float:
            start = time.perf_counter()
            command = [sys.executable, *arguments]
            subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False)
            return time.perf_counter() - start

        run("-m", "daybook", "up", "--detach", "--no-browser")
        try:
            _wait_for_server(Home(Path(folder)))
            yield Home(Path(folder)), run
        finally:
            run("-m", "daybook", "down")


def _wait_for_server(home: Home) -> None:
    end = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < end:
        with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):
            connection.connect(str(home.command_socket))
            return
        time.sleep(0.1)
    raise RuntimeError("the command server does not start")


def missed(measured: dict[str, list[float]]) -> list[str]:
    """Return the missed targets."""
    return [
        f"daybook {each}: {median(measured[each]):.2f} s, target ≤ {MAX_SECONDS} s"
        for each in COMMANDS
        if median(measured[each]) > MAX_SECONDS
    ]


def table(measured: dict[str, list[float]]) -> str:
    turns = f"median of {len(measured[COMMANDS[0]])}"
    lines = [header("command", turns, "fastest – slowest", "own process", "faster")]
    for each in (*_BASELINES, *COMMANDS):
        seconds = measured[each]
        spread = f"{min(seconds):.2f} – {max(seconds):.2f} s"
        if each in _BASELINES:
            lines.append(row(each, f"{median(seconds):.2f} s", spread, "", ""))
            continue
        own = median(measured[f"own {each}"])
        ratio = f"{own / median(seconds):.1f} ×"
        lines.append(
            row(f"`daybook {each}`", f"{median(seconds):.2f} s", spread, f"{own:.2f} s", ratio)
        )
    return "\n".join(lines)
