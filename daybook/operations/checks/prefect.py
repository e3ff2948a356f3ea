"""Checks of the Prefect that this process uses: the right one, sound, and with a worker.

The functions that take a client require that `server` found no problem.
"""

from __future__ import annotations

import os
import re
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from daybook.clock import SYSTEM_CLOCK
from daybook.home import current_home, is_own_server
from daybook.operations.checks import Problem, installation, ledger

if TYPE_CHECKING:
    from httpx import Response
    from prefect.client.orchestration import PrefectClient

MAX_CLOCK_SKEW = timedelta(seconds=1)
"""How far a clock may be off (promise 16: a skew above 1 s shows in `doctor`)."""
MAX_CLOCK_RETRIES = 4
UI_TIMEOUT_SECONDS = 5.0
"""Timeout of requests to the address of the UI."""
PULL_STEP_MESSAGE = "Executing deployment step: enter"
SUBMIT_MESSAGE = re.compile(r"Worker '(.+)' submitting flow run")
"""Written to a run's log by Prefect and by its own types of workers."""
MAX_RUNS_READ = 20
"""How many runs are read to find one that belongs to this Daybook."""


async def server(client: PrefectClient) -> list[Problem]:
    """Check that it is the server of this home's `up`, answers, accepts us, and is a known
    Prefect.
    """
    address = str(client.api_url).rstrip("/")
    if (other := _other_server(address)) is not None:
        return [other]
    failure = await client.api_healthcheck()
    if failure is not None:
        return [_describe_failure(address, failure)]
    if _is_cloud(client):
        return []
    try:
        version = str(await client.api_version())
    except Exception as error:
        return [_describe_failure(address, error)]
    return _check_version(address, version)


def no_server_known() -> Problem:
    """Return the problem that no `up` runs and no setting names a server."""
    return Problem("no Prefect server is known, and no `daybook up` runs here", "daybook up")


async def clock(client: PrefectClient) -> list[Problem]:
    """Check that this machine's clock and the server's agree."""
    skew = await clock_ahead(client)
    if abs(skew) <= MAX_CLOCK_SKEW:
        return []
    side = "ahead of" if skew > timedelta() else "behind"
    message = f"the server's clock is {abs(skew).total_seconds():.1f} s {side} this machine's"
    return [Problem(message, "on both machines: sudo timedatectl set-ntp true")]


async def clock_ahead(client: PrefectClient) -> timedelta:
    """Return by how much the server's clock is ahead of this machine's, at least.

    A server reports its time as of up to a second ago, longer if it is busy: a clock that seems far
    off is measured again, and the smallest skew counts.
    """
    smallest = await _measure_skew(client)
    for _ in range(MAX_CLOCK_RETRIES):
        if abs(smallest) <= MAX_CLOCK_SKEW:
            break
        await SYSTEM_CLOCK.wait_until(SYSTEM_CLOCK.now() + timedelta(seconds=0.4))
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


async def ui(client: PrefectClient) -> list[Problem]:
    """Check that the UI is at its address, and uses an API address at which Prefect answers."""
    import httpx
    from prefect.settings import get_current_settings

    address = (current_home().running() or {}).get("ui_url") or get_current_settings().ui_url
    if not address or _is_cloud(client):
        return []
    is_remote = urlsplit(address).hostname not in ("127.0.0.1", "localhost", "::1")
    # As a browser does: no proxy of the environment is used for this machine.
    async with httpx.AsyncClient(timeout=UI_TIMEOUT_SECONDS, trust_env=is_remote) as browser:
        try:
            response = (await browser.get(f"{address.rstrip('/')}/ui-settings")).raise_for_status()
            api_url = urljoin(f"{address.rstrip('/')}/", str(response.json()["api_url"]))
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
            message = f"no Prefect UI is at {address}: {_error_text(error)}"
            return [Problem(message, f"prefect config set PREFECT_UI_URL={_ui_address(client)}")]
        try:
            status = (await browser.get(f"{api_url}/health")).status_code
            if status in (200, 401, 403):
                return []
            why = f"it answers {status}"
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            why = _error_text(error)
    fix = f"where the server runs: prefect config set PREFECT_UI_API_URL={_api_address(client)}"
    if (current_home().running() or {}).get("own_server"):
        fix = "daybook down, then daybook up"
    return [Problem(f"the UI asks {api_url}, where no Prefect is: {why}", fix)]


async def pool(client: PrefectClient) -> list[Problem]:
    """Check that the work pool has our type, and does not belong to another Daybook alone."""
    from daybook.operations.worker import POOL_TYPE
    from daybook.prefect import work_pool as pool
    from daybook.prefect.parameter_schema import WORK_POOL

    ledger_id, jobs = await ledger.id_and_jobs()
    state = await pool.read(client, ledger_id)
    problems = []
    if state.type not in ("", POOL_TYPE):
        message = f"the pool {WORK_POOL} is of type {state.type}, our worker takes {POOL_TYPE}"
        problems.append(Problem(message, f"prefect work-pool delete {WORK_POOL}; daybook sync"))
    if jobs and state.foreign:
        fix = "daybook sync"
        if current_home().running() is None:
            fix = f"{_unset_command()}; or, if it is the right Prefect, {fix}"
        problems.append(Problem(f"{state.foreign}: {_api_address(client)} is its Prefect", fix))
    return problems


