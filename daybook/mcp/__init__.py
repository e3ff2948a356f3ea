"""The MCP server: the tools of `daybook.toolbox` on stdio, and on HTTP with bearer tokens.

::

    a client ──► stdio ────────────────────────────► server ──► toolbox.call, as --owner
    a client ──► http: AllowedNames, BearerGuard ──► server ──► toolbox.call, as the token's owner
    a client subscribes ──► resources ──► wakes ──► notified when its task session is woken

The `mcp` package implements the protocol. Its low-level server uses our schemas unchanged, and
needs two thirds of the startup time of the frameworks built on it. The first tool that needs
Prefect imports it; the startup does not. On stdio, stdout belongs to the protocol: printed text and
logs go to stderr.

Pitfall: over HTTP, a handler does not run in the task of its request. So the server reads the actor
from the request's scope, not from a context variable. A client may disconnect at any time, but a
write to the ledger is never cancelled in the middle (see `wakes`).
"""
