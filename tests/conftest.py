"""One Prefect server for the whole session, and a home of its own for each test.

The environment is set here, before any test module imports Prefect, which reads it once. No test
can then reach the developer's own Prefect or `~/.daybook`. The server itself starts at the first
use of `prefect_server`; a test that talks to Prefect without that fixture finds nobody there.
"""

from __future__ import annotations

import gc
import math
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import settings

from daybook.home import CLIENT_CREDENTIAL, SERVER_CREDENTIAL, Home
from daybook.operations import server
from daybook.processes.children import Child
from tests import costs
from tests.servers import free_port, migrated

if TYPE_CHECKING:
    from tests.databases import Database, Server
    from tests.world import World

# How fast an example is on a loaded machine is nothing that a test is about.
settings.register_profile("without a deadline", deadline=None)
settings.load_profile("without a deadline")
settings.register_profile("few", max_examples=settings().max_examples // 10, deadline=None)

REPOSITORY = Path(__file__).parent.parent
SESSION_HOME = Path(tempfile.mkdtemp(prefix="daybook-tests-"))
SESSION_PORT = free_port()

# A script's shell has what it begins in the background ignore SIGINT, and so would all that the
# tests begin. Prefect's own command of a worker ends by it, also when it is told SIGTERM.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

for _name in [n for n in os.environ if n.startswith(("PREFECT_", "DAYBOOK_"))]:
    del os.environ[_name]
# No test asks a provider of the developer's, nor makes an agent with their key.
for _name in [n for n in os.environ if n.endswith(("_API_KEY", "_BASE_URL", "_AUTH_TOKEN"))]:
    del os.environ[_name]
# What a command prints has the same width and no colours wherever the tests run.
for _name in ("COLUMNS", "LINES", "FORCE_COLOR", "TTY_COMPATIBLE"):
    os.environ.pop(_name, None)
os.environ["DAYBOOK_HOME"] = str(SESSION_HOME)
# Prefect's second scheduler queues what was written in the last seconds, at a moment of its own:
# what a test finds queued is what we asked for. The first one, each minute, stays.
os.environ["PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS"] = "3600"
# Children run in other folders; from a checkout that is not installed they find it here.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
)
os.environ.update(server.environment(Home(SESSION_HOME).make(), SESSION_PORT))
# Each server that a test starts asks for this credential, and what talks to it has to send it.
CREDENTIAL = Home(SESSION_HOME).ensure_credential()
os.environ.update({SERVER_CREDENTIAL: CREDENTIAL, CLIENT_CREDENTIAL: CREDENTIAL})


@dataclass(frozen=True)
class PrefectServer:
    """The session's server; `home` is the session's, not that of a test (`daybook_home`)."""

    api_url: str
    ui_url: str
    home: Home


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[PrefectServer]:
    """Our own server, as `daybook up` starts it; `PREFECT_API_URL` points at it."""
    home, address = Home(SESSION_HOME), server.api_url(SESSION_PORT)
    with start_blocking_portal("asyncio") as portal:

        async def begin() -> Child:
            child = await server.start(home, SESSION_PORT)
            costs.SERVERS.add(child.pid)
            try:
                await server.wait_until_healthy(address, 120.0, child=child)
            except BaseException:
                await child.terminate()
                raise
            return child

        with migrated(home):
            child = portal.call(begin)
        try:
            yield PrefectServer(address, server.ui_url(SESSION_PORT), home)
        finally:
            portal.call(child.terminate)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """The PostgreSQL server of this machine; skips the test when there is none."""
    from tests import databases

    with databases.server() as found:
        yield found


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """An empty database for a ledger, of each kind."""
    from tests import databases

    path = tmp_path / "ledger.db"
    return databases.of_kind(request.param, path, databases.server_of(request))


@pytest.fixture
def daybook_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A fresh home, which `DAYBOOK_HOME` names for this test and the processes it begins."""
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path / "home"))
    return Home(tmp_path / "home").make()


@pytest.fixture
async def world(
    prefect_server: PrefectServer, daybook_home: Home, tmp_path: Path
) -> AsyncIterator[World]:
    """A home with its ledger, agents and workers at the session's Prefect."""
    from tests.world import at_prefect

    async with at_prefect(tmp_path, prefect_server) as world:
        yield world


@pytest.fixture
def snapshot(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with the file of that name in `tests/snapshots`, or write that file."""

    def compare(name: str, text: str) -> None:
        path = REPOSITORY / "tests" / "snapshots" / name
        if request.config.getoption("--write-snapshots"):
            path.write_text(text)
        assert text.splitlines() == path.read_text().splitlines()

    return compare


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-snapshots", action="store_true", help="write tests/snapshots instead of comparing"
    )
    parser.addoption(
        "--cpu-seconds", type=float, default=math.inf, help="fail if all tests use more of them"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(costs.Costs(config.getoption("--cpu-seconds")))


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with long tests first: of those that run at a time, none is left alone at the end.

    A case on PostgreSQL is `slow` unless its test is marked `dialect`: `make test` runs only those
    that can differ between the databases, `make test-all` runs every case on both.
    """
    long = {item.path for item in items if any(map(item.get_closest_marker, ("e2e", "slow")))}
    items.sort(key=lambda item: item.path not in long)
    for item in items:
        case = getattr(item, "callspec", None)
        if (
            case is not None
            and "postgresql" in case.id.split("-")
            and item.get_closest_marker("dialect") is None
        ):
            item.add_marker(pytest.mark.slow)
        # Longer than `make test` gives the others: the first of them starts Prefect's server.
        with_prefect = "prefect_server" in getattr(item, "fixturenames", ())
        if with_prefect and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(120))


def pytest_collection_finish() -> None:
    """Exclude what exists by now from garbage collection: 9,000 test items make it slow."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    shutil.rmtree(SESSION_HOME, ignore_errors=True)