async def worker(client: PrefectClient) -> list[Problem]:
    """Check that a worker of our pool is online that runs this ledger's jobs."""
    from daybook.prefect import work_pool as pool

    ledger_id, _ = await ledger.id_and_jobs()
    state = await pool.read(client, ledger_id)
    if state.idle:
        fix = "daybook up"
        if current_home().running() is not None:
            fix = f"look at {current_home().logs / 'worker.log'}; daybook down, then daybook up"
        return [Problem(state.idle, fix)]
    if state.names_of_others:
        message = f"{state.names_of_others}: of another Daybook, which leaves our jobs alone"
        return [Problem(message, "", harmless=True)]
    return []


async def workers_import(client: PrefectClient) -> list[Problem]:
    """Check that our last finished run, in whichever pool, did not crash before its flow started.

    Our own worker cannot run without Daybook. A worker of one of Prefect's own types can: its run
    fails in the pull step (`daybook.repository.enter`). The reason is in that worker's own output
    only; the log in Prefect ends with the name of the step.
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

    from daybook.jobs.actions import ACTIONS
    from daybook.prefect import states
    from daybook.prefect.occurrence import belongs_to_other_ledger

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
    candidates = (run for run in runs if not states.is_being_cancelled(run.state))
    last = next((run for run in candidates if not belongs_to_other_ledger(run, ledger_id)), None)
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
    fix = "where that worker runs: python -m pip install daybook-*.whl, and start it again"
    return [Problem(message, fix)]


def _other_server(address: str) -> Problem | None:
    running_url = str((current_home().running() or {}).get("api_url") or "").rstrip("/")
    if not running_url or running_url == address:
        return None
    message = f"Prefect is {address} here, but this home's `daybook up` works with {running_url}"
    return Problem(message, _unset_command())


def _describe_failure(address: str, error: Exception) -> Problem:
    import httpx

    if not isinstance(error, httpx.HTTPStatusError):
        if isinstance(error, httpx.TransportError):
            message = f"Prefect at {address} does not answer: {_error_text(error)}"
            return Problem(message, f"daybook up; or, to use no other server, {_unset_command()}")
        return Problem(f"what answers at {address} is no Prefect", _unset_command())
    code = error.response.status_code
    if code in (401, 403):
        message = f"Prefect at {address} denies access ({code})"
        if is_own_server(address):
            return Problem(message, 'eval "$(daybook env)"')
        return Problem(message, "export PREFECT_API_AUTH_STRING=<user:password of that server>")
    if code < 500:
        return Problem(f"what answers at {address} is no Prefect ({code})", _unset_command())
    return Problem(f"Prefect at {address} answers {code}", "look at its log, and start it again")


def _check_version(address: str, version: str) -> list[Problem]:
    from importlib.metadata import PackageNotFoundError

    from packaging.version import InvalidVersion, Version

    try:
        bounds = installation.requirements()["prefect"].specifier
    except (PackageNotFoundError, KeyError):
        return []  # `versions` reports it
    try:
        if bounds.contains(Version(version), prereleases=True):
            return []
    except InvalidVersion:
        return [Problem(f"what answers at {address} is no Prefect", _unset_command())]
    message = f"the server at {address} is Prefect {version}, outside of {bounds}"
    return [Problem(message, f"where that server runs: python -m pip install 'prefect{bounds}'")]


def _unset_command() -> str:
    """Return the command that unsets the user's own setting of a server."""
    if os.environ.get("PREFECT_API_URL"):
        return "unset PREFECT_API_URL"
    return "prefect config unset PREFECT_API_URL"


def _skew(before: datetime, response: Response, after: datetime) -> timedelta:
    """Return by how much the server's clock is ahead, at least, by its `Date` in whole seconds."""
    date = response.headers.get("date")
    if date is None:
        return timedelta()
    earliest = parsedate_to_datetime(date)
    latest = earliest + timedelta(seconds=1)
    if earliest > after:
        return earliest - after
    return min(timedelta(), latest - before)


def _is_cloud(client: PrefectClient) -> bool:
    from prefect.client.base import ServerType

    return client.server_type == ServerType.CLOUD


def _api_address(client: PrefectClient) -> str:
    return str(client.api_url).rstrip("/")


def _ui_address(client: PrefectClient) -> str:
    return _api_address(client).removesuffix("/api")


def _error_text(error: Any) -> str:
    return " ".join((str(error) or type(error).__name__).split())
