"""Operation of Daybook on one machine: its processes, its ledger, and its servers.

::

    processes   up                 `daybook up` and `down`: everything below, in the foreground
                home_lock          the lock of the home, and the record of its processes
                prefect_selection  the configured Prefect, or a `server` of our own
                prefect_database   the size of that server's database, and its free space
                preload            the modules that the children share, because `up` forks them
                preparation        the part of the start that talks to Prefect, in a process that
                                   ends: `setup`, the example job, the first sync
                setup              block types, restored blocks, work pool, agent `default`
                worker, web        child processes; `supervision` restarts a child that ends, or
                                   that does not answer (`liveness`)
                upgrade            restart of `up` on another version that was installed
                service            `up` as a service: `service_units` has its texts, and
                                   `service_manager` the reports of `up` to systemd
                keeper             a keeper as a process of its own
                versions           the versions that this installation requires
    the ledger  ledger_move        copies the ledger to another database, and changes the setting
    servers     login, peers, browser     access to our pages and our Prefect server
                prefect_login             the login for our Prefect server
                host_names, connections   guards and limits of our own HTTP servers

    up.lock   held (flock) by the running `daybook up`; a second `up` is refused
    up.json   the processes of `up`: `home_lock.UpRecord`, rewritten at each change
    logs/     output of the children: `processes.children.Child`
    port, web-port   the ports of the last start, for the next start

`up` starts in this order, and stops in the reverse order:

1. hold the lock of the home, and end the leftovers from a killed `up`
2. open the ledger
3. find or start Prefect
4. start the health page
5. run `preparation`
6. start the worker and the command server (`cli.command_server`)

`supervision.supervise` runs for each child.

Pitfalls: each run's process leads its own process session, so it is not enough to end the worker's
process group (`processes.proc.process_tree`). The worker needs time to record the outcomes of the
runs that it ends (`worker.GRACE_SECONDS`). `home_lock` does not import Prefect, so that `down` is
fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from daybook import modules_at_first_use

if TYPE_CHECKING:
    from daybook.operations import (  # noqa: I001 - one line for each name
        browser as browser,
        connections as connections,
        home_lock as home_lock,
        host_names as host_names,
        keeper as keeper,
        ledger_move as ledger_move,
        ledger_setting as ledger_setting,
        liveness as liveness,
        login as login,
        peers as peers,
        prefect_database as prefect_database,
        prefect_login as prefect_login,
        prefect_selection as prefect_selection,
        prefect_server as prefect_server,
        preload as preload,
        preparation as preparation,
        server as server,
        service as service,
        service_manager as service_manager,
        service_units as service_units,
        setup as setup,
        supervision as supervision,
        up as up,
        upgrade as upgrade,
        versions as versions,
        web as web,
        worker as worker,
    )

else:  # hide this from mypy, which would accept any name
    __getattr__, __dir__ = modules_at_first_use(__name__)
