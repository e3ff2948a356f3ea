"""The Prefect that this process was pointed at: the right one, sound, and with a worker.

The functions that take a client are for a server of which `server` found nothing bad.
"""

from __future__ import annotations

import os
import re
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from daybook.clock import SYSTEM
from daybook.home import here, is_own_server
from daybook.operations.checks import installation, ledger
from daybook.operations.checks.problem import Problem

if TYPE_CHECKING:
    from httpx import Response
    from prefect.client.orchestration import PrefectClient

FAR = timedelta(seconds=1)
"""How far a clock may be off: docs/promise.md, rule 16."""
ASKED_AGAIN = 4
SECONDS = 5.0
"""For which the address of the UI may keep us waiting."""
PULL_STEP = "Executing deployment step: enter"
SUBMITS = re.compile(r"Worker '(.+)' submitting flow run")
"""What Prefect, and its own types of workers, write into a run's log."""
RUNS_LOOKED_AT = 20
"""So many runs are read for one that is not another Daybook's."""


async def server(client: PrefectClient) -> list[Problem]:
    """It is the one of this home's `up`, answers, lets us in, is a Prefect, and one we know."""
    address = str(client.api_url).rstrip("/")
    if (another := _another(address)) is not None:
        return [another]
    sick = await client.api_healthcheck()
    if sick is not None:
        return [_unwell(address, sick)]
    if _is_cloud(client):
        return []
    try:
        version = str(await client.api_version())
    except Exception as error:
        return [_unwell(address, error)]
    return _known(address, version)


def none_known() -> Problem:
    """No `up` runs, and no setting names a server."""
    return Problem("no Prefect server is known, and no `daybook up` runs here", "daybook up")


async def clock(client: PrefectClient) -> list[Problem]:
    """This machine's clock and the server's agree."""
    off = await ahead(client)
    if abs(off) <= FAR:
        return []
    side = "ahead of" if off > timedelta() else "behind"
    what = f"the server's clock is {abs(off).total_seconds():.1f} s {side} this machine's"
    return [Problem(what, "on both machines: sudo timedatectl set-ntp true")]


async def ahead(client: PrefectClient) -> timedelta:
    """How far the server's clock is ahead of this machine's at least.

    A server tells the time as it was up to a second ago, longer where it is busy: a clock that
    seems far off is asked again, and what speaks most for it counts.
    """
    least = await _told(client)
    for _ in range(ASKED_AGAIN):
        if abs(least) <= FAR:
            break
        await SYSTEM.wait_until(SYSTEM.now() + timedelta(seconds=0.4))
        least = min(least, await _told(client), key=abs)
    return least


async def _told(client: PrefectClient) -> timedelta:
    import httpx

    before = SYSTEM.now()
    try:
        answer = await client.hello()
    except httpx.HTTPStatusError as error:
        answer = error.response
    return _skew(before, answer, SYSTEM.now())


async def ui(client: PrefectClient) -> list[Problem]:
    """The UI is where we say it is, and asks an address at which Prefect answers."""
    import httpx
    from prefect.settings import get_current_settings

    address = (here().running() or {}).get("ui_url") or get_current_settings().ui_url
    if not address or _is_cloud(client):
        return []
    elsewhere = urlsplit(address).hostname not in ("127.0.0.1", "localhost", "::1")
    # As a browser does it: a proxy of the environment is not asked for this machine.
    async with httpx.AsyncClient(timeout=SECONDS, trust_env=elsewhere) as browser:
        try:
            told = (await browser.get(f"{address.rstrip('/')}/ui-settings")).raise_for_status()
            asks = urljoin(f"{address.rstrip('/')}/", str(told.json()["api_url"]))
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
            what = f"no Prefect UI is at {address}: {_said(error)}"
            return [Problem(what, f"prefect config set PREFECT_UI_URL={_root(client)}")]
        try:
            status = (await browser.get(f"{asks}/health")).status_code
            if status in (200, 401, 403):
                return []
            why = f"it answers {status}"
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            why = _said(error)
    mend = f"where the server runs: prefect config set PREFECT_UI_API_URL={_api(client)}"
    if (here().running() or {}).get("own_server"):
        mend = "daybook down, then daybook up"
    return [Problem(f"the UI asks {asks}, where no Prefect is: {why}", mend)]


async def pool(client: PrefectClient) -> list[Problem]:
    """The work pool is of our type, and not another Daybook's alone."""
    from daybook.operations.worker import POOL_TYPE
    from daybook.prefect import work_pool as pool
    from daybook.prefect.parameter_schema import POOL

    ledger_id, jobs = await ledger.whose()
    there = await pool.read(client, ledger_id)
    found = []
    if there.type not in ("", POOL_TYPE):
        what = f"the pool {POOL} is of type {there.type}, our worker takes {POOL_TYPE}"
        found.append(Problem(what, f"prefect work-pool delete {POOL}; daybook sync"))
    if jobs and there.foreign:
        mend = "daybook sync"
        if here().running() is None:
            mend = f"{_forget()}; or, if it is the right Prefect, {mend}"
        found.append(Problem(f"{there.foreign}: {_api(client)} is its Prefect", mend))
    return found


