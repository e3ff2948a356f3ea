"""Wall clock of a process and its children, which a benchmark or a test sets forward or back.

A small library in C (`shifted_clock.c`) replaces the functions that return the wall clock. The
monotonic clock stays, as it does when a person or NTP sets the clock of a machine. Needs a C
compiler, and Linux. The programs of command agents do not get the variables, so they see the
machine's clock, as the kernel does: the times of files are not shifted.
"""

from __future__ import annotations

import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")


def compiler() -> str | None:
    return shutil.which("cc")


class ShiftedClock:
    """The clock of the processes that are started with `variables`; at first the machine's."""

    def __init__(self, folder: Path) -> None:
        self._library, self._shift = folder / "shifted_clock.so", folder / "shift"
        command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(self._library), str(SOURCE)]
        subprocess.run(command, check=True)
        self._shift.write_bytes(bytes(8))
        self.shift = timedelta()

    @property
    def variables(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self._library), "SHIFTED_CLOCK": str(self._shift)}

    def step(self, by: timedelta) -> None:
        """Set the clock forward, or back, in whole seconds; each process sees it at once."""
        self.shift += by
        seconds = round(self.shift.total_seconds())
        with self._shift.open("r+b", buffering=0) as file:
            file.write(seconds.to_bytes(8, "little", signed=True))
