"""Fixtures: one Prefect server for the whole session, and a separate home for each test.

The environment is set here, before any test module imports Prefect, which reads it once. So no test
can reach the developer's own Prefect or `~/.daybook`. The server itself starts at the first use of
`prefect_server`; without that fixture a test's connection to Prefect is refused, also after other
tests of this process have used it.
"""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import certifi
import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import settings
from xdist.remote import Producer  # type: ignore[import-untyped]
from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

from daybook.home import CLIENT_CREDENTIAL, SERVER_CREDENTIAL, Home
from daybook.operations import server
from daybook.prefect import client as connection
from daybook.prefect import private_names
from daybook.processes import garbage
from daybook.processes.children import Child
from daybook.timing import TIMING
from tests import costs
from tests.servers import NOWHERE, free_port, migrated

if TYPE_CHECKING:
    from tests.commands import Daybook
    from tests.databases import Database, Server
    from tests.world.prefect_world import PrefectWorld

# The speed of an example on a loaded machine is not what a test checks.
settings.register_profile("without a deadline", deadline=None)
settings.load_profile("without a deadline")
settings.register_profile("few", max_examples=settings().max_examples // 10, deadline=None)

REPOSITORY = Path(__file__).parent.parent
SESSION_HOME = Path(tempfile.mkdtemp(prefix="daybook-tests-"))
SESSION_PORT = free_port()

# A script's shell makes its background processes ignore SIGINT, and the tests' processes would
# inherit that. Prefect's worker command stops by SIGINT, also after SIGTERM.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

for _name in [n for n in os.environ if n.startswith(("PREFECT_", "DAYBOOK_"))]:
    del os.environ[_name]
# No test calls a provider of the developer, or creates an agent with their key.
for _name in [n for n in os.environ if n.endswith(("_API_KEY", "_BASE_URL", "_AUTH_TOKEN"))]:
    del os.environ[_name]
# Nor do they find a program or a local server of the developer for the agent `default`.
os.environ["_DAYBOOK_MACHINE"] = '{"path": "", "ports": {}}'
# Command output has the same width and no colours on every machine.
for _name in ("COLUMNS", "LINES", "FORCE_COLOR", "TTY_COMPATIBLE"):
    os.environ.pop(_name, None)
os.environ["DAYBOOK_HOME"] = str(SESSION_HOME)
# Prefect's second scheduler queues recent changes at unpredictable moments. Switch it off, so that
# queued runs come from our requests. The first scheduler, once a minute, stays on.
os.environ["PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS"] = "3600"
# Child processes run in other folders; from an uninstalled checkout they need this path.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
)
os.environ.update(server.environment(Home(SESSION_HOME).make(), SESSION_PORT))
# Each server of a test requires this credential, and its clients have to send it.
CREDENTIAL = Home(SESSION_HOME).ensure_credential()
os.environ.update({SERVER_CREDENTIAL: CREDENTIAL, CLIENT_CREDENTIAL: CREDENTIAL})


# On a loaded machine Prefect's answer may take longer than a person would wait.
_patient = replace(TIMING, prefect_answer=timedelta(seconds=20))
vars(connection)["TIMING"] = _patient
os.environ.update(_patient.environment())


def _trust_one_authority() -> None:
    """Make HTTP clients load the certificate of one authority, and not all 140.

    No test connects to a public address, and each client needs 20 ms of CPU to load them all. So
    does each command, and each process that a test starts, to check the file of `SSL_CERT_FILE`.
    """
    end = "-----END CERTIFICATE-----\n"
    first, _, _ = Path(certifi.where()).read_text().partition(end)
    one = SESSION_HOME / "authority.pem"
    one.write_text(first + end)
    public = {certifi.where(), os.environ.get("SSL_CERT_FILE", certifi.where())}
    create = ssl.create_default_context

    def create_default_context(*given: Any, **named: Any) -> ssl.SSLContext:
        if named.get("cafile") in public:
            named["cafile"] = str(one)
        return create(*given, **named)

    os.environ["SSL_CERT_FILE"] = str(one)
    paths = ssl.get_default_verify_paths()._replace(openssl_cafile=str(one), openssl_capath="")
    ssl.create_default_context = create_default_context
    ssl.get_default_verify_paths = lambda: paths


