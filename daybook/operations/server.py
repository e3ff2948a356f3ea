"""A Prefect server of our own: API, UI and services on this machine, on SQLite in the home.

`python -m daybook.operations.server --port 4200` runs it in the foreground; `start` begins that as a
child. It listens on 127.0.0.1, sends no analytics, and keeps flow runs as long as the ledger keeps
its runs (requirement 19). It asks for the home's credential, or for the cookie of a browser that
has logged in (`login.BrowserLogin`), and lets no web page but its own UI in (`origin.OwnOrigin`):
a Prefect that cannot be guarded so is not started.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import sys
import time
from collections.abc import Callable

from daybook import home as homes
from daybook import settings
from daybook.errors import PrefectUnreachable
from daybook.home import Home
from daybook.processes import children, proc

HOST = "127.0.0.1"
PORT = 4200
DAY = 24 * 60 * 60
LOOK_AGAIN = 0.1
PROGRESS_SECONDS = 1.0
"""How often the progress of a wait is reported; `output.progress` shows it less often where that is
no terminal."""
TAKEN = os.EX_TEMPFAIL
"""The server's exit code when its port is taken."""
UNGUARDED = os.EX_SOFTWARE
"""The server's exit code when it would be open to any web page."""
BACKLOG = 2048
GRACEFUL = 5
"""Seconds that open requests get at the end; the UI's websockets would otherwise hold it up."""


class NotStarted(PrefectUnreachable):
    """A server of our own that does not come up: not one that somebody else has to start."""

    def __init__(self, api_url: str, why: str) -> None:
        super().__init__(api_url, why)
        self.args = (f"the Prefect server of this home did not start: {why}",)


def api_url(port: int) -> str:
    return f"http://{HOST}:{port}/api"


def ui_url(port: int) -> str:
    """Opens the UI that the server prefers: it holds two, and sends `/` on to that one."""
    return f"http://{HOST}:{port}"


def environment(home: Home, port: int) -> dict[str, str]:
    """The variables for a server on ``port`` with its files in ``home``.

    What the operator has set stays, such as another database; where the server is, and that it
    sends no analytics, is ours. The credential is not among them: the server reads it from the
    home. Raises `InvalidInput` for settings of this home that are not legal.
    """
    # A profile names a server or a database of somebody else, and does not exist in our home.
    dropped = {"PREFECT_PROFILE", "PREFECT_PROFILES_PATH", "PREFECT_API_KEY"}
    given = {
        name: value
        for name, value in homes.without_credentials(os.environ).items()
        if name not in dropped
    }
    preferred = {
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": f"{ui_url(port)},http://localhost:{port}",
        "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
        "PREFECT_LOGGING_COLORS": "false",
        **_retention(),
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    }
    ours = {
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
    return {**preferred, **given, **ours}


def _retention() -> dict[str, str]:
    """Flow runs go on the ledger's terms, by age; Prefect knows none by count."""
    vacuum = "PREFECT_SERVER_SERVICES_DB_VACUUM"
    days = settings.load().keep_days
    if not days:
        return {f"{vacuum}_ENABLED": "events"}
    return {
        f"{vacuum}_ENABLED": "events,flow_runs",
        f"{vacuum}_RETENTION_PERIOD": str(days * DAY),
    }


def absolute_python_path() -> dict[str, str]:
    """`PYTHONPATH` for a child that runs in another folder than this process; {} if not set."""
    path = os.environ.get("PYTHONPATH")
    if not path:
        return {}
    return {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, path.split(os.pathsep)))}


async def start(home: Home, port: int) -> children.Child:
    """Begin a server on ``port``; `healthy` tells when it answers. Its log is `logs/server.log`.

    Its credential is `PREFECT_SERVER_API_AUTH_STRING` if that is set, else the home's.
    """
    home.make()
    home.ensure_credential(os.environ.get(homes.SERVER_CREDENTIAL, ""))
    return await children.start(
        "server",
        [sys.executable, "-m", "daybook.operations.server", "--port", str(port)],
        environment=environment(home, port),
        log=home.logs / "server.log",
        folder=home.path,
    )


