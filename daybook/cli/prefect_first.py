"""What a command does before it talks to Prefect."""

from __future__ import annotations

from daybook import home


def prefect_first() -> None:
    """Point Prefect at the right server; before anything of Prefect is imported."""
    home.enter()
