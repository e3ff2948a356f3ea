"""Free ports, Prefect servers, and a migrated database for them."""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from importlib.metadata import version
from itertools import cycle
from pathlib import Path

import anyio

from daybook.home import Home
from daybook.operations import server
from daybook.processes import children
from daybook.processes.children import Child

# Below the ephemeral range of Linux and macOS, so the system assigns such a port to no connection
# and no listener on port 0 before the test's server starts. Each test process has its own offset.
_BEGIN, _COUNT = 10_000, 20_000
_numbers = cycle(_BEGIN + (os.getpid() * 101 + each) % _COUNT for each in range(_COUNT))

# Prefect needs 5 to 12 seconds to migrate an empty database, so tests keep the first server's
# database for the next ones, one file for each version of Prefect.
_MIGRATED = Path(__file__).parents[1] / ".pytest_cache" / f"prefect-{version('prefect')}.db"


NOWHERE = "http://127.0.0.1:9/api"
"""A Prefect that does not answer: nothing listens on port 9 (discard) of a machine that tests."""


def free_port() -> int:
    """Return a port on which nothing listens, a different one at each call."""
    return next(port for port in _numbers if server.free_port(port) == port)


async def start_prefect(
    folder: Path,
    *words: str,
    settings: Mapping[str, str] | None = None,
    on_host: Callable[[list[str]], list[str]] = list,
    command: Sequence[str] = ("prefect", "server"),
) -> Child:
    """Start ``prefect server WORDS`` as a person does, with no settings but these.

    Another ``command`` has the same words, such as that of the fleet's units.
    Its data and its log, which has the name of the first word, are in ``folder``. ``on_host``
    returns the command line that runs a command on another host.
    """
    await anyio.Path(folder).mkdir(exist_ok=True)
    own = ("PREFECT_", "DAYBOOK_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(own)}
    return await children.start(
        words[0],
        on_host([sys.executable, "-m", *command, *words]),
        environment={**clean, "PREFECT_HOME": str(folder), "DO_NOT_TRACK": "1", **(settings or {})},
        log=folder / f"{words[0]}.log",
        folder=folder,
    )


def migrate(home: Home) -> Home:
    """Copy the kept database into the home, if there is one and the home has none."""
    database = home.make().prefect / "prefect.db"
    if _MIGRATED.exists() and not database.exists():
        shutil.copy(_MIGRATED, database)
        database.chmod(0o600)
    return home


@contextmanager
def migrated(home: Home) -> Iterator[None]:
    """Give the home a migrated database; the body starts its server and waits until it is healthy.

    If no database is kept yet, keep this home's; other test processes wait for it.
    """
    _MIGRATED.parent.mkdir(exist_ok=True)
    with _MIGRATED.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _MIGRATED.exists():
            fcntl.flock(lock, fcntl.LOCK_UN)
        migrate(home)
        yield
        if not _MIGRATED.exists():
            copy = _MIGRATED.with_suffix(".new")
            with (
                closing(sqlite3.connect(home.prefect / "prefect.db")) as there,
                closing(sqlite3.connect(copy)) as copied,
            ):
                there.backup(copied)
            copy.replace(_MIGRATED)
