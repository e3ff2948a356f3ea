"""Daybook's own Prefect server: API, UI and services on this machine, with SQLite in the home.

`python -m daybook.operations.server --port 4200` runs the server in the foreground; `start` runs
this command as a child. The server listens on 127.0.0.1, sends no analytics, and deletes flow runs
at the age at which the ledger deletes runs.

The server requires the home's credential, or the cookie of a logged-in browser
(`prefect_login.PrefectLogin`). It accepts requests from no web page except its own UI
(`host_names.SameOriginGuard`), unless the operator has set other CORS origins for Prefect. If
Daybook cannot add these guards to the installed Prefect version, the server does not start.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from daybook import home as homes
from daybook import settings
from daybook.errors import PrefectUnreachable
from daybook.home import Home
from daybook.operations import prefect_database
from daybook.operations.host_names import SameOriginGuard
from daybook.operations.prefect_login import PrefectLogin
from daybook.prefect import private_names, server_requests
from daybook.processes import children, garbage, group, image, open_files, output, proc
from daybook.timing import TIMING

MODULE = "daybook.operations.server"
"""Name of this module; in the server's process, `__name__` is `__main__`."""
HOST = "127.0.0.1"
PORT = 4200
DAY_SECONDS = 24 * 60 * 60
EVENT_DAYS = 2
"""Days for which Prefect stores events. Its default is a week. A run's events have about 50 KB."""
BACKGROUND_INTERVAL = timedelta(seconds=1)
"""Interval at which the server queries for due background tasks."""
POLL_RECORD_INTERVAL = timedelta(seconds=15)
"""Interval at which the server records that the deployments of polled queues are ready."""
POLL_INTERVAL_SECONDS = 0.1
ANSWER_TIMEOUT_SECONDS = 5.0
"""Timeout of one request to a server that is starting.

On a busy machine, the server answers slowly.
"""
PROGRESS_INTERVAL_SECONDS = 1.0
"""Interval between two progress reports. Outside a terminal, `cli.output` shows fewer reports."""
EXIT_PORT_TAKEN = os.EX_TEMPFAIL
"""The server's exit code if its port is taken."""
EXIT_UNGUARDED = os.EX_SOFTWARE
"""The server's exit code if this Prefect cannot reject requests from other web pages."""
BACKLOG = 2048
MAX_WAITING_CONNECTIONS = 500
"""Maximum number of connections that wait for the head of a request. All come from this machine."""
MAX_OPEN_FILES = 65_536
"""Limit of the server's open files. A thousand clients would reach the usual limit."""
SLOWER_SERVICES = {
    "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT15S",
    "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_LOOP_SECONDS": "60",
    "PREFECT_SERVER_SERVICES_CLEANUP_RECONCILER_LOOP_SECONDS": "30",
    "PREFECT_SERVER_SERVICES_FOREMAN_LOOP_SECONDS": "30",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS": "15",
    "PREFECT_SERVER_SERVICES_PAUSE_EXPIRATIONS_LOOP_SECONDS": "30",
    "PREFECT_SERVER_SERVICES_REPOSSESSOR_LOOP_SECONDS": "30",
    "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "15",
}
"""Intervals of Prefect's services on which no rule of Daybook depends. Most defaults are 5 s."""
FOR_OVERLOAD = {
    "PREFECT_SERVER_API_DEFAULT_LIMIT": "1000",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_AFTER_SECONDS": "360",
}
"""Settings for a server with more due runs than the workers can start.

The server may list `run_queue.LARGE_PAGE_SIZE` runs at once instead of 200. A run is late after
360 s instead of 15 s: each change to Late costs Prefect a state and an event, and each worker a
poll.
"""
SHUTDOWN_GRACE_SECONDS = 5
"""Maximum time that a shutdown waits for open requests, such as the UI's websockets."""