_trust_one_authority()


@dataclass(frozen=True)
class PrefectServer:
    """The session's server; `home` is the session's home, not the test's (`daybook_home`)."""

    api_url: str
    ui_url: str
    home: Home


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[PrefectServer]:
    """Run our own server as `daybook up` does; `PREFECT_API_URL` points at it."""
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
            _send_queued_logs()
            portal.call(child.terminate)


def _send_queued_logs() -> None:
    """Send what Prefect's threads hold back; at exit, they would retry at a server that is gone."""
    for module, name in (
        ("prefect.logging.handlers", "APILogWorker"),
        ("prefect.events.worker", "EventsWorker"),
    ):
        if module in sys.modules:
            getattr(sys.modules[module], name).drain_all(timeout=10)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Server]:
    """Return the PostgreSQL server of this machine; skip the test if there is none."""
    from tests import databases

    with databases.server() as found:
        yield found


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    """Return an empty database for a ledger, of each kind."""
    from tests import databases

    path = tmp_path / "ledger.db"
    return databases.of_kind(request.param, path, databases.server_of(request))


@pytest.fixture
def daybook_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Return a fresh home; `DAYBOOK_HOME` names it for this test and its child processes."""
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path / "home"))
    return Home(tmp_path / "home").make()


@pytest.fixture
def daybook(capsys: pytest.CaptureFixture[str]) -> Daybook:
    """Return a function that runs a command in this process: `daybook("list", "--json")`."""
    from tests.commands import run

    return partial(run, capsys)


@pytest.fixture
async def world(
    prefect_server: PrefectServer, daybook_home: Home, tmp_path: Path
) -> AsyncIterator[PrefectWorld]:
    """Yield a home with its ledger, agents and workers at the session's Prefect."""
    from tests.world.home import at_prefect

    async with at_prefect(tmp_path, prefect_server) as world:
        yield world


