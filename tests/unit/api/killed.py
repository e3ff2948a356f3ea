"""A process that runs `daybook apply` and is killed at one moment of its work on the ledger.

The moments are before and after each statement that writes, and before and after each commit. The
statements that read are no moments: their number depends on time, because a ledger that is open for
five seconds verifies its id again (`engine.VERIFY_INTERVAL_SECONDS`).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.side_by_side import CONTEXT


def _apply(
    variables: Mapping[str, str], path: str, options: Sequence[str], moment: int, counted: str
) -> None:
    os.environ.update(variables)
    from sqlalchemy import Engine, event
    from sqlalchemy.orm import Session

    from daybook.cli.main import main

    passed = 0

    def pass_moment(*_: object) -> None:
        nonlocal passed
        passed += 1
        if passed == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def pass_write(_: object, __: object, statement: str, *___: object) -> None:
        if statement.startswith(("INSERT", "UPDATE", "DELETE")):
            pass_moment()

    for name in ("before_cursor_execute", "after_cursor_execute"):
        event.listen(Engine, name, pass_write)
    event.listen(Engine, "commit", pass_moment)
    event.listen(Session, "after_commit", pass_moment)
    code = main(["apply", "-f", path, "--set", "team", *options])
    Path(counted).write_text(str(passed))
    os._exit(code)


def killed_apply(
    variables: Mapping[str, str],
    path: Path,
    counted: Path,
    moment: int = 0,
    options: Sequence[str] = ("--prune",),
) -> int | None:
    """Run the command until it has exited, and return its exit code.

    It is killed at the ``moment``-th moment. If it ends, ``counted`` has the number of its moments.
    """
    given = (dict(variables), str(path), tuple(options), moment, str(counted))
    child = CONTEXT.Process(target=_apply, args=given)
    child.start()
    child.join(60)
    return child.exitcode
