"""Names of the workers of a home that `daybook worker` starts.

The worker of `daybook up` has the name `Home.worker_name`, such as `host-1a2b3c`. Each further
worker gets the first number that no living process of the home has: `host-1a2b3c-2`, `-3` and so
on. So the names come from the machine and the home, and stay the same after a restart. If two
processes have one name nevertheless, such as on a cloned machine, each finds the other in the
ledger (`workers.Rival`).
"""

from __future__ import annotations

import fcntl
import os
from itertools import count

from daybook.home import Home

FIRST_NUMBER = 2


def reserve(home: Home) -> tuple[str, int]:
    """Return a free name, and the descriptor that reserves it until it is closed.

    Raise OSError, for instance if the disk is full.
    """
    folder = home.make().path / "workers"
    home.make_worker_id()
    folder.mkdir(mode=0o700, exist_ok=True)
    for number in count(FIRST_NUMBER):
        name = f"{home.worker_name}-{number}"
        descriptor = os.open(folder / str(number), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            # No program that this process starts inherits the lock.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
        else:
            return name, descriptor
    raise AssertionError("there is always another number")