@pytest.fixture(scope="module")
async def module_world(
    anyio_backend: str, prefect_server: PrefectServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[PrefectWorld]:
    """Yield a home at the session's Prefect, with one worker for all tests of a module."""
    from tests.world.home import with_worker

    async with with_worker(tmp_path_factory.mktemp("working"), prefect_server) as world:
        yield world


@pytest.fixture
async def working(module_world: PrefectWorld) -> AsyncIterator[PrefectWorld]:
    """Yield the module's home and worker; wait until the test's runs have ended."""
    yield module_world
    for gate in module_world.workers.gates:
        gate.release()
    await module_world.workers.idle(within=20.0)


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
        "--budget",
        type=int,
        default=0,
        help="most CPU time, in imports of Prefect",
    )

    parser.addoption(
        "--repeats",
        type=int,
        default=1,
        metavar="N",
        help="run one in N of the cases that repeat a test on PostgreSQL, others for each commit",
    )
    parser.addoption(
        "--slice", metavar="K/N", help="run the K-th of N parts of the selected tests, by CPU time"
    )
    parser.addoption(
        "--write-costs", action="store_true", help="write the CPU time of each file for --slice"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(
        costs.Costs(config.getoption("--budget"), write=config.getoption("--write-costs"))
    )


@pytest.hookimpl(tryfirst=True)  # before `-m` selects
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the slow cases, and sort the files.

    A case on PostgreSQL is `slow` unless its test is marked `dialect`: `make test` runs only the
    cases that can differ between the databases, `make test-all` runs every case on both.

    The longest files come first, so that none of them runs alone at the end: those at Prefect,
    those with processes, then those with the most cases.
    """
    repeats = list[pytest.Item]()
    for item in items:
        case = getattr(item, "callspec", None)
        if (
            case is not None
            and "postgresql" in case.id.split("-")
            and item.get_closest_marker("dialect") is None
        ):
            item.add_marker(pytest.mark.slow)
            repeats.append(item)
        with_prefect = "prefect_server" in getattr(item, "fixturenames", ())
        # Longer than the default of `make test`: the first of these tests starts Prefect's server.
        if with_prefect and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(120))
    if (share := config.getoption("--repeats")) > 1:
        left_out = {item for item in repeats if not _is_chosen(item.nodeid, share)}
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=list(left_out))
    with_processes = {item.path for item in items if item.get_closest_marker("e2e")}
    cases = Counter(item.path for item in items)
    items.sort(
        key=lambda item: (
            not _at_prefect(item.nodeid),
            item.path not in with_processes,
            -cases[item.path],
        )
    )


@cache
def _commit() -> str:
    head = ["git", "rev-parse", "HEAD"]
    found = subprocess.run(head, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    return found.stdout.strip()


def _is_chosen(nodeid: str, share: int) -> bool:
    """Return whether this commit runs the case; of each ``share`` commits about one does."""
    return zlib.crc32(f"{_commit()} {nodeid}".encode()) % share == 0


AT_PREFECT = (
    "tests/e2e/",
    "tests/flows/",
    "tests/contract/agents/test_documents.py",
    "tests/contract/agents/test_model_documents.py",
    "tests/contract/channels/",
    "tests/contract/delivery/",
    "tests/contract/http/",
    "tests/contract/tools/test_server_blocks.py",
)
"""The files whose tests are at the session's Prefect, but for those with servers of their own."""
OWN_SERVERS = tuple(
    f"tests/e2e/test_{name}.py" for name in ("command_server", "first_light", "tasks_cli")
)


def _at_prefect(nodeid: str) -> bool:
    return nodeid.startswith(AT_PREFECT) and not nodeid.startswith(OWN_SERVERS)


class OnePrefect(LoadScopeScheduling):  # type: ignore[misc]
    """Distributes whole files, but all files at Prefect to one process: so there is one server."""

    def _split_scope(self, nodeid: str) -> str:
        return "prefect" if _at_prefect(nodeid) else nodeid.partition("::")[0]


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> OnePrefect | None:
    """Return the scheduler of `make test`, which is chosen by `--dist loadgroup`."""
    return OnePrefect(config, log) if config.getvalue("dist") == "loadgroup" else None


@pytest.hookimpl(tryfirst=True)  # before any fixture
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Point Prefect's client at the session's server if the test uses it, else at no server.

    Fixtures cannot do that for each other: an asynchronous test does not see the context variables,
    such as `temporary_settings`, of a fixture that follows its first asynchronous one.
    """
    uses_server = "prefect_server" in getattr(item, "fixturenames", ())
    address = server.api_url(SESSION_PORT) if uses_server else NOWHERE
    if {os.environ["PREFECT_API_URL"], _address_of_prefect(address)} != {address}:
        _send_queued_logs()
        os.environ["PREFECT_API_URL"] = address
        if "prefect" in sys.modules:
            private_names.reload_settings()


def _address_of_prefect(default: str) -> str | None:
    """Return the address in Prefect's own settings; ``default`` if it has not read any yet."""
    if "prefect.settings" not in sys.modules or "prefect.context" not in sys.modules:
        return default
    from prefect.settings import get_current_settings

    return get_current_settings().api.url


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect no garbage while tests are collected, and never examine 9,000 test items later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        garbage.collect_rarely()
        gc.enable()


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Collect the sockets that Prefect leaves (`PREFECT_LEAVES_A_SOCKET`) while they are ignored.

    Otherwise they fail the next test that ignores no warning.
    """
    if _ignores_sockets(item) and not (nextitem and _ignores_sockets(nextitem)):
        gc.collect()


def _ignores_sockets(item: pytest.Item) -> bool:
    return any("unclosed <socket" in mark.args[0] for mark in item.iter_markers("filterwarnings"))


def pytest_sessionfinish() -> None:
    if (databases := sys.modules.get("tests.databases")) is not None:
        asyncio.run(databases.close_shared())


def pytest_unconfigure() -> None:
    shutil.rmtree(SESSION_HOME, ignore_errors=True)
