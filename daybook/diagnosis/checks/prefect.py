"""Checks of the Prefect server that this process uses, its UI, its work pool and its workers.

Call the functions that take a client only if `server` found no problem.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from daybook import prefect
from daybook.api.overdue import MAX_CLOCK_SKEW
from daybook.clock import SYSTEM_CLOCK
from daybook.diagnosis import findings
from daybook.diagnosis.checks import ledger
from daybook.diagnosis.checks.facts import fact
from daybook.diagnosis.findings import unset_command
from daybook.errors import (
    DISK_FULL,
    FREE_SPACE,
    PrefectRefused,
    PrefectUnreachable,
    says_disk_full,
)
from daybook.finding import Finding, passed, problem, warning
from daybook.home import current_home, is_disk_full, is_own_server
from daybook.jobs.actions import ACTIONS
from daybook.ledger.engine import open_ledger
from daybook.operations import versions
from daybook.prefect import work_pool
from daybook.prefect.parameter_schema import WORK_POOL
from daybook.prefect.work_pool import POOL_TYPE, WorkPool
from daybook.short_text import first_names

if TYPE_CHECKING:
    from httpx import Response
    from prefect.client.orchestration import PrefectClient

MAX_CLOCK_RETRIES = 4
CLOCK_RETRY_INTERVAL = timedelta(seconds=0.4)
UI_TIMEOUT_SECONDS = 5.0
"""Timeout of requests to the address of the UI."""
PULL_STEP_MESSAGE = "Executing deployment step: enter"
SUBMIT_MESSAGE = re.compile(r"Worker '(.+)' submitting flow run")
"""Messages in a run's log, from Prefect and from Prefect's own types of workers."""
MAX_RUNS_READ = 20
"""Maximum number of runs that are read to find a run of this ledger."""


async def server(client: PrefectClient) -> list[Finding]:
    """Check the server: its address, its response, our credentials, and its version.

    If this home's `up` is running, this process must use the same server as `up`.
    """
    address = str(client.api_url).rstrip("/")
    running_url = str((current_home().running() or {}).get("api_url") or "").rstrip("/")
    if running_url and running_url != address:
        message = f"this process uses Prefect at {address}, but `daybook up` uses {running_url}"
        return [problem("prefect", message, unset_command())]
    if why := await prefect.client.local_problem(address, prefect.client.ANSWER_TIMEOUT_SECONDS):
        return [_no_answer(address, why)]
    failure = await client.api_healthcheck()
    if failure is not None:
        return [_describe_failure(address, failure)]
    if prefect.client.is_cloud(client):
        return [passed("prefect", address)]
    try:
        version = str(await client.api_version())
    except Exception as error:
        return [_describe_failure(address, error)]
    return _check_version(address, version) or [passed("prefect", f"{address}, version {version}")]


def no_server_known() -> Finding:
    """Return the problem that no `up` is running and that no setting names a server."""
    message = "no Prefect server is configured, and no `daybook up` is running in this home"
    return problem("prefect", message, "daybook up")


def unreachable(error: PrefectUnreachable) -> Finding:
    """Return the problem for an error of `daybook.prefect.client`."""
    if error.address is None:
        return no_server_known()
    address = error.address.rstrip("/")
    return (
        _denied(address, error.status)
        if isinstance(error, PrefectRefused)
        else _no_answer(address, error.why)
    )


async def clock(client: PrefectClient) -> list[Finding]:
    """Check that the clocks of this machine and of the server agree."""
    return findings.clock("clock", "Prefect's", await clock_ahead(client))


@fact
async def clock_ahead(client: PrefectClient) -> timedelta:
    """Return the smallest measured time by which the server's clock is ahead of this machine's.

    The time in a response may be up to a second old, or older if the server is busy. So if a clock
    seems to be far off, measure again, and use the smallest skew.
    """
    smallest = await _measure_skew(client)
    for _ in range(MAX_CLOCK_RETRIES):
        if abs(smallest) <= MAX_CLOCK_SKEW:
            break
        await SYSTEM_CLOCK.wait_until(SYSTEM_CLOCK.now() + CLOCK_RETRY_INTERVAL)
        smallest = min(smallest, await _measure_skew(client), key=abs)
    return smallest


async def _measure_skew(client: PrefectClient) -> timedelta:
    import httpx

    before = SYSTEM_CLOCK.now()
    try:
        response = await client.hello()
    except httpx.HTTPStatusError as error:
        response = error.response
    return _skew(before, response, SYSTEM_CLOCK.now())


async def ui(client: PrefectClient) -> list[Finding]:
    """Check that the UI answers, and that Prefect answers at the API address that the UI uses.

    Return [] for Prefect Cloud, and if no address of a UI is known.
    """
    import httpx
    from prefect.settings import get_current_settings

    address = (current_home().running() or {}).get("ui_url") or get_current_settings().ui_url
    if not address or prefect.client.is_cloud(client):
        return []
    is_remote = urlsplit(address).hostname not in ("127.0.0.1", "localhost", "::1")
    # Without TLS, do not load the certificates of all authorities, which takes 20 ms.
    has_tls = urlsplit(address).scheme == "https"
    # For this machine, do not use a proxy from the environment; a browser does not use one either.
    async with httpx.AsyncClient(
        timeout=UI_TIMEOUT_SECONDS, trust_env=is_remote, verify=has_tls
    ) as browser:
        try:
            response = (await browser.get(f"{address.rstrip('/')}/ui-settings")).raise_for_status()
            api_url = urljoin(f"{address.rstrip('/')}/", str(response.json()["api_url"]))
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
            message = f"no Prefect UI answers at {address}: {_error_text(error)}"
            fix = f"prefect config set PREFECT_UI_URL={_api_address(client).removesuffix('/api')}"
            return [problem("ui", message, fix)]
        try:
            status = (await browser.get(f"{api_url}/health")).status_code
            if status in (200, 401, 403):
                return [passed("ui", address)]
            why = f"it returned status {status}"
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            why = _error_text(error)
    fix = f"where the server runs: prefect config set PREFECT_UI_API_URL={_api_address(client)}"
    if (current_home().running() or {}).get("own_server"):
        fix = "daybook down, then daybook up"
    return [problem("ui", f"the UI uses {api_url}, where Prefect does not answer: {why}", fix)]


@fact
async def pool_state(client: PrefectClient) -> WorkPool:
    """Return the state of the work pool for this ledger."""
    ledger_id, _ = await ledger.id_and_jobs()
    if not ledger_id:
        return await work_pool.read(client, "")
    async with open_ledger() as opened:
        return await work_pool.read(client, ledger_id, opened.now())


async def pool(client: PrefectClient) -> list[Finding]:
    """Check that the work pool has our type, and that it does not only have another Daybook's jobs.

    Warn about a pool or queues that are paused in Prefect.
    """
    jobs, state = await ledger.stored_jobs(), await pool_state(client)
    found = findings.pool(state, _api_address(client), has_jobs=bool(jobs))
    if state.type not in ("", POOL_TYPE):
        message = (
            f"the pool {WORK_POOL} has the type {state.type}, but our worker needs {POOL_TYPE}"
        )
        fix = f"prefect work-pool delete {WORK_POOL}; daybook sync"
        found.insert(0, problem("pool", message, fix))
    return found


async def worker(client: PrefectClient) -> list[Finding]:
    """Check that a worker that runs this ledger's jobs is online in our pool.

    Warn about workers of another Daybook in our pool.
    """
    state = await pool_state(client)
    if state.names_of_others and not state.idle:
        message = f"these workers of another Daybook run none of our jobs: {state.names_of_others}"
        return [warning("worker", message)]
    names = [each.name for each in state.workers if each.ours]
    return findings.worker(state) or [passed("worker", first_names(names))]


async def runs(client: PrefectClient) -> list[Finding]:
    """Check that our last finished run, in any pool, did not crash because Daybook was missing.

    Our own worker cannot run without Daybook. A worker of one of Prefect's own types can run
    without it, and then its runs crash in the pull step (`daybook.repository.enter`). Only that
    worker's own output contains the reason; the log in Prefect ends with the name of the step.
    """
    from prefect.client.schemas.filters import (
        FlowFilter,
        FlowFilterName,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
        LogFilter,
        LogFilterFlowRunId,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.sorting import FlowRunSort, LogSort

    ledger_id, _ = await ledger.id_and_jobs()
    ended = [StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED]
    runs = await client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=list(ACTIONS))),
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=ended))
        ),
        sort=FlowRunSort.END_TIME_DESC,
        limit=MAX_RUNS_READ,
    )
    candidates = (run for run in runs if not prefect.states.is_being_cancelled(run.state))
    last = next(
        (
            run
            for run in candidates
            if not prefect.occurrence.belongs_to_other_ledger(run, ledger_id)
        ),
        None,
    )
    if last is None or last.run_count or last.state_type != StateType.CRASHED:
        return []
    logs = await client.read_logs(
        LogFilter(flow_run_id=LogFilterFlowRunId(any_=[last.id])),
        sort=LogSort.TIMESTAMP_ASC,
    )
    names = [match[1] for log in logs if (match := SUBMIT_MESSAGE.match(log.message))]
    if not names or not any(PULL_STEP_MESSAGE in log.message for log in logs):
        return []
    message = (
        f"the last run, {last.name}, crashed before it began: the worker {names[0]} cannot import "
        "daybook"
    )
    fix = "where that worker runs: python -m pip install prefect_daybook-*.whl, and start it again"
    return [problem("runs", message, fix)]


def _describe_failure(address: str, error: Exception) -> Finding:
    import httpx

    if isinstance(error, httpx.TransportError):
        return _no_answer(address, _error_text(error))
    if not isinstance(error, httpx.HTTPStatusError):
        return _not_prefect(address)
    code = error.response.status_code
    if code in (401, 403):
        return _denied(address, code)
    if code < 500:
        return _not_prefect(address, f" ({code})")
    if is_own_server(address) and is_disk_full(current_home().prefect):
        return _no_answer(address, DISK_FULL)
    fix = "read the server's log, and restart the server"
    return problem("prefect", f"Prefect at {address} returned status {code}", fix)


def _no_answer(address: str, why: str) -> Finding:
    if says_disk_full(why):
        return problem("prefect", f"Prefect at {address} cannot store anything: {why}", FREE_SPACE)
    message = f"Prefect at {address} does not answer" + (f": {why}" if why else "")
    fix = f"daybook up; or, to use no other server, {unset_command()}"
    return problem("prefect", message, fix)


def _denied(address: str, code: int) -> Finding:
    fix = "export PREFECT_API_AUTH_STRING=<user:password of that server>"
    if is_own_server(address):
        fix = 'eval "$(daybook env)"'
    return problem("prefect", f"Prefect at {address} denies access ({code})", fix)


def _not_prefect(address: str, code: str = "") -> Finding:
    message = f"the server at {address} is not Prefect{code}"
    return problem("prefect", message, unset_command())


def _check_version(address: str, version: str) -> list[Finding]:
    from importlib.metadata import PackageNotFoundError

    from packaging.version import InvalidVersion, Version

    try:
        requirement = versions.requirements()["prefect"]
    except (PackageNotFoundError, KeyError):
        return []  # the check `versions` reports the problem
    try:
        Version(version)
    except InvalidVersion:
        return [_not_prefect(address)]
    subject = f"Prefect {version} of the server at {address}"
    fix = f"where that server runs: python -m pip install '{requirement}'"
    return versions.check_version("prefect", subject, requirement, version, fix)


def _skew(before: datetime, response: Response, after: datetime) -> timedelta:
    """Return the smallest possible skew of the server's clock.

    The skew is a range, because the response's header `Date` has only whole seconds.
    """
    date = response.headers.get("date")
    if date is None:
        return timedelta()
    earliest = parsedate_to_datetime(date)
    latest = earliest + timedelta(seconds=1)
    if earliest > after:
        return earliest - after
    return min(timedelta(), latest - before)


def _api_address(client: PrefectClient) -> str:
    return str(client.api_url).rstrip("/")


def _error_text(error: Any) -> str:
    return " ".join((str(error) or type(error).__name__).split())
