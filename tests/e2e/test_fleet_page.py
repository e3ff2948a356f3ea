"""`docs/operations/fleet.md` as printed, on three hosts with real `daybook up`s.

host-3 has PostgreSQL and Prefect. host-1 is the first machine, and host-2 the next one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg  # type: ignore[import-untyped]
import pytest

from chaos import hosts, standby
from chaos.hosts import Host, Network
from chaos.standby import Databases
from daybook.processes import children
from daybook.processes.children import Child
from tests.conftest import REPOSITORY
from tests.servers import start_prefect

MISSING = hosts.missing() or standby.missing()
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(bool(MISSING), reason=f"service absent: {MISSING}"),
]
PAGE = (REPOSITORY / "docs/operations/fleet.md").read_text()


def block(title: str, number: int = 0) -> str:
    """Return the commands of a block of the page's section ``title``."""
    (section,) = re.findall(rf"^## {title}$(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    blocks = re.findall(r"^```sh\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    return str(blocks[number])


@dataclass(frozen=True)
class Machine:
    """A machine of the fleet: ``folder`` is the current one, and contains the home."""

    host: Host
    folder: Path
    names: Path

    async def run(self, script: str) -> str:
        """Run commands in a shell, which ends at the first one that fails; return the output."""
        variables = {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": str(REPOSITORY),
            "HOME": str(self.folder),
            "DAYBOOK_HOME": str(self.folder / "home"),
            "DAYBOOK_NO_BROWSER": "1",
        }
        # The names of the page lead to host-3.
        see_names = ("unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"')
        command = [*see_names, str(self.names), "bash", "-euc", script]
        child = await children.start(
            "reader",
            self.host.command(command),
            environment=variables,
            log=self.folder / "reader.log",
            folder=self.folder,
        )
        code = await child.wait()
        printed = child.tail(10_000)
        assert code == 0, printed
        return printed


@asynccontextmanager
async def services(network: Network, folder: Path) -> AsyncIterator[None]:
    """Start PostgreSQL with an empty database, and Prefect, on host-3."""
    databases = Databases.on(network.server)
    databases.ports[databases.primary] = 5432
    started = list[Child]()
    try:
        await databases.create()
        started.append(await databases.start(databases.primary))
        await databases.allow_checks()  # it answers
        maintenance = await asyncpg.connect(
            host=network.server.address, user=standby.USER, database="postgres"
        )
        await maintenance.execute("CREATE DATABASE daybook")
        await maintenance.close()
        address = ("--host", "0.0.0.0", "--port", "4200")  # in its own network
        prefect = await start_prefect(
            folder / "prefect", "start", *address, on_host=network.server.command
        )
        started.append(prefect)
        yield
    finally:
        for each in reversed(started):
            await each.terminate()
        databases.remove()


@pytest.fixture
def network() -> Iterator[Network]:
    with hosts.network() as found:
        yield found


def machines(network: Network, folder: Path) -> list[Machine]:
    names = folder / "hosts"
    server = network.server.address
    names.write_text(f"127.0.0.1 localhost\n{server} db prefect.example\n")
    found = [Machine(network.hosts[n], folder / f"machine-{n}", names) for n in (1, 2)]
    for each in found:
        each.folder.mkdir()
    return found


async def test_a_second_machine_joins_as_the_page_says(network: Network, tmp_path: Path) -> None:
    first, second = machines(network, tmp_path)
    async with services(network, tmp_path):
        try:
            await first.run(
                "daybook up --detach\n"
                'daybook add "every day at 9:00" "Hello" --name brief\n'
                "daybook run brief --wait\n"
            )
            (first.folder / "ledger-address").write_text("postgresql://daybook@db/daybook\n")
            await first.run(block("The first machine"))
            shutil.copy(first.folder / "invitation.json", second.folder)
            await second.run(block("The next machine"))

            listed = json.loads(await second.run("daybook workers list --json"))
            names = {each["host"]: each["name"] for each in listed}
            assert names.keys() == {"host-1", "host-2"}
            assert [each["state"] for each in listed] == ["online", "online"]

            drain = block("The workers").replace("host-1a2b3c", names["host-1"]).splitlines()
            assert len(drain) == 3
            await second.run("\n".join(drain[:2]))
            started = json.loads(await first.run("daybook run brief --wait --json"))
            assert (started["status"], started["worker"]) == ("succeeded", names["host-2"])
            await second.run(drain[2])
            runs = json.loads(await second.run("daybook runs brief --json"))
            assert [each["status"] for each in runs] == ["succeeded", "succeeded"]
        finally:
            for each in (second, first):
                await each.run("daybook down || true")
