"""Work pools of Prefect: a job's runs may happen in another one than Daybook's own."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from daybook.errors import InvalidInput
from daybook.markers import Marker
from daybook.validation import raising_pydantic_error

OWN_POOL = "daybook"
"""Name of the pool that Daybook's workers serve."""
_NAME = re.compile(r"[^/%&<>\s][^/%&<>\n]{0,199}")


def _check(value: str) -> str:
    with raising_pydantic_error():
        if value and not _NAME.fullmatch(value):
            raise InvalidInput(
                "pool", f'"{value[:60]}" is no name of a work pool', "see Prefect's UI"
            )
    return value


WorkPoolName = Annotated[
    str,
    AfterValidator(_check),
    Marker(is_checked=True),
    Field(
        title="Work pool",
        description="Prefect work pool whose workers start the job's runs, such as one of the type "
        f"docker; {OWN_POOL}: Daybook's own workers. Empty: the pool that the deployment has in "
        f"Prefect, at first {OWN_POOL}.",
    ),
]


def check_label(pool: str, worker_label: str) -> None:
    """Raise `InvalidInput` if a job has a label and a pool whose workers have no labels."""
    if worker_label and pool not in ("", OWN_POOL):
        raise InvalidInput(
            "worker_label", f"has no effect in the pool {pool}", "leave out one of the two"
        )
