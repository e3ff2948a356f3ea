"""The preparation of a command that talks to Prefect."""

from __future__ import annotations

from daybook import home
from daybook.processes import proc


def prepare_prefect() -> None:
    """Point Prefect at the right server; call this before importing anything of Prefect.

    From then on the process may hold a credential, so other processes of this user
    cannot inspect it.
    """
    proc.deny_inspection()
    home.configure_prefect()
