"""Options of commands that change one job or run, or all that match filters (`--all`)."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Group, Parameter

from daybook.api.filters import Selection
from daybook.cli import completion
from daybook.errors import InvalidInput

JobOrAll = Annotated[
    str | None,
    Parameter(
        help="Job name, id or unique id prefix. Required without --all.", completer=completion.jobs
    ),
]
Which = Annotated[Selection, Parameter(name="*", group=Group("Filters of --all"))]
NO_FILTERS = Selection()


def named_or_all(field: str, ref: str | None, all_: bool, which: Selection) -> str | None:
    """Return the reference ``ref`` of a command that has an option `--all`, or None for `--all`.

    Raise `InvalidInput` for ``field`` if both or neither are given, or if only filters are given.
    """
    if all_ and ref is not None:
        raise InvalidInput(f"{field} and all", "cannot be combined", "leave one out")
    if not all_ and which != NO_FILTERS:
        raise InvalidInput(" and ".join(sorted(which.model_fields_set)), "needs --all")
    if not all_ and ref is None:
        raise InvalidInput(field, "is missing", "name one, or use --all")
    return ref
