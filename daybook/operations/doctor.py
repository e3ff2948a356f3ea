"""`daybook doctor`: what is wrong with this Daybook, and how to fix it.

::

    installation ─► home ─► ledger ─► Prefect answers? ─┬─ yes ─► clock, UI, pool, worker, agents …
                                                        └─ no ──► those are left out
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from daybook import home
from daybook.operations.checks import Problem, delivery, installation, late, prefect
from daybook.operations.checks import home as machine
from daybook.operations.checks import ledger as book

Findings = list[dict[str, Any]]
Check = Callable[..., list[Problem] | Awaitable[list[Problem]]]

LOCAL_CHECKS: tuple[tuple[str, Check], ...] = (
    ("versions", installation.versions),
    ("doors", installation.entry_points),
    ("worker imports", installation.worker_imports),
    ("settings", machine.settings),
    ("plugins", installation.plugins),
    ("home", machine.home),
    ("modes", machine.modes),
    ("leftovers", machine.leftovers),
    ("outcomes", late.outcomes),
)
LEDGER_CHECKS: tuple[tuple[str, Check], ...] = (
    ("ledger", book.ledger),
    ("ledger key", book.ledger_key),
    ("sync", book.sync),
    ("one prefect", book.one_prefect),
    ("ledger clock", late.ledger_clock),
    ("outbox", delivery.outbox),
    ("tasks", late.tasks),
)
PREFECT_CHECKS: tuple[tuple[str, Check], ...] = (
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
PREFECT_TIMEOUT_SECONDS = 5.0
"""Timeout of requests to Prefect: the user should not have to wait for a report of problems."""


async def doctor() -> Findings:
    """Return `{"check", "ok", "problem", "fix"}` for each check.

    A check with several problems appears several times; one without problems has an empty problem
    and fix. A problem with ``ok`` true is harmless. Checks that need Prefect are left out if
    Prefect is not sound. Never raises for a problem that it checks for.
    `daybook.home.configure_prefect` must not have been called before, because it fixes the modes of
    the home; it is called here, after their check.
    """
    findings: Findings = []
    for name, check in LOCAL_CHECKS:
        findings += await _run_check(name, check)
    ledger = await _run_check(*LEDGER_CHECKS[0])
    findings += ledger
    if all(each["ok"] for each in ledger):
        for name, check in LEDGER_CHECKS[1:]:
            findings += await _run_check(name, check)
    try:
        home.configure_prefect()
    except OSError as error:
        if not any(each["check"] == "home" and not each["ok"] for each in findings):
            findings += [
                _finding("home", Problem(str(error), "export DAYBOOK_HOME=<another folder>"))
            ]
    try:
        return findings + await _prefect()
    except Exception as error:  # Prefect cannot be imported, or lacks a name that we call
        message = " ".join(f"Prefect cannot be used: {type(error).__name__}: {error}".split())
        return [*findings, _finding("prefect", Problem(message, installation.reinstall_command()))]


async def _prefect() -> Findings:
    from prefect.client.orchestration import get_client
    from prefect.settings import (
        PREFECT_API_REQUEST_TIMEOUT,
        PREFECT_CLIENT_MAX_RETRIES,
        get_current_settings,
        temporary_settings,
    )

    if get_current_settings().api.url is None:
        return [_finding("prefect", prefect.no_server_known())]
    fail_fast = {
        PREFECT_API_REQUEST_TIMEOUT: PREFECT_TIMEOUT_SECONDS,
        PREFECT_CLIENT_MAX_RETRIES: 0,
    }
    with temporary_settings(updates=fail_fast):
        async with get_client() as client:
            findings = await _run_check("prefect", prefect.server, client)
            if all(each["ok"] for each in findings):
                for name, check in PREFECT_CHECKS:
                    findings += await _run_check(name, check, client)
    return findings


async def _run_check(name: str, look: Check, *args: Any) -> Findings:
    try:
        answer = look(*args)
        problems = await answer if inspect.isawaitable(answer) else answer
    except Exception as error:  # the other checks are still worth running
        message = " ".join(f"the look itself failed: {type(error).__name__}: {error}".split())
        problems = [Problem(message, "fix the problems above first")]
    return [_finding(name, problem) for problem in problems] or [_finding(name, None)]


def _finding(name: str, problem: Problem | None) -> dict[str, Any]:
    return {
        "check": name,
        "ok": problem is None or problem.harmless,
        "problem": problem.what if problem else "",
        "fix": problem.fix if problem else "",
    }