class ServerNotStarted(PrefectUnreachable):
    """Error: Daybook's own Prefect server did not start.

    Never raised for the user's own Prefect.
    """

    def __init__(self, api_url: str, why: str) -> None:
        super().__init__(api_url, why)
        self.args = (f"the Prefect server of this home did not start: {why}",)


def api_url(port: int) -> str:
    return f"http://{HOST}:{port}/api"


def ui_url(port: int) -> str:
    """Return the address of the UI. The server has two UIs, and redirects `/` to one of them."""
    return f"http://{HOST}:{port}"


def environment(home: Home, port: int) -> dict[str, str]:
    """Return the variables for a server on ``port`` with its files in ``home``.

    Variables that the operator has set, such as another database, stay as they are. The exceptions
    are profiles, credentials, and the variables for homes, the server's address and analytics. The
    server reads its credential from the home. Raise `InvalidInput` for invalid settings of this
    home.
    """
    # A profile names another server or database, and this home has no profiles.
    dropped = {"PREFECT_PROFILE", "PREFECT_PROFILES_PATH", "PREFECT_API_KEY"}
    inherited = {
        name: value
        for name, value in homes.without_credentials(os.environ).items()
        if name not in dropped
    }
    preferred = {
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": f"{ui_url(port)},http://localhost:{port}",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "PREFECT_LOGGING_COLORS": "false",
        "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": f"P{EVENT_DAYS}D",
        **SLOWER_SERVICES,
        **FOR_OVERLOAD,
        **_retention(),
        **_ui_folder(home),
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    }
    fixed = {
        "DAYBOOK_HOME": str(home.path),
        "PREFECT_HOME": str(home.prefect),
        "PREFECT_API_URL": api_url(port),
        "PREFECT_SERVER_API_HOST": HOST,
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_UI_API_URL": api_url(port),
        "PREFECT_SERVER_UI_API_URL": api_url(port),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PYTHONUNBUFFERED": "1",
        **absolute_python_path(),
    }
    return {**preferred, **inherited, **fixed}


def _retention() -> dict[str, str]:
    """Return the ledger's retention as variables for Prefect, which limits runs only by age."""
    vacuum = "PREFECT_SERVER_SERVICES_DB_VACUUM"
    days = settings.load().keep_days
    if not days:
        return {f"{vacuum}_ENABLED": "events,orphans"}
    return {
        f"{vacuum}_ENABLED": "events,flow_runs,orphans",
        f"{vacuum}_RETENTION_PERIOD": str(days * DAY_SECONDS),
    }


def _ui_folder(home: Home) -> dict[str, str]:
    """Return the variable for a folder of the UI's files in the home, if Prefect needs one.

    Prefect puts these files beside its code at the first start, so it needs the folder if this
    process may not write there. Without the files there is no UI, and beside those of another user
    the server does not start.
    """
    spec = importlib.util.find_spec("prefect")
    folder = Path(spec.origin).parent / "server" if spec and spec.origin else None
    if folder is None or os.access(folder, os.W_OK):
        return {}
    return {"PREFECT_SERVER_UI_STATIC_DIRECTORY": str(home.prefect / "ui")}


def absolute_python_path() -> dict[str, str]:
    """Return an absolute `PYTHONPATH` for a child in another folder; {} if it is not set."""
    path = os.environ.get("PYTHONPATH")
    if not path:
        return {}
    return {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, path.split(os.pathsep)))}


def child_environment(home: Home) -> dict[str, str]:
    """Return the environment of a child of `up` that reads its credential from the home."""
    return {
        **homes.without_credentials(os.environ),
        "DAYBOOK_HOME": str(home.path),
        "PYTHONUNBUFFERED": "1",
        **absolute_python_path(),
    }


