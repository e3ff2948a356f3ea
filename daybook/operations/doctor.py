"""What is wrong with this Daybook, and how to mend it (requirement 59).

::

    installation ─► machine ─► ledger ─► Prefect answers? ─┬─ yes ─► clock, UI, pool, worker, agents
                                                           └─ no ──► those are left out
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from daybook import home
from daybook.operations.checks import delivery, installation, late, plugins, prefect, tasks
from daybook.operations.checks import home as machine
from daybook.operations.checks import ledger as book
from daybook.operations.checks.problem import Problem

Findings = list[dict[str, Any]]
Look = Callable[..., list[Problem] | Awaitable[list[Problem]]]

HERE: tuple[tuple[str, Look], ...] = (
    ("versions", installation.versions),
    ("doors", installation.doors),
    ("worker imports", installation.worker_imports),
    ("settings", machine.settings),
    ("plugins", plugins.plugins),
    ("home", machine.home),
    ("modes", machine.modes),
    ("leftovers", machine.leftovers),
    ("outcomes", late.outcomes),
)
BOOK: tuple[tuple[str, Look], ...] = (
    ("ledger", book.ledger),
    ("ledger key", book.ledger_key),
    ("sync", book.sync),
    ("one prefect", book.one_prefect),
    ("ledger clock", late.ledger_clock),
    ("outbox", delivery.outbox),
    ("tasks", tasks.tasks),
)
THERE: tuple[tuple[str, Look], ...] = (
    ("clock", prefect.clock),
    ("ui", prefect.ui),
    ("pool", prefect.pool),
    ("worker", prefect.worker),
    ("keeper", late.keeper),
    ("late", late.late),
    ("runs", prefect.workers_import),
    ("copies", book.copies),
    ("agents", book.agents),
    ("tools", book.tools),
    ("secrets", book.secrets),
    ("channels", delivery.channels),
    ("destinations", delivery.destinations),
)
PATIENCE = 5.0
"""Seconds that Prefect gets for an answer: whoever asks what is wrong does not want to wait."""


async def doctor() -> Findings:
    """`{"check", "ok", "problem", "mend"}` for each check; a check with several problems comes
    several times, one without has neither problem nor mend.

    A problem with ``ok`` true is harmless. What needs Prefect is left out where Prefect is not
    sound. Never raises for what it looks for. Does not ask `daybook.home.enter` to be called
    before: that mends the modes of the home, so it is called here, after the look at them.
    """
    found: Findings = []
    for name, look in HERE:
        found += await _looked(name, look)
    ledger = await _looked(*BOOK[0])
    found += ledger
    if all(each["ok"] for each in ledger):
        for name, look in BOOK[1:]:
            found += await _looked(name, look)
    try:
        home.enter()
    except OSError as error:
        if not any(each["check"] == "home" and not each["ok"] for each in found):
            found += [_finding("home", Problem(str(error), "export DAYBOOK_HOME=<another folder>"))]
    try:
        return found + await _prefect()
    except Exception as error:  # a Prefect that cannot be imported, or that lacks what we call
        what = " ".join(f"Prefect cannot be used: {type(error).__name__}: {error}".split())
        return [*found, _finding("prefect", Problem(what, installation.again()))]


async def _prefect() -> Findings:
    from prefect.client.orchestration import get_client
    from prefect.settings import (
        PREFECT_API_REQUEST_TIMEOUT,
        PREFECT_CLIENT_MAX_RETRIES,
        get_current_settings,
        temporary_settings,
    )

    if get_current_settings().api.url is None:
        return [_finding("prefect", prefect.none_known())]
    at_once = {PREFECT_API_REQUEST_TIMEOUT: PATIENCE, PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(updates=at_once):
        async with get_client() as client:
            found = await _looked("prefect", prefect.server, client)
            if all(each["ok"] for each in found):
                for name, look in THERE:
                    found += await _looked(name, look, client)
    return found


async def _looked(name: str, look: Look, *given: Any) -> Findings:
    try:
        answer = look(*given)
        problems = await answer if inspect.isawaitable(answer) else answer
    except Exception as error:  # whatever is broken, the other checks are still worth a look
        what = " ".join(f"the look itself failed: {type(error).__name__}: {error}".split())
        problems = [Problem(what, "mend the problems above first")]
    return [_finding(name, problem) for problem in problems] or [_finding(name, None)]


def _finding(name: str, problem: Problem | None) -> dict[str, Any]:
    return {
        "check": name,
        "ok": problem is None or problem.harmless,
        "problem": problem.what if problem else "",
        "mend": problem.mend if problem else "",
    }
