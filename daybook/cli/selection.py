"""Parts of commands that act on the named jobs or runs, or with `--all` on all that match."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, TypeVar

from cyclopts import Group, Parameter

from daybook.api.filters import Selection
from daybook.cli import output
from daybook.errors import DaybookError, InvalidInput

Acted = TypeVar("Acted")
Which = Annotated[Selection, Parameter(name="*", group=Group("Filters of --all"))]
NO_FILTERS = Selection()


def check_names_or_all(field: str, refs: Sequence[str], all_: bool, which: Selection) -> None:
    """Raise `InvalidInput` unless either names or `--all` are given.

    The error names ``field``. Raise it if both or neither are given, and if filters are given
    without `--all`.
    """
    if all_ and refs:
        raise InvalidInput(f"{field} and all", "cannot be combined", "leave one out")
    if not all_ and which != NO_FILTERS:
        raise InvalidInput(" and ".join(sorted(which.model_fields_set)), "needs --all")
    if not all_ and not refs:
        raise InvalidInput(field, "is missing", "name one, or use --all")


async def act_on_each(
    refs: Sequence[str],
    act: Callable[[str], Awaitable[Acted]],
    show: Callable[[Acted], object],
    *,
    as_json: bool,
    exit_code: Callable[[Acted], int] = lambda result: 0,
) -> int:
    """Act on each of the ``refs``, and show the results. Return the highest exit code.

    If there are several ``refs``, report an error, and continue with the others; raise the error of
    a single one. With ``as_json``, print the results of several ``refs`` as one list, which omits
    those with an error.
    """
    results, code = list[Acted](), 0
    for ref in refs:
        try:
            results.append(await act(ref))
        except DaybookError as error:
            if len(refs) == 1:
                raise
            output.say(f"! {ref}: {error}")
            code = max(code, error.exit_code)
            continue
        code = max(code, exit_code(results[-1]))
        if not as_json:
            show(results[-1])
    if as_json:
        output.print_json(results if len(refs) > 1 else results[0])
    return code