async def start(home: Home, port: int, forked_from: image.Image | None = None) -> children.Child:
    """Start a server on ``port`` as a child, and return before it is ready.

    `wait_until_healthy` waits for the server. The server's log is `logs/server.log`. Its credential
    is `PREFECT_SERVER_API_AUTH_STRING` if this variable is set, otherwise the home's credential.
    Raise `InvalidInput` for an invalid credential or invalid settings.
    """
    home.make()
    home.ensure_credential(os.environ.get(homes.SERVER_CREDENTIAL, ""))
    return await children.start(
        "server",
        [*image.PYTHON_MODULE, MODULE, "--port", str(port)],
        environment=environment(home, port),
        log=home.logs / "server.log",
        folder=home.path,
        forked_from=forked_from,
    )


async def wait_until_healthy(
    api_url: str,
    within: float | None = None,
    *,
    child: children.Child | None = None,
    progress: Callable[[float], None] | None = None,
) -> None:
    """Wait until the server responds to `GET /health` with 200.

    Every `PROGRESS_INTERVAL_SECONDS`, call ``progress`` with the seconds waited so far. Raise
    `PrefectUnreachable` after ``within`` seconds, by default two minutes.

    If ``child`` is the server's process, raise `ServerNotStarted` instead, with the last lines of
    the child's log. If the child has ended, raise this error at once. For a child, the default of
    ``within`` is `Timing.max_start`, so that a slow machine has enough time.
    """
    import httpx

    if within is None:
        within = 120.0 if child is None else TIMING.max_start.total_seconds()
    started = time.monotonic()
    next_report = PROGRESS_INTERVAL_SECONDS
    why = "no answer"
    async with httpx.AsyncClient(timeout=ANSWER_TIMEOUT_SECONDS, trust_env=False) as client:
        while (waited := time.monotonic() - started) < within:
            if child is not None and child.exit_code is not None:
                why = f"it {group.describe_exit(child.exit_code)}\n{child.tail()}"
                break
            try:
                response = await client.get(f"{api_url}/health")
                if response.status_code == httpx.codes.OK:
                    return
                why = f"it returned status {response.status_code}"
            except httpx.TransportError as error:
                why = str(error) or type(error).__name__
            if progress is not None and waited >= next_report:
                next_report = waited + PROGRESS_INTERVAL_SECONDS
                progress(waited)
            await asyncio.sleep(POLL_INTERVAL_SECONDS)
    raise PrefectUnreachable(api_url, why) if child is None else ServerNotStarted(api_url, why)


def free_port(preferred: int | None = None) -> int:
    """Return ``preferred`` if this port is free, otherwise any free port.

    The default of ``preferred`` is `PORT`; 0 means no preference.
    """
    preferred = PORT if preferred is None else preferred
    if preferred and _is_free(preferred):
        return preferred
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _is_free(port: int) -> bool:
    # Try to connect first. On some systems, a listener on all addresses does not prevent this
    # process from listening on this address.
    with socket.socket() as probe:
        probe.settimeout(1.0)
        if probe.connect_ex((HOST, port)) == 0:
            return False
    with socket.socket() as probe:
        # The server sets this option too. So an old connection that is still closing does not block
        # the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def run(port: int) -> None:
    """Run the server in this process until a signal stops it. The process must do nothing else.

    If ``port`` cannot be used, print the reason and exit with `EXIT_PORT_TAKEN`. If this Prefect
    cannot reject requests from other web pages, print the reason and the fix, and exit with
    `EXIT_UNGUARDED`.
    """
    output.survive_full_disk()
    garbage.collect_rarely()
    open_files.raise_limit(MAX_OPEN_FILES)
    # Listen before the slow imports, so that other processes find the port in use.
    listener = listen(port)
    os.umask(0o077)  # Prefect would make its database readable for all users
    proc.deny_inspection()
    home = homes.current_home()
    credential = home.ensure_credential()
    os.environ[homes.SERVER_CREDENTIAL] = os.environ[homes.CLIENT_CREDENTIAL] = credential

    from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, get_current_settings

    _prepare_database()
    database = prefect_database.path(home)
    prefect_database.compact(database)  # no other process uses the file yet
    threading.Thread(
        target=prefect_database.release_regularly, args=(database,), daemon=True
    ).start()
    private_names.reload_settings()  # a fork of the image has already read the settings
    private_names.configure_sqlite(PREFECT_API_DATABASE_CONNECTION_URL.value())
    private_names.execute_in_one_step()
    private_names.slow_down_background_tasks(BACKGROUND_INTERVAL)
    private_names.listen_rarely(BACKGROUND_INTERVAL)
    improve()
    application = private_names.server_application()
    if application is None:
        # A client with write access to the API can make a worker run any program.
        print(_UNGUARDED_MESSAGE.format(api_url=api_url(PORT)), file=sys.stderr)
        sys.exit(EXIT_UNGUARDED)

    import uvicorn

    from daybook.operations import connections

    settings = get_current_settings().server
    login = PrefectLogin(application, credential, home.browser_key(), port)
    config = uvicorn.Config(
        SameOriginGuard(login, settings.api.cors_allowed_origins.split(",")),
        http=connections.limited_protocol(waiting=MAX_WAITING_CONNECTIONS),
        timeout_keep_alive=settings.api.keepalive_timeout,
        timeout_graceful_shutdown=SHUTDOWN_GRACE_SECONDS,
        ws_ping_interval=settings.api.websocket_ping_interval,
        ws_ping_timeout=settings.api.websocket_ping_timeout,
        log_level=settings.logging_level.lower(),
        access_log=False,
        server_header=False,
    )
    connections.Server(config).run(sockets=[listener])


