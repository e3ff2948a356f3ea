"""The MCP server: the tools of `daybook.toolbox` on stdio, and on HTTP with bearer tokens.

::

    a client ──► stdio ──────────────► server ──► toolbox.call, as the owner of --owner
    a client ──► http: Names, Bearer ──► server ──► toolbox.call, as the owner of its token
    it subscribes ──► resources ──► wakes ──► told when its task session is woken

The protocol is the `mcp` package's, by its low-level server: our schemas stand as they are, and it
starts in two thirds of the time of the frameworks above it. Prefect is imported by the first tool
that needs it, not at the start. On stdio stdout is the protocol's alone: what anything prints goes
to stderr, and so do the logs.

Pitfall: over HTTP a handler runs in a task that is not its request's, so for whom it works is read
from the request's scope and not from a context variable that was set around it. No write of the
ledger is cancelled in its middle, who may go at any time as a client may: see `wakes`.
"""
