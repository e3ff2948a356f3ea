"""Prefect's command `prefect server`, for the API replicas and the services of a fleet.

`python -m daybook.operations.prefect_server start --no-services --port 4201` is `prefect server
start --no-services --port 4201`, but for what `server.improve` changes in this process. So the
options `--workers` and `--background`, with which Prefect starts other processes, are useless here.
The settings are in `docs/operations/replicas.md`.
"""

from __future__ import annotations

import runpy
import sys
import threading

from daybook.operations import server
from daybook.processes import garbage, open_files


def main() -> None:
    """Run the command in this process, with the arguments of this process."""
    garbage.collect_rarely()
    settling = threading.Timer(garbage.SETTLE_SECONDS, garbage.settle)
    settling.daemon = True
    settling.start()
    open_files.raise_limit(server.MAX_OPEN_FILES)
    server.improve()
    sys.argv[1:] = ["server", *sys.argv[1:]]
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