async def healthy(
    api_url: str,
    within: float = 120.0,
    *,
    child: children.Child | None = None,
    progress: Callable[[float], None] | None = None,
) -> None:
    """Wait until the server answers `GET /health` with 200.

    ``progress`` is called with the seconds waited so far, now and then. Raises `PrefectUnreachable`
    after ``within`` seconds; `NotStarted` where ``child`` is the server's process, then and, with
    the last lines of its log, as soon as that has ended.
    """
    import httpx

    began = time.monotonic()
    tell = PROGRESS_SECONDS
    why = "no answer"
    async with httpx.AsyncClient(timeout=1.0, trust_env=False) as client:
        while (waited := time.monotonic() - began) < within:
            if child is not None and child.exit_code is not None:
                why = f"it ended with code {child.exit_code}\n{child.tail()}"
                break
            try:
                answer = await client.get(f"{api_url}/health")
                if answer.status_code == httpx.codes.OK:
                    return
                why = f"it answers {answer.status_code}"
            except httpx.TransportError as error:
                why = str(error) or type(error).__name__
            if progress is not None and waited >= tell:
                tell = waited + PROGRESS_SECONDS
                progress(waited)
            await asyncio.sleep(LOOK_AGAIN)
    raise PrefectUnreachable(api_url, why) if child is None else NotStarted(api_url, why)


def free_port(preferred: int | None = None) -> int:
    """``preferred`` (`PORT`) if nobody listens there, else any free one; 0 prefers none."""
    preferred = PORT if preferred is None else preferred
    return preferred if preferred and _is_free(preferred) else _any_port()


def _is_free(port: int) -> bool:
    # Somebody who listens on all addresses does not everywhere hinder a second on this one.
    with socket.socket() as probe:
        probe.settimeout(1.0)
        if probe.connect_ex((HOST, port)) == 0:
            return False
    with socket.socket() as probe:
        # As the server itself will do: an old connection that is still closing is no hindrance.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _any_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def run(port: int) -> None:
    """Run the server in this process until it is told to end. For a process of its own.

    Exits with `TAKEN` when somebody else listens on ``port``, and with `UNGUARDED` when other web
    pages cannot be kept from this Prefect; what it then prints says what to do.
    """
    listener = listen(port)  # before the slow imports: whoever looks for a port sees it taken
    os.umask(0o077)  # Prefect makes its database readable for all
    proc.deny_inspection()
    home = homes.here()
    credential = home.ensure_credential()
    os.environ[homes.SERVER_CREDENTIAL] = os.environ[homes.CLIENT_CREDENTIAL] = credential

    from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, get_current_settings

    from daybook.operations.login import BrowserLogin
    from daybook.operations.origin import OwnOrigin
    from daybook.prefect import private_names

    private_names.begin_writes_immediately(PREFECT_API_DATABASE_CONNECTION_URL.value())
    private_names.remember_time_zones()
    application = private_names.server_application()
    if application is None:
        # Who may write to the API can have a worker run any program.
        print(_UNGUARDED_WORDS.format(api_url=api_url(PORT)), file=sys.stderr)
        sys.exit(UNGUARDED)

    import uvicorn

    settings = get_current_settings().server
    login = BrowserLogin(application, credential, home.browser_key(), port)
    config = uvicorn.Config(
        OwnOrigin(login, settings.api.cors_allowed_origins.split(",")),
        timeout_keep_alive=settings.api.keepalive_timeout,
        timeout_graceful_shutdown=GRACEFUL,
        ws_ping_interval=settings.api.websocket_ping_interval,
        ws_ping_timeout=settings.api.websocket_ping_timeout,
        log_level=settings.logging_level.lower(),
        access_log=False,
        server_header=False,
    )
    uvicorn.Server(config).run(sockets=[listener])


_UNGUARDED_WORDS = """\
This version of Prefect has changed inside, and Daybook cannot keep other web pages away from it.
So it is not started. Install the versions in requirements.lock (in a clone: make install), or run
`prefect server start` yourself, without that guard, and set PREFECT_API_URL={api_url}"""


def listen(port: int) -> socket.socket:
    """A listening socket of ``port``; ends this process where it is taken."""
    # With its protocol named: asyncio sends without delay only where it sees that it is TCP. Else
    # an answer in two parts waits 40 ms for the client's word about the first.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
        listener.listen(BACKLOG)
    except OSError as error:
        print(f"port {port}: {error}", file=sys.stderr)
        sys.exit(TAKEN)
    return listener


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m daybook.operations.server")
    parser.add_argument("--port", type=int, required=True)
    run(parser.parse_args().port)


if __name__ == "__main__":
    main()
