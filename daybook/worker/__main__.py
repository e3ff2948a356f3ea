"""Entry point of ``python -m daybook.worker``, the worker of `daybook worker` and `daybook up`.

While its event loop runs, the worker writes to the descriptor ``--pulse`` at regular intervals
(`processes.children.Pulse`).

The first SIGINT or SIGTERM stops the worker gracefully (`Timing.shutdown_wait`); a second one ends
the active runs at once.
"""

from __future__ import annotations

from daybook import home
from daybook.processes import garbage, output, proc

proc.deny_inspection()
output.survive_full_disk()
garbage.collect_rarely()
home.configure_prefect()  # before the import of Prefect, which reads its environment once

import argparse
import asyncio
import os
import signal
import sys
from contextlib import suppress

from prefect.settings import get_current_settings

from daybook.errors import DaybookError
from daybook.operations.worker import HEARTBEAT_SECONDS, HEARTBEAT_VARIABLE
from daybook.prefect import client as connection
from daybook.processes import children, environment, image
from daybook.worker import names
from daybook.worker.prefect_worker import DaybookWorker


async def _work(worker: DaybookWorker, once: bool, pulse: int | None) -> None:
    loop = asyncio.get_running_loop()
    garbage.settle_soon()
    reporting = None if pulse is None else asyncio.create_task(children.report_pulse(pulse))
    working = asyncio.create_task(worker.start(run_once=once))
    signals = 0

    def stop() -> None:
        nonlocal signals
        signals += 1
        if signals == 1:
            working.cancel()
        else:
            worker.force_stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    with suppress(asyncio.CancelledError):
        await working
    if reporting is not None:
        reporting.cancel()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="daybook worker")
    parser.add_argument("--pool", required=True)
    parser.add_argument("--name")
    parser.add_argument("--queue", action="append", default=[])
    parser.add_argument("--limit", type=int)
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--pulse", type=int)
    given = parser.parse_args(arguments)
    environment.set_search_path()
    forked_from = image.fork_again()  # before there is an event loop or a thread
    worker = DaybookWorker(
        work_pool_name=given.pool,
        work_queues=given.queue,
        name=given.name or names.reserve(home.current_home())[0],
        limit=given.limit,
        heartbeat_interval_seconds=None if HEARTBEAT_VARIABLE in os.environ else HEARTBEAT_SECONDS,
    )
    worker.is_restarted, worker.image = given.pulse is not None, forked_from
    try:
        with connection.raising_daybook_errors(str(get_current_settings().api.url)):
            asyncio.run(_work(worker, given.once, given.pulse))
    except DaybookError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return children.EXIT_TOO_MUCH_MEMORY if worker.used_too_much_memory else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
