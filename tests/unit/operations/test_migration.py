"""The migration of a new ledger by `up`: in a fork, so that `up` itself imports nothing for it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from daybook.home import Home

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="an image forks only on Linux")

PROGRAM = """
import asyncio, json, sys
from daybook import home
from daybook.ledger.engine import open_ledger
from daybook.operations import migration
from daybook.processes import image

forked = image.fork(lambda: None)
async def main():
    await migration.migrate(home.current_home().make(), forked)
    async with open_ledger() as ledger:
        print(json.dumps([ledger.id, "alembic" in sys.modules]))
asyncio.run(main())
forked.close()
"""


def test_a_new_ledger_is_created_in_a_fork(daybook_home: Home) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={"DAYBOOK_HOME": str(daybook_home.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ledger_id, has_migrated = json.loads(done.stdout)
    assert ledger_id and not has_migrated
