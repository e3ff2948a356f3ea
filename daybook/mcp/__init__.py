"""The MCP server: the tools of `daybook.toolbox` on stdio, and on HTTP with bearer tokens.

::

    a client ──► stdio ────────────────────────────► server ──► toolbox.call, as --owner
    a client ──► http: AllowedNames, BearerGuard ──► server ──► toolbox.call, as the token's owner
    a client subscribes ──► resources ──► wakes ──► notified when its task session is woken

The `mcp` package implements the protocol. Its low-level server uses our schemas unchanged, and
starts in two thirds of the time of the frameworks built on it. Prefect is imported by the first
tool that needs it, not at startup. On stdio, stdout belongs to the protocol: printed text and logs
go to stderr.

Pitfall: over HTTP a handler runs in a task other than its request's, so the actor is read from the
request's scope and not from a context variable. A client may disconnect at any time; a write to the
ledger is never cancelled in the middle (see `wakes`).
"""
