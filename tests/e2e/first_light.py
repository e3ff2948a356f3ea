"""A complete Daybook for end-to-end tests: `daybook up` as a child process."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from daybook.home import Home


def environment(home: Path) -> dict[str, str]:
    """Return this process's environment with another home and without Prefect settings."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")
    }
    return environment | {"DAYBOOK_HOME": str(home), "DAYBOOK_TIMEZONE": "Europe/Berlin"}


class Up:
    """A running `daybook up`, whose output lines a test can wait for.

    ``python`` is the interpreter that runs it; ``variables`` override its environment.
    """

    def __init__(
        self,
        home: Path,
        folder: Path,
        python: str | Path = sys.executable,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.home, self.folder = home, folder
        self._command = [str(python), "-m", "daybook"]
        self._environment = environment(home) | dict(variables or {})
        self.lines: list[str] = []
        self._arrived: queue.Queue[str | None] = queue.Queue()
        self.process = subprocess.Popen(
            [*self._command, "up", "--no-browser"],
            env=self._environment,
            cwd=folder,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as printed:
            for line in printed:
                self._arrived.put(line.rstrip())
        self._arrived.put(None)

    def until(self, done: Callable[[list[str]], bool], within: float) -> list[str]:
        """Wait until ``done`` is true for the lines so far, and return them."""
        end = time.monotonic() + within
        while not done(self.lines):
            try:
                line = self._arrived.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError("not in time:\n" + "\n".join(self.lines)) from None
            assert line is not None, "it ended:\n" + "\n".join(self.lines)
            self.lines.append(line)
        return self.lines

    def outcomes(self, job: str) -> list[str]:
        """Return the lines that report an outcome of ``job``."""
        return [line for line in self.lines if line.startswith(f"{job}: ")]

    def daybook_json(self, *words: str, exits: int = 0, given: str = "") -> Any:
        """Run `daybook … --json` in this home with ``given`` as its input; return its answer."""
        end = words.index("--") if "--" in words else len(words)
        done = subprocess.run(
            [*self._command, *words[:end], "--json", *words[end:]],
            env=self._environment,
            cwd=self.folder,
            input=given,
            text=True,
            capture_output=True,
            check=False,
        )
        assert done.returncode == exits, (words, done.returncode, done.stdout, done.stderr)
        return json.loads(done.stdout) if done.stdout.strip() else None

    def shell(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a script in a shell of this home."""
        return subprocess.run(
            ["bash", "-c", script],
            env=self._environment,
            cwd=self.folder,
            text=True,
            capture_output=True,
            check=False,
        )

    def facts(self) -> Mapping[str, Any]:
        """Return what `up` recorded in `up.json`: addresses and child processes."""
        return dict(json.loads((self.home / "up.json").read_text()))

    def auth(self) -> tuple[str, str]:
        """Return user and password of its Prefect server."""
        user, _, password = Home(self.home).credential().partition(":")
        return user, password

    def end(self) -> None:
        """Stop everything that the test left running."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._reader.join()
