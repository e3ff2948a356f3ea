"""A stand-in for `systemctl` and the manager behind it, for tests without systemd.

It follows the lines of the units that say how processes are started, watched, ended and restarted
(`_Unit`), of drop-ins too, and not the lines that confine them. Each unit has a supervisor, a
process of its own::

    systemctl start ──► supervisor ──► main process ──► all that it starts
                            │ state.json: what `systemctl show` answers
                            └ adopts every orphan, as a control group holds it, and ends it

`install` writes the programs `systemctl` and `journalctl`. A reboot is `Machine.cut_power`, which
kills every process at once, and then `Machine.boot`, which starts the enabled units.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daybook.processes import proc
from tests.stand_in import unit_values

FOLDER_VARIABLE = "STAND_IN_MANAGER"
MODULE = "tests.stand_in_manager"
VERSION = "255.4"
_PR_SET_CHILD_SUBREAPER = 36
_LOOK_SECONDS = 0.05
_CLEAN_SIGNALS = {signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE}
"""Signals after which `Restart=on-failure` does not restart."""


class Machine:
    """A machine with this manager, whose units are in ``units`` and whose states in ``folder``."""

    def __init__(self, folder: Path, config: Path) -> None:
        self.folder, self.units = folder, config / "systemd" / "user"
        programs = folder / "bin"
        programs.mkdir(parents=True)
        for name in ("systemctl", "journalctl"):
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {MODULE} {name} "$@"\n')
            program.chmod(0o755)
        self.variables = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "XDG_CONFIG_HOME": str(config),
            FOLDER_VARIABLE: str(folder),
        }

    def processes(self) -> list[proc.Process]:
        """Return all processes of all units, with their supervisors."""
        heads = [json.loads(each.read_text())["supervisor"] for each in self._states()]
        found = (proc.find(pid, started) for pid, started in heads)
        return [each for head in found if head is not None for each in proc.process_tree(head)]

    def show(self, unit: str) -> dict[str, Any]:
        return _state(self.folder, f"{unit}.service")

    def cut_power(self) -> None:
        """Kill everything at once, so that no process can react to the end of another one."""
        everything = self.processes()
        proc.send_signal(everything, signal.SIGSTOP)
        proc.send_signal([*everything, *self.processes()], signal.SIGKILL)
        for each in self._states():
            each.unlink()

    def boot(self) -> None:
        """Start the enabled units; do not wait until they are ready."""
        for each in (self.units / "default.target.wants").iterdir():
            _start_supervisor(self.folder, each)

    def _states(self) -> list[Path]:
        return list(self.folder.glob("*.service/state.json"))


# --- the program `systemctl`


def main(words: list[str]) -> int:
    folder = Path(os.environ[FOLDER_VARIABLE])
    if words[0] == "supervise":
        _Unit(folder, Path(words[1])).supervise()
        return 0
    options = [each for each in words[1:] if each.startswith("--")]
    names = [each for each in words[1:] if not each.startswith("--")]
    if words[0] == "journalctl":
        unit = words[words.index("--unit") + 1]
        print((folder / unit / "journal").read_text(), end="")
        return 0
    verb, units = names[0], names[1:]
    if not units:
        print(VERSION if verb == "show" else "", end="")
        return 0
    (unit,) = units
    file = Path(os.environ["XDG_CONFIG_HOME"], "systemd", "user", unit)
    wanted = file.parent / "default.target.wants" / unit
    if verb == "show":
        state = _state(folder, unit)
        state["UnitFileState"] = "enabled" if wanted.is_symlink() else "disabled"
        shown = options[-1].partition("=")[2].split(",")
        print("\n".join(f"{name}={state[name]}" for name in shown))
        return 0
    if verb == "enable":
        wanted.parent.mkdir(exist_ok=True)
        wanted.unlink(missing_ok=True)
        wanted.symlink_to(file)
        return 0
    if verb == "disable":
        wanted.unlink(missing_ok=True)
    if verb in ("stop", "restart") or "--now" in options:
        _stop(folder, unit)
    if verb in ("start", "restart"):
        return _start(folder, file)
    return 0


def _start(folder: Path, file: Path) -> int:
    """Start a unit, and wait until it is active, as `Type=notify` says; return the exit code."""
    if _supervisor(folder, file.name) is None:
        _start_supervisor(folder, file)
    while _supervisor(folder, file.name) is not None:
        if _state(folder, file.name)["ActiveState"] == "active":
            return 0
        _pause()
    return 1


def _stop(folder: Path, unit: str) -> None:
    supervisor = _supervisor(folder, unit)
    if supervisor is None:
        return
    proc.send_signal([supervisor], signal.SIGTERM)
    while proc.find(supervisor.pid, supervisor.started) is not None:
        _pause()


def _start_supervisor(folder: Path, file: Path) -> None:
    (folder / file.name).mkdir(exist_ok=True)
    command = [sys.executable, "-m", MODULE, "supervise", str(file)]
    with (folder / file.name / "supervisor.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, FOLDER_VARIABLE: str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    while process.poll() is None and _supervisor(folder, file.name) is None:
        _pause()
    process.returncode = 0  # it outlives this process


def _supervisor(folder: Path, unit: str) -> proc.Process | None:
    pid, started = _state(folder, unit)["supervisor"]
    return proc.find(pid, started) if pid else None


def _state(folder: Path, unit: str) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / unit / "state.json").read_text()))
    except FileNotFoundError:
        nothing: dict[str, Any] = {"ActiveState": "inactive", "SubState": "dead"}
        return nothing | {"MainPID": 0, "NRestarts": 0, "supervisor": [0, ""]}


def _pause(seconds: float = _LOOK_SECONDS) -> None:
    signal.sigtimedwait([], seconds)


# --- the supervisor of one unit


@dataclass
class _Main:
    """The main process of a unit; ``code`` is its exit code, as of `subprocess`."""

    process: proc.Process
    notified: socket.socket
    started_at: float
    fed_at: float
    is_ready: bool
    code: int | None = None
    killed_by_watchdog: bool = False


class _Unit:
    """One unit, and the processes of its supervisor.

    It follows `ExecStart`, `Environment`, `Type`, `WatchdogSec`, `WatchdogSignal`, `KillMode`,
    `TimeoutStartSec`, `TimeoutStopSec`, `Restart`, `RestartSec` with its steps, and `Wants`: the
    units that it wants start when it is ready, and are bound to it.
    """

    def __init__(self, folder: Path, file: Path) -> None:
        self._folder, self._file = folder, file
        drop_ins = sorted(file.parent.glob(f"{file.name}.d/*.conf"))
        self._values = unit_values("\n".join(each.read_text() for each in (file, *drop_ins)))
        self._wanted = [file.with_name(each) for each in self._words("Wants")]
        self._restarts = 0
        self._is_stopping = False

    def supervise(self) -> None:
        """Start the main process, and start it again as the unit says, until a stop."""
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        signal.signal(signal.SIGTERM, self._stop)
        while True:
            main = self._start_main()
            self._watch(main)
            for each in self._wanted:
                _stop(self._folder, each.name)
            self._end(main)
            if not self._has_failed(main):
                self._write(None, "inactive", "dead")
                return
            self._write(None, "activating", "auto-restart")
            until = time.monotonic() + self._restart_delay()
            while time.monotonic() < until and not self._is_stopping:
                _pause()
            self._restarts += 1
            if self._is_stopping:
                return

    def _start_main(self) -> _Main:
        address = f"\0stand-in-{os.getpid()}-{self._restarts}"
        notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notified.bind(address)
        environment = {
            "HOME": os.environ["HOME"],  # a manager gives a service little else
            "_DAYBOOK_MACHINE": os.environ["_DAYBOOK_MACHINE"],
            **dict(each.partition("=")[::2] for each in self._words("Environment")),
            "NOTIFY_SOCKET": f"@{address[1:]}",
        }
        if seconds := self._seconds("WatchdogSec"):
            environment["WATCHDOG_USEC"] = str(round(seconds * 1e6))
        with (self._folder / self._file.name / "journal").open("ab") as journal:
            process = subprocess.Popen(
                self._values["ExecStart"][-1],
                env=environment,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=journal,
                stderr=journal,
                start_new_session=True,
            )
        process.returncode = 0  # `_reap` waits for it
        now = time.monotonic()
        found = proc.find(process.pid) or proc.Process(process.pid, "ended")
        main = _Main(found, notified, now, now, is_ready=self._words("Type") != ["notify"])
        self._report(main)
        return main

    def _watch(self, main: _Main) -> None:
        """Return when the main process has ended, or has to be ended."""
        while main.code is None and not self._is_stopping:
            self._receive(main)
            self._reap(main)
            now = time.monotonic()
            limit = self._seconds("TimeoutStartSec")
            if not main.is_ready and limit and now - main.started_at > limit:
                return
            limit = self._seconds("WatchdogSec")
            if limit and now - main.fed_at > limit:
                main.killed_by_watchdog = True
                return

    def _receive(self, main: _Main) -> None:
        main.notified.settimeout(_LOOK_SECONDS)
        try:
            report = main.notified.recv(4096).decode()
        except TimeoutError:
            return
        main.fed_at = time.monotonic()
        if report == "READY=1":
            main.is_ready = True
            self._report(main)
            for each in self._wanted:
                _start_supervisor(self._folder, each)

    def _end(self, main: _Main) -> None:
        """End the processes of the unit as `KillMode` says: the main one first, or all at once."""
        self._write(main.process.pid, "deactivating", "stop-sigterm")
        is_mixed = self._words("KillMode") == ["mixed"]
        number = signal.SIGTERM
        if main.killed_by_watchdog:
            (name,) = self._words("WatchdogSignal") or ["SIGABRT"]
            number = signal.Signals[name]
        first = [main.process] if is_mixed else self._processes()
        proc.send_signal([each for each in first if main.code is None], number)
        until = time.monotonic() + (self._seconds("TimeoutStopSec") or 90.0)
        while main.code is None and time.monotonic() < until:
            _pause()
            self._reap(main)
        while left := self._processes():
            proc.send_signal(left, signal.SIGKILL)
            _pause()
            self._reap(main)
        main.notified.close()

    def _has_failed(self, main: _Main) -> bool:
        """Return whether `Restart=on-failure` starts it again."""
        assert self._words("Restart") == ["on-failure"]
        if self._is_stopping:
            return False
        code = main.code or 0
        return main.killed_by_watchdog or code > 0 or (code < 0 and -code not in _CLEAN_SIGNALS)

    def _restart_delay(self) -> float:
        """Return the seconds before the next start: they grow in `RestartSteps` equal ratios."""
        first, steps = self._seconds("RestartSec"), self._seconds("RestartSteps")
        if not steps:
            return first
        share = min(self._restarts / steps, 1.0)
        return float(first * (self._seconds("RestartMaxDelaySec") / first) ** share)

    def _processes(self) -> list[proc.Process]:
        """Return the descendants of this process, which adopts the orphans among them."""
        self_process = proc.find(os.getpid())
        assert self_process is not None
        return proc.process_tree(self_process)[1:]

    def _reap(self, main: _Main) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid == main.process.pid:
                main.code = os.waitstatus_to_exitcode(status)

    def _stop(self, number: int, frame: object) -> None:
        self._is_stopping = True

    def _report(self, main: _Main) -> None:
        state = ("active", "running") if main.is_ready else ("activating", "start")
        self._write(main.process.pid, *state)

    def _write(self, pid: int | None, active: str, sub: str) -> None:
        self_process = proc.find(os.getpid())
        assert self_process is not None
        state = {
            "ActiveState": active,
            "SubState": sub,
            "MainPID": pid or 0,
            "NRestarts": self._restarts,
            "supervisor": [self_process.pid, self_process.started],
        }
        file = self._folder / self._file.name / "state.json"
        draft = file.with_suffix(".new")
        draft.write_text(json.dumps(state))
        draft.replace(file)

    def _words(self, name: str) -> list[str]:
        return [each for line in self._values.get(name, []) for each in line]

    def _seconds(self, name: str) -> float:
        return float((self._words(name) or ["0"])[-1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
