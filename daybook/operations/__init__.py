"""Operation of Daybook on one machine: its processes, reports on their state, and its servers.

::

    processes   up                 `daybook up` and `down`: everything below, in the foreground
                home_lock          the lock of the home, and the record of what runs
                prefect_selection  the configured Prefect, or a `server` of our own
                preparation        the part of the start that talks to Prefect, in a process that
                                   ends: `setup`, the example job, the first sync
                setup              block types, restored blocks, work pool, agent `default`
                worker, web        child processes; `supervision` restarts one that ends
                service            `up` as a service: `service_units` has its texts, and
                                   `service_manager` the reports of `up` to systemd
                keeper             a keeper as a process of its own
    reports     findings           the model of a finding, and the diagnoses that reports share
                status             running processes, due times, and findings
                doctor             all checks: `checks` has one module per subject
                health             state and metrics for monitors; `shared_query` shares one query
                outbox_status      the outbox, with its findings
    servers     login, peers, browser     access to our Prefect server
                host_names, connections   guards and limits of our own HTTP servers

    up.lock   held (flock) by the running `daybook up`; a second one is refused
    up.json   what it runs: `home_lock.UpRecord`, rewritten at each change
    logs/     output of its children: `processes.children.Child`

`up` starts in this order: hold the lock of the home, end the leftovers from a killed `up`, open the
ledger, find or start Prefect, start the health page, `preparation`, start the worker
and the command server (`cli.command_server`); `supervision.supervise` runs for each child. It stops
in the reverse order.

Pitfalls: each run's process leads a session of its own, so ending the worker's process group is not
enough (`processes.proc.process_tree`), and the worker needs time to record the outcomes of the runs
that it ends (`worker.GRACE_SECONDS`). `home_lock` imports no Prefect, so that `down` is fast.
"""
