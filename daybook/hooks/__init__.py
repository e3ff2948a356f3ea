"""Hooks: signed requests from outside that start a job, ``POST /hooks/<name>``.

::

    request ──► web.hooks ──► index ──► signatures ──► filters ──► api.hooks.deliver ──► a run
                limits        copies    sender,        may be      one for each          waits
                              in the    time, id       ignored     delivery id
                              ledger

A hook is a settings document (`documents`), written like a secret or a destination. The web server
reads the copies in the ledger (`index`), so that it needs neither Prefect nor a key of its own.
`signatures` has the schemes by which a request proves who sent it, and `filters` the conditions on
its payload. The run has the delivery's id in its key, so a repeated delivery is the same run, and
the keeper gives the run its Prefect run, as it does for every waiting one.
"""
