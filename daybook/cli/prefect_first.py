"""What a command does before it talks to Prefect."""

from __future__ import annotations

from daybook import home
from daybook.processes import proc


def prefect_first() -> None:
    """Point Prefect at the right server; before anything of Prefect is imported.

    From then on this process may hold a credential, so others of this user cannot look into it.
    """
    proc.deny_inspection()
    home.enter()
