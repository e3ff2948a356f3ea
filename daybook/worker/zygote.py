"""The launcher that forks: Prefect and our flows are imported once, and each child begins there.

What is imported must start no thread, because a fork copies one thread only; `launch.best` looks.
A child that is begun while there are more is a fresh interpreter after all.
"""

from __future__ import annotations

from typing import ClassVar

from daybook.worker.nursery import Nursery


class Zygote(Nursery):
    """Forks a process that is ready to go."""

    preload: ClassVar[bool] = True
