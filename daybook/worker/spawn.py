"""The launcher that starts a fresh interpreter for each task: slower, and right everywhere.

The parent process is small then: it imports nothing, forks, and the child executes Python anew.
"""

from __future__ import annotations

from typing import ClassVar

from daybook.worker.nursery import Nursery


class Spawner(Nursery):
    """Starts a fresh interpreter."""

    preload: ClassVar[bool] = False
