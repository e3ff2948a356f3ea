"""Commands with `--json`: async generators that yield their answer, then print it for people."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import wraps
from typing import Any, TypeAlias

from daybook.cli import output
from daybook.cli.options import Json, prepare_prefect

Answer: TypeAlias = AsyncGenerator[Any, None]
"""Generator of a command's answer: a model or JSON, or a pair of the answer and an exit code.

If there is no exit code, the command returns 0.
"""

_JSON = inspect.Parameter("as_json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Json)


def command(
    *, uses_prefect: bool = False
) -> Callable[[Callable[..., Answer]], Callable[..., Awaitable[int]]]:
    """Return a decorator that adds the option `--json` to a command.

    The command yields its answer once. With `--json`, the decorator prints the answer, and the rest
    of the command does not run. Without `--json`, the rest of the command prints the answer for
    people. With ``uses_prefect``, the decorator first calls `prepare_prefect`.
    """

    def decorate(function: Callable[..., Answer]) -> Callable[..., Awaitable[int]]:
        @wraps(function)
        async def run(*arguments: Any, as_json: bool = False, **options: Any) -> int:
            if uses_prefect:
                prepare_prefect()
            async with aclosing(function(*arguments, **options)) as steps:
                answer = await anext(steps)
                code: int
                answer, code = answer if isinstance(answer, tuple) else (answer, 0)
                if as_json:
                    output.print_json(answer)
                else:
                    await anext(steps, None)
            return code

        given = inspect.signature(function).parameters.values()
        annotations = {**function.__annotations__, "as_json": Json, "return": int}
        vars(run).update(__signature__=inspect.Signature([*given, _JSON]))
        run.__annotations__ = annotations
        return run

    return decorate
