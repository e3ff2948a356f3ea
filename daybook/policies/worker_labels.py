"""Labels of workers: a job with a label runs only on workers that have it."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from daybook.errors import InvalidInput
from daybook.validation import raising_pydantic_error

_LABEL = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")


def check_label(value: str, field: str) -> str:
    """Return ``value`` if it is a label; raise `InvalidInput` if it is not."""
    if not _LABEL.fullmatch(value):
        hint = "use at most 40 characters a-z, 0-9, - . _, such as gpu"
        raise InvalidInput(field, f'"{value[:60]}" is no label', hint)
    return value


def _check(value: str) -> str:
    with raising_pydantic_error():
        return check_label(value, "worker_label") if value else ""


WorkerLabel = Annotated[
    str,
    AfterValidator(_check),
    Field(
        title="Worker label",
        description="Label of the workers that may start the job's runs (DAYBOOK_WORKER_LABELS), "
        "such as gpu. Empty: any worker.",
    ),
]
