"""Launcher that forks a preloaded parent: Prefect and Daybook's flows are imported once, for all.

These imports must not start a thread, because a fork copies only one thread; `launch.open_launcher`
checks that. While the parent has more threads, a child is a fresh interpreter instead.
"""

from __future__ import annotations

from typing import ClassVar

from daybook.worker.nursery import ProcessLauncher


class ForkLauncher(ProcessLauncher):
    """Launcher that forks a process with everything imported."""

    preload: ClassVar[bool] = True