async def worker(client: PrefectClient) -> list[Problem]:
    """A worker of our pool is online that runs this ledger's jobs."""
    from daybook.prefect import work_pool as pool

    ledger_id, _ = await ledger.whose()
    there = await pool.read(client, ledger_id)
    if there.idle:
        mend = "daybook up"
        if here().running() is not None:
            mend = f"look at {here().logs / 'worker.log'}; daybook down, then daybook up"
        return [Problem(there.idle, mend)]
    if there.names_of_others:
        what = f"{there.names_of_others}: of another Daybook, which leaves our jobs alone"
        return [Problem(what, "", harmless=True)]
    return []


async def workers_import(client: PrefectClient) -> list[Problem]:
    """The run of our flows that ended last, in whichever pool, did not crash at the door.

    Our own worker cannot be without Daybook. One of Prefect's own types can: it fails in the pull
    step (`daybook.repository.enter`). The reason stands in that worker's own output only; what
    Prefect keeps ends with the name of the step.
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

    from daybook.prefect import parameter_schema, states
    from daybook.prefect.occurrence import belongs_elsewhere

    ledger_id, _ = await ledger.whose()
    ended = [StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED]
    runs = await client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=list(parameter_schema.PROTOTYPES))),
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=ended))
        ),
        sort=FlowRunSort.END_TIME_DESC,
        limit=RUNS_LOOKED_AT,
    )
    judged = (run for run in runs if not states.is_being_cancelled(run.state))
    last = next((run for run in judged if not belongs_elsewhere(run, ledger_id)), None)
    if last is None or last.run_count or last.state_type != StateType.CRASHED:
        return []
    logs = await client.read_logs(
        LogFilter(flow_run_id=LogFilterFlowRunId(any_=[last.id])),
        sort=LogSort.TIMESTAMP_ASC,
    )
    names = [match[1] for log in logs if (match := SUBMITS.match(log.message))]
    if not names or not any(PULL_STEP in log.message for log in logs):
        return []
    what = (
        f"the last run, {last.name}, crashed before it began: the worker {names[0]} cannot import "
        "daybook"
    )
    mend = "where that worker runs: python -m pip install daybook-*.whl, and start it again"
    return [Problem(what, mend)]


def _another(address: str) -> Problem | None:
    runs = str((here().running() or {}).get("api_url") or "").rstrip("/")
    if not runs or runs == address:
        return None
    what = f"Prefect is {address} here, but this home's `daybook up` works with {runs}"
    return Problem(what, _forget())


def _unwell(address: str, error: Exception) -> Problem:
    import httpx

    if not isinstance(error, httpx.HTTPStatusError):
        if isinstance(error, httpx.TransportError):
            what = f"Prefect at {address} does not answer: {_said(error)}"
            return Problem(what, f"daybook up; or, to use no other server, {_forget()}")
        return Problem(f"what answers at {address} is no Prefect", _forget())
    code = error.response.status_code
    if code in (401, 403):
        what = f"Prefect at {address} denies access ({code})"
        if is_own_server(address):
            return Problem(what, 'eval "$(daybook env)"')
        return Problem(what, "export PREFECT_API_AUTH_STRING=<user:password of that server>")
    if code < 500:
        return Problem(f"what answers at {address} is no Prefect ({code})", _forget())
    return Problem(f"Prefect at {address} answers {code}", "look at its log, and start it again")


def _known(address: str, version: str) -> list[Problem]:
    from importlib.metadata import PackageNotFoundError

    from packaging.version import InvalidVersion, Version

    try:
        asked = installation.requirements()["prefect"].specifier
    except (PackageNotFoundError, KeyError):
        return []  # `versions` tells of it
    try:
        if asked.contains(Version(version), prereleases=True):
            return []
    except InvalidVersion:
        return [Problem(f"what answers at {address} is no Prefect", _forget())]
    what = f"the server at {address} is Prefect {version}, outside of {asked}"
    return [Problem(what, f"where that server runs: python -m pip install 'prefect{asked}'")]


def _forget() -> str:
    """How the user's own setting of a server is undone."""
    if os.environ.get("PREFECT_API_URL"):
        return "unset PREFECT_API_URL"
    return "prefect config unset PREFECT_API_URL"


def _skew(before: datetime, answer: Response, after: datetime) -> timedelta:
    """By how much the server's clock is ahead at least, by its `Date`, in whole seconds."""
    told = answer.headers.get("date")
    if told is None:
        return timedelta()
    earliest = parsedate_to_datetime(told)
    latest = earliest + timedelta(seconds=1)
    if earliest > after:
        return earliest - after
    return min(timedelta(), latest - before)


def _is_cloud(client: PrefectClient) -> bool:
    from prefect.client.base import ServerType

    return client.server_type == ServerType.CLOUD


def _api(client: PrefectClient) -> str:
    return str(client.api_url).rstrip("/")


def _root(client: PrefectClient) -> str:
    return _api(client).removesuffix("/api")


def _said(error: Any) -> str:
    return " ".join((str(error) or type(error).__name__).split())
