"""`daybook doctor`: all checks of this Daybook, each with its findings.

::

    (at the same time) imports of the worker
    installation ─► home ─► ledger ─► Prefect answers? ─┬─ yes ─► clock, UI, pool, worker, agents …
                                                        └─ no ──► these checks are skipped

`diagnosis.findings` describes how to add a check.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any

from daybook import feature, home
from daybook.diagnosis.checks import certificates, delivery, installation, late, pools, prefect
from daybook.diagnosis.checks import home as home_checks
from daybook.diagnosis.checks import ledger as ledger_checks
from daybook.diagnosis.checks.facts import read_once
from daybook.errors import InvalidInput, LedgerError, LedgerUnreachable
from daybook.feature import Feature
from daybook.finding import Finding, passed, problem, skipped
from daybook.ledger.engine import open_ledger, sharing
from daybook.operations import service, versions
from daybook.processes.ending import cancel_all

Check = Callable[..., list[Finding] | Awaitable[list[Finding]]]

LOCAL_CHECKS: tuple[tuple[str, Check], ...] = (
    ("versions", versions.versions),
    ("entry points", installation.entry_points),
    ("settings", home_checks.settings),
    ("plugins", installation.plugins),
    ("service", service.findings),
    ("home", home_checks.home),
    ("disk", home_checks.disk),
    ("prefect database", home_checks.prefect_size),
    ("modes", home_checks.modes),
    ("leftovers", home_checks.leftovers),
    ("processes", home_checks.processes),
    ("outcomes", late.outcomes),
)
SLOW_CHECKS: tuple[tuple[str, Check], ...] = (
    ("worker imports", installation.worker_imports),
    ("features", installation.features),
)
"""Checks that run at the same time as all others, because each starts an interpreter."""
LEDGER_CHECKS: tuple[tuple[str, Check], ...] = (
    ("ledger", ledger_checks.ledger),
    ("ledger key", ledger_checks.ledger_key),
    ("feature tables", installation.feature_tables),
    ("sync", ledger_checks.sync),
    ("jobs", ledger_checks.jobs),
    ("leases", ledger_checks.leases),
    ("sandbox", ledger_checks.sandbox),
    ("one prefect", ledger_checks.one_prefect),
    ("ledger clock", late.ledger_clock),
    ("outbox", delivery.outbox),
    ("message links", delivery.message_links),
    ("maintenance", late.maintenance),
)
"""Checks that need the ledger. The first one decides whether the others run."""
PREFECT_CHECKS: tuple[tuple[str, Check], ...] = (
    ("clock", prefect.clock),
    ("ui", prefect.ui),
    (certificates.CHECK, certificates.certificates),
    ("pool", prefect.pool),
    ("worker", prefect.worker),
    (pools.CHECK, pools.of_jobs),
    ("keeper", late.keeper),
    ("late", late.late),
    ("waiting", late.waiting),
    ("runs", prefect.runs),
    ("copies", ledger_checks.copies),
    ("agents", ledger_checks.agents),
    ("tools", ledger_checks.tools),
    ("secrets", ledger_checks.secrets),
    ("channels", delivery.channels),
    ("destinations", delivery.destinations),
)
NO_LEDGER = "the ledger cannot be used"
PREFECT_TIMEOUT_SECONDS = 5.0
"""Timeout of requests to Prefect. It is short, so that `doctor` reports problems soon."""


async def doctor(pool: str = "") -> list[Finding]:
    """Run all checks, and return the findings, at least one for each check.

    With ``pool``, check only what the runs of jobs in this work pool need.

    The checks of a group run at the same time. Skip those that need an unusable ledger or Prefect.
    If a check can report a problem, raise no error. The caller must not have called
    `daybook.home.configure_prefect`, which creates the home; this function calls it after the
    checks of the home.
    """
    with read_once():
        return await (_find_about(pool) if pool else _find())


async def _find() -> list[Finding]:
    slow = asyncio.create_task(_run_checks(SLOW_CHECKS))
    try:
        others = await _run_groups()
        return await slow + others
    finally:
        await cancel_all(slow)


async def _find_about(pool: str) -> list[Finding]:
    found = await _run_checks(LEDGER_CHECKS[:1])
    async with _sharing_ledger():
        checks = ((pools.CHECK, partial(pools.of_pool, name=pool)),)
        sound = _is_sound(found)
        return found + await _check_home_and_prefect(found, checks, ledger_sound=sound)


async def _run_groups() -> list[Finding]:
    found = await _run_checks(LOCAL_CHECKS)
    ledger = await _run_checks(LEDGER_CHECKS[:1])
    found += ledger
    of_features: list[tuple[str, Check]] = [
        (name, partial(_call, each, path))
        for each in feature.features()
        for name, path in each.ledger_checks
    ]
    others = (*LEDGER_CHECKS[1:], *of_features)
    if not _is_sound(ledger):
        found += _skip(others, NO_LEDGER)
        return found + await _check_home_and_prefect(found, PREFECT_CHECKS, ledger_sound=False)
    async with _sharing_ledger():
        found += await _run_checks(others)
        return found + await _check_home_and_prefect(found, PREFECT_CHECKS, ledger_sound=True)


@asynccontextmanager
async def _sharing_ledger() -> AsyncIterator[None]:
    """Let all checks in the block use one open ledger; opening it takes 5 ms of CPU.

    Do nothing if there is no ledger yet, or it cannot be opened any more.
    """
    async with AsyncExitStack() as stack:
        with suppress(InvalidInput, LedgerError, LedgerUnreachable):
            if ledger_checks.exists():
                stack.enter_context(sharing(await stack.enter_async_context(open_ledger())))
        yield


async def _check_home_and_prefect(
    earlier: Sequence[Finding], checks: Sequence[tuple[str, Check]], *, ledger_sound: bool
) -> list[Finding]:
    found = list[Finding]()
    try:
        home.configure_prefect()
    except InvalidInput as error:  # a variable, without which Prefect cannot be used
        found.append(problem("prefect", f"{error.field}: {error.problem}", error.hint))
        return found + _skip(checks, f"{error.field} is invalid")
    except OSError as error:
        if _is_sound([each for each in earlier if each.check == "home"]):
            found.append(problem("home", str(error), "export DAYBOOK_HOME=<another folder>"))
    try:
        found += await _check_prefect(checks, ledger_sound=ledger_sound)
    except Exception as error:  # Prefect cannot be imported, or does not have a name that we use
        message = " ".join(f"Prefect cannot be used: {type(error).__name__}: {error}".split())
        found.append(problem("prefect", message, versions.reinstall_command()))
        found += _skip(checks, "Prefect cannot be used")
    return found


async def _check_prefect(
    checks: Sequence[tuple[str, Check]], *, ledger_sound: bool
) -> list[Finding]:
    from prefect.client.orchestration import get_client
    from prefect.context import SettingsContext, get_settings_context

    context = get_settings_context()
    known = context.settings
    if known.api.url is None:
        skipped = _skip(checks, "no Prefect server is known")
        return [prefect.no_server_known(), *skipped]
    # `temporary_settings` would read all settings again, which takes 30 ms.
    fail_fast = {
        "api": known.api.model_copy(update={"request_timeout": PREFECT_TIMEOUT_SECONDS}),
        "client": known.client.model_copy(update={"max_retries": 0}),
    }
    changed = known.model_copy(update=fail_fast)
    with SettingsContext(profile=context.profile, settings=changed):
        async with get_client() as client:
            found = await _run_checks((("prefect", prefect.server),), client)
            if not _is_sound(found):
                return found + _skip(checks, "Prefect has the problem above")
            return found + await _run_checks(checks, client, ledger_sound=ledger_sound)


async def _run_checks(
    checks: Sequence[tuple[str, Check]], *args: Any, ledger_sound: bool = True
) -> list[Finding]:
    async def run(name: str, check: Check) -> list[Finding]:
        try:
            result = check(*args)
            found = await result if inspect.isawaitable(result) else result
        except Exception as error:  # the other checks are still useful
            if not ledger_sound and isinstance(error, LedgerError | LedgerUnreachable):
                return _skip([(name, check)], NO_LEDGER)
            message = " ".join(f"the check itself failed: {type(error).__name__}: {error}".split())
            fix = "fix any problems above, then run daybook doctor again"
            return [problem(name, message, fix)]
        return found or [passed(name)]

    found = await asyncio.gather(*(run(name, check) for name, check in checks))
    return [each for of_check in found for each in of_check]


def _call(of_feature: Feature, path: str) -> list[Finding] | Awaitable[list[Finding]]:
    """Call a feature's check. An error of its import is an error of the check."""
    result: list[Finding] | Awaitable[list[Finding]] = of_feature.load(path)()
    return result


def _skip(checks: Sequence[tuple[str, Check]], why: str) -> list[Finding]:
    return [skipped(name, why) for name, _ in checks]


def _is_sound(found: Sequence[Finding]) -> bool:
    return all(each.ok for each in found)
