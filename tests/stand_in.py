"""A stand-in for systemd: it reads units by the rules of systemd.syntax, and starts what they say.

It follows `ExecStart`, `Environment` and `Type=notify`, and not the lines that confine a service.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"|(\S+)')


def unit_values(text: str) -> dict[str, list[list[str]]]:
    """Return the words of each line, by the name of the setting."""
    values: dict[str, list[list[str]]] = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            words = [
                re.sub(r"\\(.)", r"\1", quoted) if quoted else bare
                for quoted, bare in _WORD.findall(value)
            ]
            specifiers = re.findall(r"%(.)", "".join(words))
            assert set(specifiers) <= {"%"}, line  # others would be replaced
            values.setdefault(name, []).append([each.replace("%%", "%") for each in words])
    return values


class StandIn:
    """A service of one unit: started at the beginning of the block, and ended at its end."""

    def __init__(self, unit: str, folder: Path, watchdog_seconds: float, **variables: str) -> None:
        values = unit_values(unit)
        self._command = values["ExecStart"][-1]
        assert values["Type"] == [["notify"]]
        assignments = [each for line in values["Environment"] for each in line]
        self._environment = {
            "HOME": os.environ["HOME"],  # a manager gives a service little else
            "_DAYBOOK_MACHINE": os.environ["_DAYBOOK_MACHINE"],
            **dict(each.partition("=")[::2] for each in assignments),
            **variables,
            "NOTIFY_SOCKET": str(folder / "notify"),
            "WATCHDOG_USEC": str(int(watchdog_seconds * 1_000_000)),
        }
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self._environment["NOTIFY_SOCKET"])
        self._log = folder / "journal"
        self.received = list[str]()
        """All reports so far."""

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                self._command,
                env=self._environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self._socket.close()

    def until(self, state: str, within: float) -> None:
        """Wait for a report of the service, such as `READY=1`."""
        self._socket.settimeout(within)
        received = list[str]()
        while not received or received[-1] != state:
            try:
                received.append(self._socket.recv(4096).decode())
            except TimeoutError:
                journal = self._log.read_text()
                raise AssertionError(f"no {state}, only {received[-9:]}\n{journal}") from None
            self.received.append(received[-1])

    def until_logged(self, pattern: str, within: float) -> None:
        """Wait until the service's log contains the pattern; each report is a time to look."""
        end = time.monotonic() + within
        while not re.search(pattern, self._log.read_text()):
            assert time.monotonic() < end, self._log.read_text()
            self._socket.settimeout(within)
            self.received.append(self._socket.recv(4096).decode())