def improve() -> None:
    """Make this process, a server of Prefect, cheaper, and let its log show no parameters."""
    hide_parameters()
    private_names.cache_time_zones()
    private_names.check_schemas_once()
    private_names.record_polls_rarely(POLL_RECORD_INTERVAL)
    server_requests.read_in_one_statement()
    server_requests.call_dependencies_directly()
    server_requests.call_middleware_directly()


def hide_parameters() -> None:
    """Omit the parameters from errors of SQL statements in this process.

    Prefect logs each conflict with its statement, and the statement's parameters may be prompts and
    answers.
    """
    from sqlalchemy import event
    from sqlalchemy.engine import Engine, ExceptionContext

    def hide(context: ExceptionContext) -> None:
        if context.sqlalchemy_exception is not None:
            context.sqlalchemy_exception.hide_parameters = True

    event.listen(Engine, "handle_error", hide)


_UNGUARDED_MESSAGE = """\
Daybook does not start this version of Prefect, because it cannot protect it from other web pages.
Install the versions in requirements.lock (in a clone: make install), or run
`prefect server start` yourself, without that guard, and set PREFECT_API_URL={api_url}"""


def _prepare_database() -> None:
    """Migrate Prefect's database and register its block types, in a process that ends afterwards.

    In this process, the imports and data of these steps would be a quarter of the server's memory.
    If the other process fails, this process repeats the steps and reports the error. On a system
    other than Linux, or if this process has several threads, do nothing. Then Prefect does these
    steps when the server starts.
    """
    if sys.platform != "linux" or len(os.listdir("/proc/self/task")) > 1:
        return
    if (pid := os.fork()) == 0:
        try:
            proc.end_with_parent()
            private_names.reload_settings()
            private_names.prepare_database()
        finally:
            os._exit(1)
    if os.waitpid(pid, 0)[1] == 0:
        os.environ |= dict.fromkeys(private_names.DATABASE_PREPARATIONS, "false")


def listen(port: int) -> socket.socket:
    """Return a listening socket on ``port``; exit this process if the port cannot be used."""
    # Name the protocol, because asyncio disables Nagle's delay only for a socket known to be TCP.
    # Otherwise a response in two parts waits 40 ms until the client acknowledges the first part.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(BACKLOG)
    except OSError as error:
        print(f"port {port}: {error}", file=sys.stderr)
        sys.exit(EXIT_PORT_TAKEN)
    return listener


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m daybook.operations.server")
    parser.add_argument("--port", type=int, required=True)
    run(parser.parse_args().port)


if __name__ == "__main__":
    main()
