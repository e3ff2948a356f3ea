"""Work pools of Prefect: a job's runs may happen in another one than Daybook's own."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from daybook.errors import InvalidInput
from daybook.json_text import JsonObject
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


MAX_VARIABLES, MAX_VARIABLES_LENGTH = 50, 20_000
"""Maximum number of job variables, and their maximum length in characters of JSON."""
_VARIABLE = re.compile(r"[\w.-]{1,100}")


def _check_variables(values: JsonObject) -> JsonObject:
    with raising_pydantic_error():
        if len(values) > MAX_VARIABLES:
            hint = f"use at most {MAX_VARIABLES}"
            raise InvalidInput("job_variables", f"has {len(values)} variables", hint)
        for name in values:
            if not _VARIABLE.fullmatch(name):
                hint = "see the variables of the work pool's base job template"
                raise InvalidInput("job_variables", f"{name[:100]!r} is no variable", hint)
    return values


JobVariables = Annotated[
    JsonObject,
    AfterValidator(_check_variables),
    Marker(option="job-variable", syntax="pairs", is_checked=True),
    Field(
        title="Job variables",
        description="Variables of the work pool for the job's runs, such as image, env, namespace "
        "or the memory, as the pool's base job template names them. They need a pool. Only the "
        "operator may set them.",
    ),
]


def check_variables(pool: str, variables: JsonObject) -> None:
    """Raise `InvalidInput` if a job has variables without a pool that could use them."""
    if variables and pool in ("", OWN_POOL):
        hint = f"set pool to another one than {OWN_POOL}, or clear the variables"
        raise InvalidInput("job_variables", "applies only to a job with a pool", hint)


def check_label(pool: str, worker_label: str) -> None:
    """Raise `InvalidInput` if a job has a label and a pool whose workers have no labels."""
    if worker_label and pool not in ("", OWN_POOL):
        raise InvalidInput(
            "worker_label", f"has no effect in the pool {pool}", "leave out one of the two"
        )
