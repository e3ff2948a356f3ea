"""Restart of `daybook up` on another version that was installed while it runs (decision 0074).

::

    pip install -U ──► the list of the distribution's files differs, twice in a row
                   ──► the new version starts, and supports the ledger's schema; otherwise `up`
                       reports the reason and continues
                   ──► no run is active, at the latest after `QUIET_TIMEOUT_SECONDS`
                   ──► everything stops as for `daybook down`
                   ──► `up` replaces its process with the new version, which migrates the ledger

The process keeps its pid. So a service manager, a terminal or a container does not treat it as
ended. The new version checks itself with `python -m daybook.operations.upgrade SCHEMA`.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import time
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import NoReturn

from daybook import __version__, repository
from daybook.errors import DaybookError, LedgerNewer, LedgerUnreachable
from daybook.ledger import schema
from daybook.ledger.engine import Ledger
from daybook.ledger.states import HELD
from daybook.operations import versions
from daybook.operations.server import absolute_python_path
from daybook.runs import history

CHECK_INTERVAL_SECONDS = 10.0
QUIET_TIMEOUT_SECONDS = 300.0
"""Maximum time that a restart waits until no run is active.

Then it stops the runs as `down` does.
"""
QUIET_POLL_INTERVAL_SECONDS = 1.0
TRIAL_TIMEOUT_SECONDS = 300.0
_IMPORTED = ("daybook.operations.up", "daybook.worker.prefect_worker", "daybook.cli.main")
"""Modules that the new version must be able to import."""


def installed() -> str:
    """Return the list of installed files with their hashes. A new installation changes this list.

    Return "" while an installer replaces the files, and if Daybook runs from source.
    """
    try:
        return metadata.distribution(repository.DISTRIBUTION).read_text("RECORD") or ""
    except (metadata.PackageNotFoundError, OSError, ValueError):
        return ""


async def until_installed(
    ledger: Ledger, running: str, say: Callable[[str], None], has_worker: Callable[[], bool]
) -> None:
    """Wait until this `up` should restart on another version than ``running``.

    ``running`` is the result of `installed` when this process was started. ``has_worker`` returns
    whether the worker of this `up` is running. If a new version does not start, report the reason
    and wait for the next one.
    """
    last_seen = refused = running
    while True:
        await asyncio.sleep(CHECK_INTERVAL_SECONDS)
        found = await asyncio.to_thread(installed)
        is_settled, last_seen = found == last_seen, found
        if found in (running, refused) or not is_settled:
            continue
        version, why = await _try_new_version()
        if not why:
            break
        refused = found
        say(f"Another version was installed, but does not start, so this one continues: {why}")
    minutes = QUIET_TIMEOUT_SECONDS / 60
    say(
        f"Daybook {version} was installed: restarting when no run is active, at the latest in "
        f"{minutes:g} minutes"
    )
    await _until_quiet(ledger, has_worker)


async def _try_new_version() -> tuple[str, str]:
    """Return the installed version and "" if that version starts.

    Otherwise return "" and the reason.
    """
    command = [sys.executable, "-P", "-m", "daybook.operations.upgrade", schema.head()]
    try:
        trial = await asyncio.create_subprocess_exec(
            *command,
            env={**os.environ, **absolute_python_path()},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        return "", str(error)
    try:
        async with asyncio.timeout(TRIAL_TIMEOUT_SECONDS):
            output, errors = await trial.communicate()
    except TimeoutError:
        return "", f"it takes more than {TRIAL_TIMEOUT_SECONDS:.0f} s"
    finally:
        if trial.returncode is None:
            trial.kill()
            await trial.wait()
    if trial.returncode == 0:
        return output.decode().strip(), ""
    lines = errors.decode(errors="replace").strip().splitlines()
    return "", (lines or [f"exit code {trial.returncode}"])[-1]


async def _until_quiet(ledger: Ledger, has_worker: Callable[[], bool]) -> None:
    end = time.monotonic() + QUIET_TIMEOUT_SECONDS
    while time.monotonic() < end:
        try:
            async with ledger.read() as session:
                if not any(run.state in HELD for run in await history.live(session)):
                    return
        except LedgerNewer:
            if not has_worker():  # it ends when none of its runs is active
                return
        except LedgerUnreachable:
            pass
        await asyncio.sleep(QUIET_POLL_INTERVAL_SECONDS)


def restart(environment: Mapping[str, str]) -> NoReturn:
    """Replace this process with the same command of the installed version, in ``environment``."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], dict(environment))


def main() -> int:
    """Check that this installation works with a ledger of the schema in the program's argument.

    Print the version. If the check fails, print the reason. Return the exit code.
    """
    try:
        versions.require_versions()
        schema.check_known(sys.argv[1])
    except DaybookError as error:
        print(str(error).replace("\n", " "), file=sys.stderr)
        return error.exit_code
    for name in _IMPORTED:
        importlib.import_module(name)
    print(__version__)
    return 0


if __name__ == "__main__":
    sys.exit(main())
