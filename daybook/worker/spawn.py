"""Launcher that starts a fresh interpreter for each task: slower, and right on every system.

Its parent process stays small: it imports nothing, forks, and the child executes Python anew.
"""

from __future__ import annotations

from typing import ClassVar

from daybook.worker.nursery import ProcessLauncher


class SpawnLauncher(ProcessLauncher):
    """Launcher that starts a fresh interpreter."""

    preload: ClassVar[bool] = False
